# SPDX-License-Identifier: Apache-2.0
"""One call of s3prl's own run_downstream in this process, with the few changes that s3prl leaves no door for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from headrace_downstream.feature_cache import CachedUpstream
from headrace_downstream.files import appears_whole
from headrace_downstream.padded_rnn import padded_on_cpu
from headrace_downstream.replace import replaced
from headrace_downstream.settings import content_digest
from headrace_downstream.slow_frames import slow_frames_stay

Adjust = Callable[[argparse.Namespace, dict[str, Any]], None]


def run_s3prl(
    argv: list[str],
    adjust: Adjust,
    cache: Path | None,
    announce: Callable[[CachedUpstream], None],
) -> None:
    """Run `s3prl.run_downstream.main` on a command line.

    Args:
        argv: s3prl's own flags.
        adjust: called with the arguments and the configuration that s3prl settled on (on resume: those of the
            checkpoint); may change both in place and raise ValueError.
        cache: where the frozen upstream's features are kept; None computes them each time, as s3prl does.
        announce: called with the upstream whose features are kept, before it is asked for any.
    """
    run_downstream = importlib.import_module("s3prl.run_downstream")
    read_arguments = run_downstream.get_downstream_args

    def arguments() -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
        args, config, backups = read_arguments()
        adjust(args, config)
        return args, config, backups

    with ExitStack() as stack:
        stack.enter_context(replaced(sys, "argv", ["run_downstream", *argv]))
        stack.enter_context(replaced(run_downstream, "get_downstream_args", arguments))
        stack.enter_context(replaced(torch, "save", save_whole(torch.save)))
        stack.enter_context(padded_on_cpu())
        stack.enter_context(slow_frames_stay())
        if cache is not None:
            stack.enter_context(replaced(run_downstream, "Runner", _caching(run_downstream.Runner, cache, announce)))
        run_downstream.main()


def save_whole(save: Callable[..., None]) -> Callable[..., None]:
    """torch.save for paths, writing beside and renaming: s3prl writes its checkpoints in place, so that a kill in
    the middle of one leaves half a file under the name that resume picks.
    """

    def save_beside(states: object, path: str) -> None:
        try:  # s3prl's glob for checkpoints, states-*.ckpt, does not match the name beside
            with appears_whole(Path(path)) as beside, beside.open("wb") as file:
                save(states, file)
        except (OSError, RuntimeError) as why:  # RuntimeError: what torch's zip writer raises on a full disk
            raise OSError(f"{path}: the checkpoint could not be written ({why}); the one before it is whole") from why

    return save_beside


def _caching(runner: type, cache: Path, announce: Callable[[CachedUpstream], None]) -> type:
    """s3prl's Runner with a CachedUpstream in place of its frozen upstream."""

    class CachingRunner(runner):
        def __init__(self, args: argparse.Namespace, config: dict[str, Any]) -> None:
            super().__init__(args, config)
            # where several processes train, the featurizer stands inside torch's wrapper
            featurizer = getattr(self.featurizer.model, "module", self.featurizer.model)
            source = f"{content_digest(args.upstream_ckpt)}/{content_digest(args.upstream_model_config)}"
            self.upstream.model = CachedUpstream(
                self.upstream.model, args.upstream, source, featurizer.feature_selection, cache
            )
            announce(self.upstream.model)

    return CachingRunner
