# SPDX-License-Identifier: Apache-2.0
"""The ``headrace`` command: a few lines a sub-command, each of which calls the library."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from headrace import attention_page, certificate_page, recordings, stream
from headrace.attention_report import report_on
from headrace.certificate import certify
from headrace.checkpoint import load
from headrace.checkpoint.files import written_whole
from headrace.doctor import findings
from headrace.export import export
from headrace.head import load_head
from headrace.latency import Claim
from headrace.mixers import MIXERS
from headrace.reach import look_ahead


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it worked, 2 with one line on standard error when it could not."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"headrace {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace", description="Self-supervised speech encoders that run live.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_export(commands)
    _add_latency(commands)
    _add_stream(commands)
    _add_attention(commands)
    _add_doctor(commands)
    return parser


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="fairseq checkpoint -> portable folder")
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pt file that fairseq wrote")
    command.add_argument("folder", metavar="FOLDER", help="the portable folder to write")
    command.add_argument("--mixer", choices=tuple(MIXERS), help="run the same weights under another mixer")
    _add_reach(command)
    command.add_argument("--untrained", type=int, metavar="SEED", help="random weights from SEED: the untrained twin")
    command.set_defaults(run=_export)


def _add_reach(command: argparse.ArgumentParser) -> None:
    """The same weights under another reach."""
    command.add_argument("--look-ahead", type=int, metavar="FRAMES")
    command.add_argument("--look-back", type=_frames_or_all, metavar="FRAMES|all")
    command.add_argument("--hop", type=_frames_or_all, metavar="FRAMES|all", help="of a block or chunk")


def _frames_or_all(text: str) -> int | str:
    return text if text == "all" else int(text)


def _reach_of(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of EncoderConfig that were asked for."""
    names = ("look_ahead", "look_back", "hop")
    asked = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {name: None if value == "all" else value for name, value in asked.items()}


def _export(options: argparse.Namespace) -> int:
    changes = _reach_of(options) | ({"mixer": options.mixer} if options.mixer else {})
    exported = export(options.checkpoint, options.folder, changes, options.untrained)
    config = exported.encoder.config
    ahead = look_ahead(config.stack)
    waits = "the whole utterance" if ahead is None else f"{ahead} frames"
    print(f"{options.folder}: {config.mixer}, {config.num_layers} layers, look-ahead {waits}")
    for name, said in exported.left_out.items():
        print(f"{name}: {said}")
    return 0


def _add_latency(commands: Any) -> None:
    command = commands.add_parser("latency", help="certificate: how late an encoder is, proved; how fast it runs here")
    command.add_argument("folder", metavar="FOLDER", help="a portable folder")
    command.add_argument("--output", metavar="FOLDER", help="where latency.json and latency.png go; beside the model")
    command.add_argument("--seconds", type=float, default=10.0, help="audio to step through for speed; 0: none")
    _add_reach(command)
    command.add_argument("--int8", action="store_true", help="with 8-bit weights")
    command.set_defaults(run=_latency)


def _latency(options: argparse.Namespace) -> int:
    _check_output(options, "certificate")
    certificate = certify(load(options.folder, changes=_reach_of(options)), options.seconds, options.int8)
    print("\n".join(certificate_page.lines(certificate)))
    output = _output_of(options)
    with written_whole(output / "latency.json") as partial:
        partial.write_text(json.dumps(certificate.to_dict(), indent=1) + "\n", encoding="utf-8")
    try:
        certificate_page.draw(certificate, output / "latency.png")
    except ValueError as error:
        print(f"no picture: {error}", file=sys.stderr)
    return 0 if certificate.holds else 1


def _check_output(options: argparse.Namespace, what: str) -> None:
    if _reach_of(options) and not options.output:
        raise ValueError(f"--output: expected a folder for the {what} of another reach; its own go beside the model")


def _output_of(options: argparse.Namespace) -> Path:
    """The folder that takes what was measured, made where it is missing: as asked for, or beside the model.

    A model from a hub has no folder of its own; one of its name here would be taken for it the next time.
    """
    model = Path(options.folder).expanduser()
    output = Path(options.output or (model if model.is_dir() else "."))
    output.mkdir(parents=True, exist_ok=True)
    return output


