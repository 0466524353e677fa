# SPDX-License-Identifier: Apache-2.0
"""Live: the frames of the whole utterance, as early as the reach allows, whatever the cuts and the companions."""

import dataclasses
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import CONFIGS, CONFORMER, small_encoder
from headrace import ops
from headrace.config import is_acausal
from headrace.reach import Band
from headrace.streaming import StreamState

WAV2VEC2 = [[8, 10, 5], *[[8, 3, 2]] * 4, *[[8, 2, 2]] * 2]
LIVE = {
    **{
        name: changes
        for name, changes in CONFIGS.items()
        if changes["mixer"] != "full" and (changes.get("look_back", 0) is not None or changes["mixer"] == "summary")
    },
    "llsa hop 2, look-ahead 5": {"mixer": "llsa", "hop": 2, "look_ahead": 5},
    "llsa hop 5, look-ahead 1": {"mixer": "llsa", "hop": 5, "look_ahead": 1, "norm_first": True},
    "llsa one layer": {"mixer": "llsa", "num_layers": 1},
    "llsa look-back 0": {"mixer": "llsa", "look_back": 0},
    "sa look-back 0": {"mixer": "sa", "look_back": 0, "look_ahead": 1},
    "llsa convolutions of wav2vec 2.0": {"mixer": "llsa", "conv_layers": WAV2VEC2},
    "sa convolutions of wav2vec 2.0": {"mixer": "sa", "conv_layers": WAV2VEC2},
    "llsa window of many strides": {"mixer": "llsa", "hop": 2, "conv_layers": [[8, 90, 20], [8, 40, 16]]},
    "sa samples between windows": {"mixer": "sa", "conv_layers": [[8, 3, 5], [8, 6, 8], [8, 8, 8]]},
}
REFUSED = {
    "full": ({"mixer": "full"}, r"mixer='full' sees the whole utterance .* --mixer llsa"),
    "unbounded": ({"mixer": "sa", "look_back": None}, r"look_back=None .* --look-back 60"),
    "centred convolution": ({"mixer": "masked", "positions": "conv"}, r"positions='conv' sees the whole utterance"),
    "norm over time": ({"mixer": "masked", "conv_norm": "group_norm"}, r"'group_norm' .* conv_norm='layer_norm'"),
    "normalised waveform": ({"mixer": "masked", "normalize_waveform": True}, r"normalize_waveform=True"),
    "none without chunks": (
        {**CONFORMER, "mixer": "none", "hop": None},
        r"'none' has no chunks and .* in chunks",
    ),
}
each_live = pytest.mark.parametrize("changes", LIVE.values(), ids=LIVE)


def run_live(encoder, waveforms, cuts, hop=None, hidden_states="all"):
    """Hidden states of waveforms [N, samples], cut at the given samples."""
    state = encoder.init_state(len(waveforms), hop=hop, hidden_states=hidden_states)
    outs, begin = [], 0
    for end in [*sorted(cuts), waveforms.shape[1]]:
        out, state = encoder.step(waveforms[:, begin:end], state)
        outs.append(out)
        begin = end
    outs.append(encoder.finish(state)[0])
    given = 0
    for out in outs:
        assert (out.lengths == out.lengths[0]).all()
        assert (out.first_frame == given).all()
        given += int(out.lengths[0])
    return [torch.cat(parts, 1) for parts in zip(*(out.hidden_states for out in outs), strict=True)], outs


def assert_close(got, truth, tolerance):
    got, truth = got.detach(), truth.detach()
    assert got.shape == truth.shape
    if truth.numel():
        assert float((got - truth).abs().max()) <= tolerance * max(1.0, float(truth.abs().max()))


@each_live
@settings(max_examples=6)
@given(st.integers(0, 4000), st.lists(st.integers(0, 4000), max_size=5), st.sampled_from([1, 3]))
def test_steps_and_finish_give_the_frames_of_the_whole_utterance(changes, num_samples, cuts, hop):
    encoder = small_encoder(**changes)
    torch.manual_seed(num_samples)
    waveforms = torch.randn(2, num_samples, dtype=torch.float64)
    whole = encoder(waveforms)
    cuts = [min(cut, num_samples) for cut in cuts]
    live, outs = run_live(encoder, waveforms, cuts, hop=hop if isinstance(encoder.config.reaches[0], Band) else None)
    assert len(live) == len(whole.hidden_states)
    for got, truth in zip(live, whole.hidden_states, strict=True):
        assert_close(got, truth, 1e-12)
    assert_close(torch.cat([out.last_hidden_state for out in outs], 1), whole.last_hidden_state, 1e-12)


