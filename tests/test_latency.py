# SPDX-License-Identifier: Apache-2.0
"""The certificate: true encoders get it, broken ones are caught."""

import json

import pytest
import torch

from encoders import CONFIGS, CONFORMER, small_encoder
from headrace import ops
from headrace.certificate import certify
from headrace.latency import Claim, prove
from headrace.ops.layout import lay_out
from headrace.positions import ConvolutionalPositions
from headrace.reach import Band, Blocks, Everything

FRAMES = 31


def proof_of(encoder):
    frontend = encoder.frontend
    ends_with_a_frame = (FRAMES - 1) * frontend.stride_samples + frontend.window_samples
    return prove(lambda waveform: encoder(waveform).hidden_states, Claim.of(encoder), ends_with_a_frame)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_every_encoder_is_as_late_as_it_claims_in_every_layer(changes):
    for layer in proof_of(small_encoder(**changes)):
        assert layer.holds and layer.changes == 0
        if changes["mixer"] != "deformable":  # whose frames choose where they look
            assert layer.observed_ms == pytest.approx(layer.claimed_ms)


def test_the_claim_of_llsa_is_one_layer_s_at_any_depth_and_that_of_sa_adds_up():
    def waits(**changes):
        claim = Claim.of(small_encoder(**changes))
        return [claim.wait_ms(layer) for layer in range(4)]

    window, frame = 325 / 16, 20
    assert waits(mixer="llsa") == [window, *[window + 2 * frame] * 3]
    assert waits(mixer="llsa", hop=4) == [window, *[window + 5 * frame] * 3]
    assert waits(mixer="sa") == [window + 2 * frame * layer for layer in range(4)]
    assert waits(mixer="full") == [window, None, None, None]
    assert waits(**CONFORMER, mixer="chunked", hop=4) == [window, *[window + 3 * frame] * 3]
    # a convolution of 5 frames sees 2 ahead in each layer, until the chunk ends
    assert waits(**CONFORMER, mixer="none", hop=6) == [window + ahead * frame for ahead in (0, 2, 4, 5)]


def test_the_mean_wait_is_that_of_the_frames_of_a_chunk():
    claim = Claim.of(small_encoder(**CONFORMER, mixer="chunked", hop=4))
    assert claim.mean_wait_ms(3) == pytest.approx(325 / 16 + 20 * (3 + 2 + 1 + 0) / 4)
    assert Claim.of(small_encoder(mixer="full")).mean_wait_ms(3) is None
    assert Claim.of(small_encoder(mixer="sa")).mean_wait_ms(3) == Claim.of(small_encoder(mixer="sa")).wait_ms(3)


def past_the_chunk(encoder):
    """A convolution that is centred for the whole utterance, as if there were no chunks."""
    convolution = encoder.context.layers[1].convolution
    forward = convolution.forward

    def whole(x, lengths, reach):
        return lay_out(forward(x.flatten(1, 2)[:, : int(lengths[0])], lengths, Everything()), reach)

    convolution.forward = whole


def longer_chunks(encoder):
    mixer = encoder.context.layers[1].mixer
    attend = mixer.attend
    mixer.attend = lambda q, k, v, lengths, reach: attend(q, k.roll(-1, 2), v.roll(-1, 2), lengths, reach)


def groups_over_time(encoder):
    norm = torch.nn.GroupNorm(16, 16).double()
    encoder.frontend.conv_layers[0].norm = type("Norm", (torch.nn.Module,), {"forward": lambda _, x, __: norm(x)})()


def centred_positions(encoder):
    encoder.context.positions = ConvolutionalPositions(16, 6, 2, causal=False).double()


def one_frame_more(encoder):
    mixer = encoder.context.layers[1].mixer
    ops_of = {Band: lambda r: Band(r.look_ahead + 1, r.look_back), Blocks: lambda r: r}
    attend = mixer.attend
    mixer.attend = lambda q, k, v, lengths, reach: attend(q, k, v, lengths, ops_of[type(reach)](reach))


def one_frame_less(encoder):
    mixer = encoder.context.layers[1].mixer
    mixer.attend = lambda q, k, v, lengths, reach: ops.sa(q, k, v, Band(reach.look_ahead - 1, reach.look_back), lengths)


def provisional_rows_of_the_future(encoder):
    """The rows of the next block in place of the block's own: one frame more."""
    mixer = encoder.context.layers[0].mixer
    attend = mixer.attend
    mixer.attend = lambda q, k, v, lengths, reach: attend(q, k, v.roll(-1, 2), lengths, reach)


@pytest.mark.parametrize(
    ("changes", "break_it"),
    [
        ({"mixer": "llsa"}, groups_over_time),
        ({"mixer": "sa", "positions": "causal_conv"}, centred_positions),
        ({"mixer": "sa"}, one_frame_more),
        ({"mixer": "masked"}, one_frame_more),
        ({"mixer": "sa"}, one_frame_less),
        ({"mixer": "llsa"}, provisional_rows_of_the_future),
        (CONFIGS["conformer none"], past_the_chunk),
        (CONFIGS["conformer deformable"], past_the_chunk),
        (CONFIGS["conformer chunked"], longer_chunks),
    ],
    ids=lambda x: x.__name__ if callable(x) else x["mixer"],
)
def test_a_broken_encoder_is_caught(changes, break_it):
    encoder = small_encoder(**changes)
    assert all(layer.holds for layer in proof_of(encoder))
    break_it(encoder)
    assert not all(layer.holds for layer in proof_of(encoder))


@pytest.mark.parametrize(
    "name",
    [
        "llsa hop 4", "sa", "full conv", "conformer chunked", "conformer none", "conformer deformable",
        "conformer chunked log_mel",
    ],
)  # fmt: skip
def test_a_certificate_is_plain_data_with_everything_in_it(name):
    encoder = small_encoder(torch.float32, **CONFIGS[name])
    certificate = certify(encoder, timed_seconds=0.5)
    told = json.loads(json.dumps(certificate.to_dict()))
    assert (
        told["holds"] is True
        and len(told["layers"]) == 4
        and [d["num_layers"] for d in told["depths"]] == [2, 4, 8, 12]
    )
    total = sum(part["milliseconds"] or 0 for part in told["parts"])
    if name == "full conv":
        assert "cannot run live" in told["cannot_run_live"] and told["live"] is None and told["speeds"] == []
        assert told["layers"][-1]["claimed_ms"] is None
    else:
        assert told["live"]["holds"] and told["speeds"][0]["real_time_factor"] > 0
        assert total == pytest.approx(told["layers"][-1]["claimed_ms"])
    if name == "conformer chunked":  # 4 frames of 20 ms, and a window
        assert told["layers"][-1]["claimed_ms"] == pytest.approx(325 / 16 + 60)
        assert told["mean_ms"] == pytest.approx(325 / 16 + 30)
    waits = [depth["observed_ms"] for depth in told["depths"]]
    if name == "sa":
        assert waits == pytest.approx([325 / 16 + 2 * 20 * depth for depth in (2, 4, 8, 12)])
    if name == "llsa hop 4":
        assert waits == pytest.approx([waits[0]] * 4)
