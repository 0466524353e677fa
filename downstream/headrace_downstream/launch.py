# SPDX-License-Identifier: Apache-2.0
"""From a command line to a score: train, evaluate the best checkpoint, score it; once, or once per emotion fold."""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from headrace_downstream import checkpoints, compat, corpora, processes, results
from headrace_downstream.corpora import HERE, Corpus
from headrace_downstream.feature_cache import CachedUpstream
from headrace_downstream.files import remove_halves, write_whole
from headrace_downstream.processes import ALONE, Processes
from headrace_downstream.score import HEADLINE_SPLIT
from headrace_downstream.session import run_s3prl
from headrace_downstream.settings import content_digest, read_config, settle, without_paths


@dataclass(frozen=True)
class Launch:
    """A command line of run.py. Everything that s3prl alone reads is in `rest`."""

    modes: tuple[str, ...]
    rest: tuple[str, ...] = ()
    data: Path | None = None
    manifests: Path | None = None
    folds: tuple[str, ...] = ()
    feature_cache: Path | None = None
    downstream: str | None = None
    config: Path | None = None
    upstream: str | None = None
    upstream_ckpt: str | None = None
    expdir: Path | None = None
    past_exp: Path | None = None
    evaluate_split: str | None = None
    downstream_variant: str | None = None
    override: str | None = None
    device: str | None = None
    local_rank: int | None = None
    backend: str | None = None
    processes: Processes = ALONE


def launch(options: Launch) -> None:
    """Do what the command line says.

    Raises:
        ValueError: the caller's mistake, in one line.
        OSError: a disk that is full, and the like.
    """
    compat.install()
    # s3prl's runner asks for mixed precision by a name that torch is about to drop; it works, and would be said at
    # every run
    warnings.filterwarnings("ignore", message=r"`?torch\.cuda\.amp", category=FutureWarning)
    _register_upstreams()
    options = _completed(options)
    options = replace(options, processes=processes.find(options.local_rank, options.backend, options.device))
    if not options.processes.is_leader:
        options = replace(options, modes=tuple(mode for mode in options.modes if mode == "train"))
    if options.folds:
        _run_folds(options)
        return
    for mode in options.modes:
        RUN[mode](options)


def _completed(options: Launch) -> Launch:
    """Paths made absolute (s3prl keeps them in its checkpoints), defaults filled in, contradictions refused."""
    if options.past_exp is not None:
        past = options.past_exp if options.past_exp.is_file() else checkpoints.newest(options.past_exp)
        if past is None:
            raise ValueError(f"-e {options.past_exp}: neither a checkpoint nor a folder that holds states-*.ckpt")
        task = checkpoints.load(past)["Args"].downstream
        options = replace(options, past_exp=past.resolve(), downstream=task, expdir=options.expdir or past.parent)
    elif "train" in options.modes and not (options.downstream and options.upstream):
        raise ValueError("-d and -u: needed to train; e.g. -u fbank -d asr (or -e CHECKPOINT to go on)")
    if options.expdir is None:
        raise ValueError("-p: needed, the folder that the experiment is kept in")
    if options.folds and (options.downstream != "emotion" or options.past_exp or options.downstream_variant):
        raise ValueError("--folds: for -d emotion, and not together with -e or -v")
    if options.override and options.override.count("=") != len(options.override.split(",,")):
        raise ValueError(f"-o {options.override}: expected KEY=VALUE, several joined by ',,', and no other '='")
    checkpoint = options.upstream_ckpt
    if checkpoint is not None and Path(checkpoint).exists():
        checkpoint = str(Path(checkpoint).resolve())
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return replace(options, upstream_ckpt=checkpoint, expdir=options.expdir.resolve(), device=device)


# ---- the three modes ----


def _train(options: Launch) -> None:
    """Train, or go on from the newest checkpoint of the folder, or find that the training is done."""
    options.expdir.mkdir(parents=True, exist_ok=True)
    is_leader = options.processes.is_leader
    if options.past_exp is not None:
        _check_as_many_processes(options)
        argv = ["-e", str(options.past_exp)]
    else:
        config_path = options.expdir / "config.yaml"
        if is_leader:
            config = read_config(options.config or HERE / options.downstream / "config.yaml")
            settle(options.expdir, _settings(options, config))
            write_whole(config_path, yaml.safe_dump(config, sort_keys=False))
            remove_halves(options.expdir, "*.ckpt")
        options.processes.meet(f"settled {options.expdir}")
        if checkpoints.is_finished(options.expdir):
            if is_leader:
                print(f"already trained: {options.expdir}", flush=True)
            return
        argv = ["-a", "-c", str(config_path), "-d", options.downstream, "-u", options.upstream]
        argv += ["-k", options.upstream_ckpt] if options.upstream_ckpt else []
        argv += ["-v", options.downstream_variant] if options.downstream_variant else []
    started = time.monotonic()
    with options.processes.training(str(options.expdir), options.device):
        _s3prl(options, ["-m", "train", *argv, "-p", str(options.expdir), *options.processes.flags()])
    if is_leader:
        print(f"trained in {time.monotonic() - started:.0f} s: {options.expdir}", flush=True)


def _check_as_many_processes(options: Launch) -> None:
    before, now = checkpoints.load(options.past_exp).get("WorldSize"), options.processes.number_if_launched
    if before != now:
        said = ["without torchrun" if n is None else f"with torchrun --nproc-per-node {n}" for n in (before, now)]
        raise ValueError(
            f"-e {options.past_exp}: was trained {said[0]}, came {said[1]}: updates would be of another batch; "
            f"go on {said[0]}"
        )


