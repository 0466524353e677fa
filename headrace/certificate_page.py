# SPDX-License-Identifier: Apache-2.0
"""A certificate as people read it: lines of text, and a picture."""

from __future__ import annotations

from pathlib import Path

from headrace.certificate import Certificate
from headrace.latency import LayerProof


def lines(certificate: Certificate) -> list[str]:
    """The table that ``headrace latency`` prints."""
    encoder, grid = certificate.encoder, certificate.grid
    text = [
        f"{encoder['mixer']}, {encoder['num_layers']} layers, one frame every "
        f"{grid.milliseconds(grid.stride_samples):g} ms",
        "",
        "claimed: how long a frame waits, at most, from its start on",
        *(f"  {part.name:34} {_ms(part.milliseconds):>16}" for part in certificate.parts),
        f"  {'in all':34} {_ms(certificate.layers[-1].claimed_ms):>16}",
        f"  {'mean over frames':34} {_ms(certificate.mean_ms):>16}",
        "",
        "proved: samples to hidden states; all samples behind the claim replaced, and the gradient at the claim's last",
        f"  {'layer':6} {'claimed':>16} {'observed':>16} {'frames changed':>15}",
        *(_proof(proof) for proof in certificate.layers),
        "",
        "proved: the last hidden state of the same kind of encoder at other depths",
        f"  {'layers':6} {'claimed':>16} {'observed':>16}",
    ]
    for depth in certificate.depths:
        sign = "" if depth.holds else "  FAILS"
        text.append(f"  {depth.num_layers:<6} {_ms(depth.claimed_ms):>16} {_ms(depth.observed_ms):>16}{sign}")
    text += ["", *_live(certificate), ""]
    text.append("every claim holds" if certificate.holds else "A CLAIM FAILS: see above")
    return text


def _live(certificate: Certificate) -> list[str]:
    if certificate.cannot_run_live is not None:
        return [f"live: {certificate.cannot_run_live}"]
    text = []
    if certificate.live is not None:
        found = ", ".join(f"{value:.1e} in {dtype}" for dtype, value in certificate.live.difference.items())
        sign = "" if certificate.live.holds else "  FAILS"
        text.append(f"live against the whole utterance: differs by {found}{sign}")
    if certificate.int8_difference is not None:
        text.append(f"8-bit weights: the last hidden state differs by {certificate.int8_difference:.1%} of its norm")
    for speed in certificate.speeds:
        times = ", ".join(f"{name} {value:.2f} ms" for name, value in speed.step_ms.items())
        threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
        text.append(
            f"a step of {speed.audio_ms:g} ms, {threads}: {times}; real-time factor {speed.real_time_factor:.3f}"
        )
    return text


def _proof(proof: LayerProof) -> str:
    sign = "" if proof.holds else f"  FAILS: a frame changed by up to {proof.largest_change:.1e}"
    if not proof.holds and proof.changes == 0:
        sign = "  FAILS: the last sample that frames depend on is not the claimed one"
    name = "input" if proof.layer == 0 else str(proof.layer)
    return f"  {name:6} {_ms(proof.claimed_ms):>16} {_ms(proof.observed_ms):>16} {proof.changes:>15}{sign}"


def _ms(value: float | None) -> str:
    return "whole utterance" if value is None else f"{value:g} ms"


def draw(certificate: Certificate, path: Path) -> None:
    """The waits of each layer, and of other depths, claimed and observed.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a picture needs matplotlib: pip install 'headrace[plot]'.") from None
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    layers = [(proof.layer, proof.claimed_ms, proof.observed_ms) for proof in certificate.layers]
    depths = [(depth.num_layers, depth.claimed_ms, depth.observed_ms) for depth in certificate.depths]
    for axes, title, label, rows in (
        (left, "this encoder, layer by layer", "hidden state", layers),
        (right, "the same kind of encoder, other depths", "layers", depths),
    ):
        bounded = [row for row in rows if row[1] is not None and row[2] is not None]
        axes.plot(
            [x for x, _, _ in bounded], [claimed for _, claimed, _ in bounded], "-", label="claimed", color="#1f77b4"
        )
        axes.plot(
            [x for x, _, _ in bounded], [found for _, _, found in bounded], "o", label="observed", color="#d62728"
        )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label)
        axes.set_ylabel("wait of a frame, ms")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if len(bounded) < len(rows):
            axes.text(0.5, 0.5, "waits for the whole utterance", transform=axes.transAxes, ha="center", fontsize=9)
        elif bounded:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
