# SPDX-License-Identifier: Apache-2.0
"""The ``headrace`` command: a few lines a sub-command, each of which calls the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from headrace.doctor import findings
from headrace.export import export
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
    _add_doctor(commands)
    return parser


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="fairseq checkpoint -> portable folder")
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pt file that fairseq wrote")
    command.add_argument("folder", metavar="FOLDER", help="the portable folder to write")
    command.add_argument("--mixer", choices=tuple(MIXERS), help="run the same weights under another mixer")
    command.add_argument("--look-ahead", type=int, metavar="FRAMES")
    command.add_argument("--look-back", type=int, metavar="FRAMES")
    command.add_argument("--hop", type=int, metavar="FRAMES")
    command.add_argument("--untrained", type=int, metavar="SEED", help="random weights from SEED: the untrained twin")
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    names = ("mixer", "look_ahead", "look_back", "hop")
    changes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    exported = export(options.checkpoint, options.folder, changes, options.untrained)
    config = exported.encoder.config
    ahead = look_ahead(config.stack)
    waits = "the whole utterance" if ahead is None else f"{ahead} frames"
    print(f"{options.folder}: {config.mixer}, {config.num_layers} layers, look-ahead {waits}")
    for name, said in exported.left_out.items():
        print(f"{name}: {said}")
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
