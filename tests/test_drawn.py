# SPDX-License-Identifier: Apache-2.0
"""Reaches are drawn by seeds alone, with the shares and ranges that were asked for, and models know their range."""

import warnings
from collections import Counter

import pytest
import torch

from encoders import CONFORMER, small_encoder
from headrace import Band, Blocks, EncoderConfig, Everything, load
from headrace.checkpoint import save
from headrace.drawn import DrawnReach

PAPER = DrawnReach()
CHUNKED = {**CONFORMER, "mixer": "chunked", "hop": 8, "look_back": 16}
DRAWN = {**CHUNKED, "drawn": {"hop": [4, 12]}}


def test_shares_and_ranges_are_those_of_the_paper():
    reaches = [PAPER.draw("chunked", 1, epoch, batch) for epoch in range(20) for batch in range(500)]
    kinds = Counter(type(reach) for reach in reaches)
    assert kinds[Blocks] / len(reaches) == pytest.approx(0.6, abs=0.015)
    chunked = [reach for reach in reaches if isinstance(reach, Blocks)]
    assert {reach.hop for reach in chunked} == set(range(8, 33))  # 320 to 1280 ms at 40 ms
    limited = [reach for reach in chunked if reach.look_back is not None]
    assert len(limited) / len(chunked) == pytest.approx(0.75, abs=0.02)
    assert all(reach.look_back % reach.hop == 0 for reach in limited)
    assert {reach.look_back // reach.hop for reach in limited} == set(range(2, 33))
    assert all(reach.per_block and reach.look_ahead == 0 for reach in chunked)


@pytest.mark.parametrize("mixer", ["chunked", "deformable", "none", "summary", "llsa", "sa"])
def test_the_same_seeds_give_the_same_reach_and_others_another(mixer):
    drawn = DrawnReach(restricted=1, hop=(1, 400), look_ahead=(1, 9))
    reaches = [drawn.draw(mixer, 1, batch) for batch in range(50)]
    assert reaches == [drawn.draw(mixer, 1, batch) for batch in range(50)]
    assert reaches != [drawn.draw(mixer, 2, batch) for batch in range(50)]
    assert len(set(reaches)) > 20
    if mixer in ("llsa", "sa"):
        assert {reach.look_ahead for reach in reaches} == set(range(1, 10))
        assert all(isinstance(reach, Blocks if mixer == "llsa" else Band) for reach in reaches)


def test_what_was_written_is_read():
    drawn = DrawnReach(0.5, (2, 3), 1.0, (0, 0), (1, 1))
    assert DrawnReach.from_dict(drawn.to_dict()) == drawn
    assert EncoderConfig.from_dict(EncoderConfig(**DRAWN).to_dict()).drawn_reach == DrawnReach(hop=(4, 12))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"restricted": 1.5}, r"drawn.restricted must be a share from 0 to 1, got 1.5"),
        ({"limited": "most"}, r"drawn.limited must be a share"),
        ({"hop": [0, 4]}, r"drawn.hop must rise, from 1 or more, got \[0, 4\]"),
        ({"hop": [9, 4]}, r"drawn.hop must rise"),
        ({"hop": 8}, r"drawn.hop must be two whole numbers, the lowest and the highest, got 8"),
        ({"look_back_blocks": [-1, 4]}, r"drawn.look_back_blocks must rise, from 0 or more"),
        ({"chunk": [1, 2]}, r"drawn has no field chunk; it has restricted, hop"),
        (True, r"drawn must be a mapping with some of restricted, hop, .* got True"),
    ],
    ids=str,
)
def test_bad_values_are_named(values, said):
    with pytest.raises(ValueError, match=said):
        EncoderConfig(mixer="llsa", drawn=values)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mixer": "full", "drawn": {}}, "drawn is for mixers that can be restricted"),
        ({**CHUNKED, "drawn": {"look_ahead": [1, 3]}}, r"drawn.look_ahead is for masked, sa and llsa, .* got \[1, 3\]"),
    ],
    ids=["full", "look-ahead of chunks"],
)
def test_what_could_not_be_drawn_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        EncoderConfig(**changes)