@pytest.mark.parametrize("name", ["llsa", "llsa hop 4", "llsa causal_conv", "sa", "sa per layer"])
def test_every_length_from_nothing_up_gives_the_frames_of_the_whole_utterance(name):
    encoder = small_encoder(**LIVE[name])
    waveform = torch.randn(1, 4000, dtype=torch.float64)
    for num_samples in [*range(0, 660, 13), 324, 325, 326, 644, 645, 646, *range(660, 4000, 331)]:
        whole = encoder(waveform[:, :num_samples])
        live, _ = run_live(encoder, waveform[:, :num_samples], [num_samples // 3], hidden_states="last")
        assert len(live) == 1
        assert_close(live[0], whole.hidden_states[-1], 1e-12)


@each_live
def test_single_precision_is_close_to_the_whole_utterance(changes):
    encoder = small_encoder(torch.float32, **changes)
    torch.manual_seed(0)
    waveforms = torch.randn(1, 8000)
    live, _ = run_live(encoder, waveforms, [1, 8, 328, 5000])
    exact = small_encoder(**changes)(waveforms.double()).hidden_states
    for got, truth, exactly in zip(live, encoder(waveforms).hidden_states, exact, strict=True):
        tolerance = 1e-5
        if changes["mixer"] == "deformable":  # a last bit moves a place: no closer than rounding leaves the truth
            rounding = (truth - exactly).abs().max() / exactly.abs().max()
            tolerance = max(tolerance, 4 * rounding.item())
        assert_close(got, truth, tolerance)


@pytest.mark.parametrize("name", ["llsa hop 4", "conformer chunked", "conformer chunked relative", "conformer summary"])
@pytest.mark.parametrize("look_backs", [(2, 9, 4), (9, 0, 5)], ids=str)
def test_each_layer_of_a_stream_has_a_look_back_of_its_own(name, look_backs):
    encoder = small_encoder(**LIVE[name])
    own = encoder.config.reaches[0]
    reaches = [dataclasses.replace(own, look_back=look_back) for look_back in look_backs]
    waveforms = torch.randn(2, 7000, dtype=torch.float64)
    state = encoder.init_state(2, hidden_states="all", reach=reaches)
    outs = [encoder.step(part, state)[0] for part in waveforms.split(1500, 1)] + [encoder.finish(state)[0]]
    for layer, truth in enumerate(encoder(waveforms, reach=reaches).hidden_states):
        assert_close(torch.cat([out.hidden_states[layer] for out in outs], 1), truth, 1e-12)


@pytest.mark.parametrize("name", ["llsa", "llsa hop 4", "sa", "masked causal_conv", "conformer chunked relative"])
def test_the_torch_path_runs_live_as_the_kernels_do(name):
    encoder = small_encoder(**LIVE[name])
    waveforms = torch.randn(2, 5000, dtype=torch.float64)
    with ops.backend("torch"):
        live, _ = run_live(encoder, waveforms, [700, 4000])
        truth = encoder(waveforms).hidden_states
    for got, expected in zip(live, truth, strict=True):
        assert_close(got, expected, 1e-12)


@each_live
def test_a_frame_comes_with_the_last_sample_that_it_may_depend_on(changes):
    encoder = small_encoder(**changes)
    ahead, reach = sum(reach.look_ahead for reach in encoder.config.reaches), encoder.config.reaches[0]
    state = encoder.init_state()
    given = 0
    stride, window = encoder.frontend.stride_samples, encoder.frontend.window_samples
    waveform, begin = torch.randn(1, 12 * stride + window, dtype=torch.float64), 0
    for end in sorted(t * stride + window + off for t in range(13) for off in (-1, 0)):
        out, state = encoder.step(waveform[:, begin:end], state)
        given, begin = given + int(out.lengths[0]), end
        known = int(encoder.frontend.num_frames(torch.tensor([end]))[0])
        if isinstance(reach, Band):
            assert given == max(0, known - ahead)
        else:  # a block comes as a whole: its first frame has waited longest
            assert given == max(0, known - reach.look_ahead) // reach.hop * reach.hop


@pytest.fixture(scope="module")
def ten_minutes():
    """An encoder, ten minutes of noise, and their frames."""
    encoder = small_encoder(torch.float32, mixer="llsa", hop=25)
    waveforms = torch.randn(1, 10 * 60 * 16000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return encoder, waveforms, encoder(waveforms).last_hidden_state


@pytest.mark.parametrize("step_samples", [16000, 10 * 60 * 16000], ids=["a second", "ten minutes"])
def test_ten_minutes_are_taken_in_seconds_or_at_once(step_samples, ten_minutes):
    encoder, waveforms, whole = ten_minutes
    live, _ = run_live(encoder, waveforms, range(step_samples, waveforms.shape[1], step_samples), hidden_states="last")
    assert_close(live[-1], whole, 1e-5)


@each_live
def test_streams_start_and_end_on_their_own(changes):
    encoder = small_encoder(**changes)
    torch.manual_seed(0)
    first, second, third = (torch.randn(1, n, dtype=torch.float64) for n in (3000, 2100, 1700))
    state = encoder.init_state(2)
    got = {name: [] for name in ("first", "second", "third")}

    def keep(out, *names):
        for row, name in enumerate(names):
            got[name].append(out.hidden_states[-1][row, : out.lengths[row]])

    both = torch.zeros(2, 900, dtype=torch.float64)
    both[0], both[1, :411] = first[0, :900], second[0, :411]
    keep(encoder.step(both, state, num_samples=torch.tensor([900, 411]))[0], "first", "second")
    keep(encoder.step(second[:, 411:], state, slots=[1])[0], "second")
    keep(encoder.finish(state, slots=[1])[0], "second")
    encoder.reset(state, slots=[1])
    swapped = torch.zeros(2, 1500, dtype=torch.float64)
    swapped[0, :700], swapped[1] = third[0, :700], first[0, 900:2400]
    keep(encoder.step(swapped, state, torch.tensor([700, 1500]), slots=[1, 0])[0], "third", "first")
    keep(encoder.step(third[:, 700:], state, slots=torch.tensor([1]))[0], "third")
    keep(encoder.step(first[:, 2400:], state, slots=[0])[0], "first")
    keep(encoder.finish(state)[0], "first", "third")
    for name, waveform in (("first", first), ("second", second), ("third", third)):
        assert_close(torch.cat(got[name])[None], encoder(waveform).hidden_states[-1], 1e-12)


@each_live
def test_a_state_is_saved_restored_and_branched(changes):
    encoder = small_encoder(**changes)
    waveform = torch.randn(1, 5000, dtype=torch.float64)
    state = encoder.init_state()
    encoder.step(waveform[:, :2222], state)
    branch = state.clone()
    file = io.BytesIO()
    torch.save(state.to_dict(), file)
    file.seek(0)
    restored = StreamState.from_dict(torch.load(file, weights_only=True))
    tails = []
    for each in (state, branch, restored):
        out, _ = encoder.step(waveform[:, 2222:], each)
        tails.append(torch.cat([out.hidden_states[0], encoder.finish(each)[0].hidden_states[0]], 1))
    assert torch.equal(tails[0], tails[1]) and torch.equal(tails[0], tails[2])
    assert_close(tails[0], encoder(waveform).hidden_states[-1][:, -tails[0].shape[1] :], 1e-12)
    with pytest.raises(ValueError, match="format version 2, got 9"):
        StreamState.from_dict({**state.to_dict(), "format_version": 9})
    with pytest.raises(ValueError, match="format version 2, got 1"):
        StreamState.from_dict({"tensors": {}, "format_version": 1})
    with pytest.raises(ValueError, match="has the fields"):
        StreamState.from_dict({"tensors": {}})


@pytest.mark.parametrize("name", ["llsa", "llsa hop 4", "sa"])
def test_ticks_of_fixed_shape_are_what_steps_run(name):
    encoder = small_encoder(**LIVE[name])
    state = encoder.init_state(2)
    clock = encoder.clock(state)
    waveforms = torch.randn(2, 15 * clock.tick_samples - clock.lead_samples, dtype=torch.float64)
    samples = torch.cat([waveforms.new_zeros(2, clock.lead_samples), waveforms], 1)
    frames = []
    for part in samples.split(clock.tick_samples, 1):
        (last,), valid = encoder.tick(part, state)
        assert valid.shape == last.shape[:2] and torch.equal(valid[0], valid[1])
        frames.append(last[:, valid[0]])
    frames = torch.cat(frames, 1)
    assert frames.shape[1] > 4
    assert_close(frames, encoder(waveforms).hidden_states[-1][:, : frames.shape[1]], 1e-12)


def test_a_state_never_grows():
    encoder = small_encoder(**LIVE["sa"])
    state = encoder.init_state(3)
    before = state.num_bytes
    encoder.step(torch.randn(3, 20_000, dtype=torch.float64), state)
    encoder.finish(state)
    assert state.num_bytes == before


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_live_says_what_to_choose_instead(changes, said):
    encoder = small_encoder(**changes)
    with pytest.raises(ValueError, match=said):
        encoder.init_state()


def test_an_encoder_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"call encoder.eval\(\)"):
        small_encoder(mixer="sa").train().init_state()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"hidden_states": "some"}, "hidden_states must be one of last, all, got 'some'"),
        ({"hop": 2}, "hop must be 1, that of the reach"),
    ],
    ids=str,
)
def test_wrong_arguments_of_a_state_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        small_encoder(mixer="llsa").init_state(**arguments)