def _add_stream(commands: Any) -> None:
    command = commands.add_parser("stream", help="run live: frames, and text where the folder has a head")
    command.add_argument("folder", metavar="FOLDER", help="a portable folder")
    command.add_argument("source", metavar="FILE|-|mic", help="audio; - is raw 16-bit samples on standard input")
    command.add_argument("--output", metavar="FILE.npy", help="where the frames [T, C] go")
    command.add_argument("--int8", action="store_true", help="with 8-bit weights")
    command.add_argument("--fast", action="store_true", help="as fast as possible, in place of real time")
    _add_reach(command)
    command.set_defaults(run=_stream)


def _stream(options: argparse.Namespace) -> int:
    encoder, head = load(options.folder, options.int8, _reach_of(options)), load_head(options.folder)
    session = stream.Session(encoder, head)
    chunks, is_live = stream.source_of(options.source, encoder.config.sample_rate, options.fast)
    claim = Claim.of(encoder)
    wait = claim.wait_ms(len(claim.stacks) - 1) or 0.0
    frames: list[Any] = []

    def on_given(given: stream.Given) -> None:
        if options.output:
            frames.append(given.frames.numpy())
        print(given.text, end="", flush=True)

    def on_progress(progress: stream.Progress) -> None:
        late = is_live and progress.delay_seconds * 1000 > wait + stream.LATE_MS
        behind = f"  SLOWER THAN REAL TIME: {progress.delay_seconds - wait / 1000:.1f} s behind, nothing is dropped"
        delay = f"delay {progress.delay_seconds * 1000:.0f} ms ({wait:g} claimed)"
        factor = f"real-time factor {progress.real_time_factor:.2f}"
        line = f"[{progress.audio_seconds:7.1f} s]  {progress.frames} frames, {delay}, {factor}{behind if late else ''}"
        print(line, file=sys.stderr)

    stream.run(session, chunks, on_given, on_progress, is_live)
    if head is not None:
        print()
    if options.output:
        with written_whole(Path(options.output)) as partial, partial.open("wb") as file:
            numpy.save(file, numpy.concatenate(frames))
    return 0


def _add_attention(commands: Any) -> None:
    command = commands.add_parser("attention", help="where the attention of each layer goes: a table and a picture")
    command.add_argument("folder", metavar="FOLDER", help="a portable folder")
    command.add_argument("audio", metavar="AUDIO", nargs="+", help="files, or folders searched for .flac and .wav")
    command.add_argument("--within", type=int, default=5, metavar="FRAMES", help="to either side of the diagonal; 5")
    command.add_argument("--most-seconds", type=float, default=20.0, metavar="N", help="heard of each file; 20")
    command.add_argument("--output", metavar="FOLDER", help="where attention.json and .png go; beside the model")
    _add_reach(command)
    command.set_defaults(run=_attention)


def _attention(options: argparse.Namespace) -> int:
    _check_output(options, "maps")
    encoder, paths = load(options.folder, changes=_reach_of(options)), recordings.find(options.audio)
    output = _output_of(options)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    report = report_on(encoder, paths, options.within, options.most_seconds, lambda why: say(f"left out: {why}"), say)
    print("\n".join(attention_page.lines(report)))
    with written_whole(output / "attention.json") as partial:
        partial.write_text(json.dumps(report.to_dict()) + "\n", encoding="utf-8")
    try:
        with written_whole(output / "attention.png") as partial:
            attention_page.draw(report, partial)
    except ValueError as error:
        (output / "attention.png").unlink(missing_ok=True)  # of an earlier run: it would not go with the numbers
        say(f"no picture: {error}")
    return 0


def _add_doctor(commands: Any) -> None:
    command = commands.add_parser("doctor", help="which path computes on this machine, and why")
    command.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    lines = findings()
    width = max(len(line.subject) for line in lines)
    for line in lines:
        print(f"{line.subject:{width}}  {line.path}: {line.why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
