#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train and score a small head on a frozen encoder: s3prl's run_downstream, with its own flags, on today's libraries.

    python downstream/run.py -m train,evaluate -u fbank -d asr -c downstream/asr/config_tiny.yaml -p runs/fbank-asr \\
        --data CORPUS --manifests MANIFESTS

Works from any folder. What it adds to s3prl is listed below; every other flag goes to s3prl as it stands
(-k -g -f -r -s -l -i --upstream_feature_normalize --seed ...).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
for folder in (CHECKOUT / "downstream", CHECKOUT / "upstream_plugins", CHECKOUT):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from headrace_downstream.launch import Launch, launch  # noqa: E402  (importable only from here on)

MODES = ("train", "evaluate", "inference")


# flag(s), what argparse takes besides, help
OURS = (
    (
        ("--data",),
        {"type": Path, "metavar": "DIR"},
        "the corpus: LibriSpeech layout for asr, IEMOCAP layout for emotion",
    ),
    (("--manifests",), {"type": Path, "metavar": "DIR"}, "what manifests/prepare_*.py wrote for it"),
    (("--folds",), {"metavar": "all|1,3"}, "emotion: run these folds in -p/fold1 ..., then average them"),
    (
        ("--feature-cache",),
        {"type": Path, "metavar": "DIR"},
        "run the frozen upstream once per utterance, keep its features here",
    ),
)
S3PRLS = (
    (
        ("-m", "--mode"),
        {"required": True, "metavar": "MODE[,MODE]"},
        "train | evaluate | inference, or several in order: train,evaluate scores the checkpoint that did best on dev; "
        "train goes on where the folder's last checkpoint stopped",
    ),
    (("-d", "--downstream"), {"choices": ("asr", "emotion")}, "the task"),
    (("-c", "--config"), {"type": Path}, "default: SUPERB's, downstream/TASK/config.yaml"),
    (("-u", "--upstream"), {}, "the encoder: an entry of s3prl.hub, or headrace_local, headrace_url"),
    (("-k", "--upstream_ckpt"), {"metavar": "PATH|URL"}, "the encoder's checkpoint or portable folder"),
    (("-p", "--expdir"), {"type": Path, "metavar": "DIR"}, "the experiment's folder"),
    (("-n", "--expname"), {}, "the same as -p result/downstream/EXPNAME"),
    (("-e", "--past_exp"), {"type": Path, "metavar": "CKPT"}, "evaluate, or go on from, this checkpoint or folder"),
    (("-t", "--evaluate_split"), {}, "default: test-clean for asr, test for emotion; for inference an audio file"),
    (("-v", "--downstream_variant"), {"metavar": "foldN"}, "emotion: the one fold to train or evaluate"),
    (("-o", "--override"), {}, 'changes to the configuration: "config.optimizer.lr=1e-3,,config.runner.save_step=50"'),
    (("--device",), {}, "default: cuda where there is one, else cpu"),
    (("--local-rank", "--local_rank"), {"type": int}, "set by torch.distributed.launch; torchrun sets LOCAL_RANK"),
    (("--backend",), {}, "of several processes; default: nccl for GPUs, gloo for CPUs"),
)


def parser() -> argparse.ArgumentParser:
    """The flags that the launcher reads; names and meaning of s3prl's are s3prl's."""
    formatter = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    for title, flags in (("added here", OURS), ("s3prl's, with more meaning here", S3PRLS)):
        group = result.add_argument_group(title)
        for names, settings, text in flags:
            group.add_argument(*names, **settings, help=text)
    return result


def read_arguments(argv: list[str]) -> Launch:
    """Command line -> Launch. Raises ValueError for what does not fit together."""
    options, rest = parser().parse_known_args(argv)
    values = vars(options)
    modes = tuple(values.pop("mode").split(","))
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ValueError(f"-m: expected {', '.join(MODES)} or several joined by commas, came {unknown[0]!r}")
    if (expname := values.pop("expname")) and options.expdir is None:
        values["expdir"] = Path("result/downstream", expname)
    values["folds"] = _folds(options.folds)
    return Launch(modes=modes, rest=tuple(rest), **values)


def _folds(text: str | None) -> tuple[str, ...]:
    numbers = "12345" if text == "all" else (text or "").split(",") if text else ""
    if bad := [number for number in numbers if number not in "12345" or not number]:
        raise ValueError(f"--folds: expected all, or numbers from 1 to 5 joined by commas, came {bad[0]!r}")
    return tuple(f"fold{number}" for number in numbers)


def main(argv: list[str]) -> int:
    """Run; 2 and one line for what the caller can mend."""
    try:
        launch(read_arguments(argv))
    except ValueError as mistake:
        # out of a worker process that loads audio it comes with the worker's traceback, the message last
        print(f"run.py: {str(mistake).strip().splitlines()[-1].removeprefix('ValueError: ')}", file=sys.stderr)
        return 2
    except OSError as trouble:
        print(f"run.py: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