FRESH = torch.zeros(2, 500, dtype=torch.float64)


@pytest.mark.parametrize(
    ("samples", "more", "said"),
    [
        (FRESH[0], {}, r"samples must be \[2, samples\], one row a slot, got shape \(500,\)"),
        (FRESH[:1], {}, r"samples must be \[2, samples\]"),
        (FRESH.float(), {}, r"must be torch.float64 .* got torch.float32"),
        (FRESH.short(), {}, r"got torch.int16 .* divide 16-bit samples by 32768"),
        (FRESH + torch.tensor([[0.0], [float("nan")]]), {}, r"stream in slot 1 hold NaN .* nothing was taken"),
        (FRESH / 0 + float("inf"), {}, "slot 0 hold NaN or infinity"),
        (FRESH, {"num_samples": torch.tensor([1.0, 2.0])}, r"num_samples must be \[2\] int64"),
        (FRESH, {"num_samples": torch.tensor([1, 501])}, r"num_samples must lie in 0 .. 500, got \[1, 501\]"),
        (FRESH, {"slots": [0, 0]}, r"slots must be one or more different numbers in 0 .. 1, got \[0, 0\]"),
        (FRESH[:1], {"slots": [2]}, r"in 0 .. 1, got \[2\]"),
        (FRESH[:0], {"slots": []}, r"one or more different numbers in 0 .. 1, got \[\]"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_samples_are_refused_and_no_stream_has_moved(samples, more, said):
    encoder = small_encoder(mixer="llsa")
    state = encoder.init_state(2)
    encoder.step(torch.randn(2, 700, dtype=torch.float64), state)
    before = state.clone()
    with pytest.raises(ValueError, match=said):
        encoder.step(samples, state, **more)
    assert all(torch.equal(x, before.tensors[name]) for name, x in state.tensors.items())


def test_nan_behind_a_row_s_samples_does_not_count():
    encoder = small_encoder(mixer="llsa")
    state = encoder.init_state(2)
    samples = torch.zeros(2, 500, dtype=torch.float64)
    samples[1, 400:] = float("nan")
    out, _ = encoder.step(samples, state, torch.tensor([500, 400]))
    assert state.tensors["num_samples"].tolist() == [500, 400] and out.last_hidden_state.isfinite().all()


def test_a_finished_stream_takes_nothing_until_it_is_reset():
    encoder = small_encoder(mixer="llsa")
    state = encoder.init_state(2)
    encoder.finish(state, slots=[1])
    with pytest.raises(ValueError, match=r"slot 1 has been finished; reset\(state, slots=\[1\]\) starts a new one"):
        encoder.step(torch.zeros(2, 9, dtype=torch.float64), state)
    with pytest.raises(ValueError, match="has been finished"):
        encoder.finish(state)
    encoder.reset(state, slots=[1])
    encoder.step(torch.zeros(2, 9, dtype=torch.float64), state)


def test_a_state_of_another_encoder_is_refused():
    state = small_encoder(mixer="llsa", seed=1).init_state()
    for other in (small_encoder(mixer="llsa", seed=2), small_encoder(mixer="sa", seed=1)):
        with pytest.raises(ValueError, match="state belongs to another encoder"):
            other.step(torch.zeros(1, 9, dtype=torch.float64), state)


def test_everything_that_can_run_live_is_in_the_table():
    for name, changes in CONFIGS.items():
        config = small_encoder(**changes).config
        can = not is_acausal(config) and (config.look_back is not None or config.mixer == "summary")
        assert can == (name in LIVE)