def _evaluate(options: Launch) -> None:
    """Evaluate -e, or the best checkpoint of the folder, and write its split's score."""
    given = options.past_exp if options.modes == ("evaluate",) else None
    checkpoint = given or checkpoints.best(options.expdir)
    task = checkpoints.load(checkpoint)["Args"].downstream
    split = options.evaluate_split or HEADLINE_SPLIT[task]
    ran = _s3prl(options, ["-m", "evaluate", "-e", str(checkpoint), "-t", split])
    results.keep(options.expdir, checkpoint, ran.args, ran.config, ran.corpus)


def _inference(options: Launch) -> None:
    """Write what is heard in the file -t to EXPDIR/inference.ark."""
    checkpoint = options.past_exp or checkpoints.best(options.expdir)
    if checkpoints.load(checkpoint)["Args"].downstream == "emotion":
        raise ValueError(
            "-m inference: s3prl's emotion head has none; use -m evaluate, which keeps a label per utterance"
        )
    if not options.evaluate_split or not Path(options.evaluate_split).is_file():
        raise ValueError(f"-t {options.evaluate_split}: no such file; -m inference needs the audio file to listen to")
    _s3prl(options, ["-m", "inference", "-e", str(checkpoint), "-t", str(Path(options.evaluate_split).resolve())])
    print((options.expdir / "inference.ark").read_text(encoding="utf-8").rstrip("\n"))


RUN = {"train": _train, "evaluate": _evaluate, "inference": _inference}


def _run_folds(options: Launch) -> None:
    """The modes for each fold in its own folder, then the average. Folds that have their score are passed over."""
    split = options.evaluate_split or HEADLINE_SPLIT["emotion"]
    for number, fold in enumerate(options.folds, 1):
        print(f"\n== {fold} ({number} of {len(options.folds)}) ==", flush=True)
        one = replace(options, folds=(), downstream_variant=fold, expdir=options.expdir / fold)
        for mode in options.modes:
            if mode == "evaluate" and results.is_kept(one.expdir, split):
                print(f"already evaluated: {one.expdir}", flush=True)
            else:
                RUN[mode](one)
    if "evaluate" in options.modes:
        results.keep_folds(options.expdir, options.folds, split)


# ---- one call of s3prl ----


@dataclass(frozen=True)
class _Ran:
    """What s3prl settled on (on resume: from the checkpoint), and the corpus that it read."""

    args: argparse.Namespace
    config: dict[str, Any]
    corpus: Corpus


def _s3prl(options: Launch, argv: list[str]) -> _Ran:
    settled: list[_Ran] = []

    def adjust(args: argparse.Namespace, config: dict[str, Any]) -> None:
        # the checkpoint's own values would send the results to where the folder and the encoder once lay
        args.expdir = str(options.expdir)
        args.upstream_ckpt = options.upstream_ckpt or args.upstream_ckpt
        _check_upstream(args, caches=options.feature_cache is not None)
        settled.append(_Ran(args, config, _check_corpus(options, args, config)))

    argv = [*argv, "--device", options.device, *options.rest]
    if options.override:
        argv += ["-o", options.override]

    def announce(upstream: CachedUpstream) -> None:
        if options.processes.is_leader:
            print(upstream.announce(settled[0].corpus.seconds), flush=True)

    run_s3prl(argv, adjust, options.feature_cache, announce)
    return settled[0]


def _check_corpus(options: Launch, args: argparse.Namespace, config: dict[str, Any]) -> Corpus:
    if args.mode == "inference":
        return Corpus({}, {}, 0.0)
    datarc = config["downstream_expert"]["datarc"]
    corpora.fill_in(args.downstream, datarc, options.data, options.manifests)
    if not options.processes.is_leader:  # who checks it, while the others wait to train
        return Corpus({}, {}, 0.0)
    if args.downstream == "emotion":
        splits = ["train", "test"]  # s3prl reads both in either mode
    elif args.mode == "train":
        splits = ["train", *config["runner"]["eval_dataloaders"]]
    else:
        splits = [args.evaluate_split]
    return corpora.check(args.downstream, datarc, splits, results.fold_of(args, config))


def _check_upstream(args: argparse.Namespace, caches: bool) -> None:
    hub = importlib.import_module("s3prl.hub")
    if not hasattr(hub, args.upstream):
        close = difflib.get_close_matches(args.upstream, hub.options(), n=3)
        raise ValueError(f"-u {args.upstream}: no such upstream{'; near it: ' + ', '.join(close) if close else ''}")
    if caches and args.upstream_trainable:
        raise ValueError(
            "--feature-cache: keeps the features of a frozen upstream, and -f trains it; leave one of them out"
        )


def _register_upstreams() -> None:
    """Make headrace_local and headrace_url entries of s3prl.hub."""
    if importlib.util.find_spec("headrace_upstream") is not None:
        importlib.import_module("headrace_upstream.register").register()


def _settings(options: Launch, config: dict[str, Any]) -> dict[str, Any]:
    """All that makes two trainings the same one, less where corpora and checkpoints lie and the device."""
    together = options.processes.number_if_launched
    return {
        **({"processes": together} if together else {}),
        "downstream": options.downstream,
        "fold": options.downstream_variant,
        "upstream": options.upstream,
        "upstream_ckpt_content": content_digest(options.upstream_ckpt),
        "override": options.override,
        "other_flags": " ".join(options.rest),
        "config": without_paths(config),
    }