@pytest.mark.parametrize("changes", [CHUNKED, DRAWN], ids=["one size", "a range"])
def test_a_size_that_training_did_not_have_works_and_is_warned_of_once(changes):
    encoder = small_encoder(**changes)
    waveforms, unseen = torch.randn(1, 9000, dtype=torch.float64), Blocks(0, 20, 20, per_block=True)
    with pytest.warns(UserWarning, match=r"trained in chunks of (8|4 to 12) frames and runs in other ones"):
        whole = encoder(waveforms, reach=unseen).last_hidden_state
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = encoder.init_state(reach=unseen)
        first, state = encoder.step(waveforms, state)
    last = torch.cat([first.last_hidden_state, encoder.finish(state)[0].last_hidden_state], 1)
    torch.testing.assert_close(last, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("hop", [4, 8, 12])
def test_a_size_of_the_range_is_not_warned_of(hop):
    encoder = small_encoder(**DRAWN)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        encoder(torch.randn(1, 5000, dtype=torch.float64), reach=Blocks(0, 2 * hop, hop, per_block=True))
        encoder(torch.randn(1, 5000, dtype=torch.float64), reach=Everything())
        encoder.init_state(reach=Blocks(0, 2 * hop, hop, per_block=True))
    assert told == []


def test_the_size_is_chosen_at_load(tmp_path):
    save(small_encoder(torch.float32, **DRAWN), tmp_path / "encoder")
    waveforms = torch.randn(1, 9000)
    chosen = load(tmp_path / "encoder", changes={"hop": 6, "look_back": 12})
    reach = Blocks(0, 12, 6, per_block=True)
    expected = load(tmp_path / "encoder")(waveforms, reach=reach).last_hidden_state
    assert torch.equal(chosen(waveforms).last_hidden_state, expected)
    with pytest.warns(UserWarning, match="trained in chunks of 4 to 12 frames"):
        unseen = load(tmp_path / "encoder", changes={"hop": 40})
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        unseen.init_state(reach=Blocks(0, 40, 20, per_block=True))
    whole = load(tmp_path / "encoder", changes={"hop": None})
    expected = load(tmp_path / "encoder")(waveforms, reach=Everything()).last_hidden_state
    assert torch.equal(whole(waveforms).last_hidden_state, expected)
    with pytest.raises(ValueError, match=r"cannot run live; choose a reach in chunks"):
        whole.init_state()
    with pytest.raises(ValueError, match="EncoderConfig has no field chunk"):
        load(tmp_path / "encoder", changes={"chunk": 4})


def test_streams_of_one_encoder_run_in_chunks_of_their_own():
    encoder = small_encoder(**DRAWN)
    waveforms = torch.randn(1, 9000, dtype=torch.float64)
    for hop in (4, 7, 12):
        reach = Blocks(0, 24, hop, per_block=True)
        state = encoder.init_state(reach=reach)
        outs = [encoder.step(part, state)[0] for part in waveforms.split(1000, 1)] + [encoder.finish(state)[0]]
        live = torch.cat([out.last_hidden_state for out in outs], 1)
        torch.testing.assert_close(live, encoder(waveforms, reach=reach).last_hidden_state, atol=1e-12, rtol=0)


def test_what_an_encoder_was_trained_in_is_known_after_its_chunks_were_changed(tmp_path):
    save(small_encoder(torch.float32, **CHUNKED), tmp_path / "encoder")
    with pytest.warns(UserWarning, match="trained in chunks of 8 frames"):
        other = load(tmp_path / "encoder", changes={"hop": 5})
    save(other, tmp_path / "other")
    with pytest.warns(UserWarning, match="trained in chunks of 8 frames"):
        load(tmp_path / "other", changes={"hop": 6})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path / "other", changes={"hop": 8})


def test_a_model_whose_look_ahead_was_drawn_runs_under_another_mixer(tmp_path):
    drawn = {"hop": [4, 8], "look_ahead": [0, 3]}
    save(small_encoder(torch.float32, mixer="llsa", hop=4, drawn=drawn), tmp_path / "encoder")
    chunked = load(tmp_path / "encoder", changes={"mixer": "chunked"}).config
    assert chunked.drawn is None and chunked.hops_of_training == (4, 8)


def test_an_acausal_encoder_that_runs_in_blocks_is_told_no_size_that_it_never_had(tmp_path):
    save(small_encoder(torch.float32, mixer="full"), tmp_path / "encoder")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load(tmp_path / "encoder", changes={"mixer": "llsa", "hop": 4})(torch.randn(1, 4000))
    assert told == []
