# SPDX-License-Identifier: Apache-2.0
"""HuBERT's iterations as stages: features, k-means, labels, training; then the same with the encoder just trained.

A plan is a YAML file in pretrain/plans: a configuration of pretrain/configs, and what each iteration clusters.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from headrace_labels.audio import SAMPLE_RATE
from headrace_labels.features import Mfcc
from headrace_labels.shards import read_manifest
from headrace_pretraining.findings import findings_of_iterations
from headrace_pretraining.shape import CONFIGS, files_of, frames_a_second, section_of, shape_of
from headrace_stages.hydra import hydra_value
from headrace_stages.machines import Machines
from headrace_stages.process import as_typed
from headrace_stages.stage import RunFolder, Stage

PRETRAIN = Path(__file__).resolve().parents[1]
SPLITS = ("train", "valid")
LABEL_BYTES = 4  # a number below 1000 and a space


@dataclass(frozen=True)
class Iteration:
    """One pass: what is clustered, into how many clusters, and how long the encoder trains on their labels.

    layer: of the encoder of the iteration before; None for MFCC.
    share: of the training utterances, that k-means learns from; -1 for all.
    """

    clusters: int
    updates: int
    layer: int | None = None
    share: float = -1.0


@dataclass(frozen=True)
class Speed:
    """Of the machine that a plan was sized on, for the time left only. Seconds for an hour of speech; for an update."""

    mfcc: float = 60.0
    encoder: float = 120.0
    kmeans: float = 60.0
    update: float = 0.5


@dataclass(frozen=True)
class Plan:
    """A plan, read from its file."""

    name: str
    config: str
    iterations: Sequence[Iteration]
    speed: Speed


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least  # True is an int to isinstance


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# What a plan's values must be, and what tells; YAML reads 1e5 as text. A value of speed is one of SECONDS.
VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "clusters": ("a whole number of 2 or more, in digits", lambda value: _is_whole(value, 2)),
    "updates": ("a whole number of 1 or more, in digits", lambda value: _is_whole(value, 1)),
    "layer": ("a whole number of 0 or more, or none for MFCC", lambda value: value is None or _is_whole(value, 0)),
    "share": ("-1 for all, or a number above 0 and at most 1", lambda x: _is_number(x) and (x == -1 or 0 < x <= 1)),
}
SECONDS: tuple[str, Callable[[Any], bool]] = (
    "seconds, a number above 0, in digits",
    lambda value: _is_number(value) and value > 0,
)


def plan_path(plan: str) -> Path:
    """A plan's file: a path to one of your own, or the name of one in pretrain/plans."""
    return Path(plan) if Path(plan).is_file() else PRETRAIN / "plans" / f"{plan}.yaml"


def read_plan(path: Path) -> Plan:
    """Read and check a plan.

    Raises:
        ValueError: naming the file, the key, what was expected and what came.
    """
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in (PRETRAIN / "plans").glob("*.yaml")))
        raise ValueError(f"{path}: no such plan; there are {known}, or give the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    try:
        return _plan(path.stem, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plan(name: str, values: Any) -> Plan:
    if not isinstance(values, Mapping) or set(values) - {"config", "iterations", "speed"}:
        raise ValueError(f"expected the keys config, iterations and speed, got {values!r}")
    config, iterations = values.get("config"), values.get("iterations")
    if not (CONFIGS / f"{config}.yaml").is_file():
        raise ValueError(f"config: expected the name of a file in pretrain/configs, got {config!r}")
    if not isinstance(iterations, list) or not iterations:
        raise ValueError(f"iterations: expected a list of one or more, got {iterations!r}")
    found = [_build(Iteration, f"iterations[{number}]", one) for number, one in enumerate(iterations)]
    for number, one in enumerate(found):
        if number == 0 and one.layer is not None:
            raise ValueError("iterations[0]: there is no encoder yet, so no layer of it; leave layer out (MFCC)")
    return Plan(name, config, found, _build(Speed, "speed", values.get("speed") or {}))


def _build(kind: Any, where: str, values: Any) -> Any:
    known = [field.name for field in fields(kind)]
    if not isinstance(values, Mapping) or set(values) - set(known):
        raise ValueError(f"{where}: expected {', '.join(known)}, got {values!r}")
    for field in fields(kind):
        if field.name not in values and field.default is MISSING:
            raise ValueError(f"{where}.{field.name}: expected {VALUES[field.name][0]}, got nothing")
    for name, value in values.items():
        expected, holds = VALUES.get(name, SECONDS)
        if not holds(value):
            raise ValueError(f"{where}.{name}: expected {expected}, got {value!r}")
    return kind(**values)


@dataclass(frozen=True)
class Iterations:
    """Builds the stages of a plan for one corpus in one folder.

    Args:
        data: the folder of manifests.
        overrides: of fairseq-hydra-train, the same in every iteration.
        processes: under torchrun, on all machines together; 1 for none.
        has_gpus: one for each process, unless the configuration says common.cpu.
        machines: several that share the run's folder and the corpus; None for one.
    """

    plan: Plan
    folder: RunFolder
    data: Path
    overrides: Sequence[str]
    processes: int = 1
    has_gpus: bool = False
    machines: Machines | None = None

    def check(self) -> None:
        """Before anything starts: do the plan and the overrides go together?

        Raises:
            ValueError: naming the key, what was expected and what came.
        """
        rate = section_of(self.plan.config, self.overrides, CONFIGS, "task").get("sample_rate", SAMPLE_RATE)
        if str(rate) != str(SAMPLE_RATE):
            raise ValueError(
                f"task.sample_rate: expected {SAMPLE_RATE}, as labels are made from speech at {SAMPLE_RATE} Hz, got "
                f"{rate}; leave it out, and bring the corpus to {SAMPLE_RATE} Hz"
            )
        layers = shape_of(self.plan.config, self.overrides, CONFIGS).layers
        for number, one in enumerate(self.plan.iterations):
            if one.layer is not None and one.layer > layers:
                raise ValueError(
                    f"{self.plan.name}: iterations[{number}].layer: expected 0 to {layers}, the encoder's layers "
                    f"(model.encoder_layers), got {one.layer}; change one of the two"
                )

    def stages(self) -> list[Stage]:
        """All stages, each after those that it needs."""
        stages: list[Stage] = []
        for number, one in enumerate(self.plan.iterations, start=1):
            stages += self._clusters(number, one)
            stages.append(self._labels(number, one))
            stages.append(self._training(number, one))
        return [*stages, self._export()]

    def findings(self) -> list[str]:
        """What was found wrong with the trainings while they ran."""
        found = findings_of_iterations(self.folder, len(self.plan.iterations))
        return [f"train-{number}, from update {each.update} on: {each.text}" for number, each in found]

    # ---- stages ----

    def _clusters(self, number: int, one: Iteration) -> list[Stage]:
        """On one machine frames are stored and clustered in batches; in many processes they are never stored."""
        kmeans, hours = f"kmeans-{number}", self.hours * (1.0 if one.share == -1 else one.share)
        expected = hours * self.plan.speed.kmeans
        share = ("--percent", str(one.share))
        if self.processes > 1:
            what = (str(self.data), "train", "km.safetensors", str(one.clusters))
            run, told_by = self._run(kmeans, "learn_kmeans_distributed.py", *what, *share, *self._source(number, one))
            after, seconds = self._after(number), expected + 20 * self._feature_seconds(one, hours)
            outputs = ("km.safetensors",)
            return [Stage(kmeans, run, outputs, self._inputs(), after, expected_seconds=seconds, told_by=told_by)]
        frames = f"features-{number}"
        source: tuple[str, ...] = ("dump_mfcc_feature.py", str(self.data), "train")
        if one.layer is not None:
            encoder = str(self._checkpoint(number - 1))
            source = ("dump_hubert_feature.py", str(self.data), "train", encoder, str(one.layer))
        learn = (str(self.folder.stage(frames)), "train", "1", "km.safetensors", str(one.clusters))
        return [
            Stage(
                frames,
                self._run(frames, *source, "1", "0", ".")[0],
                ("train_0_1.npy", "train_0_1.len"),
                self._inputs(),
                self._after(number),
                expected_seconds=self._feature_seconds(one, self.hours),
            ),
            Stage(
                kmeans,
                self._run(kmeans, "learn_kmeans.py", *learn, *share)[0],
                ("km.safetensors",),
                (),
                (frames,),
                expected_seconds=expected,
            ),
        ]

    def _labels(self, number: int, one: Iteration) -> Stage:
        model = self.folder.stage(f"kmeans-{number}") / "km.safetensors"
        arguments = (str(self.data), str(model), ".", *SPLITS, *self._source(number, one))
        outputs = ("dict.km.txt", *(f"{split}.km{end}" for split in SPLITS for end in ("", ".json")))
        name = f"labels-{number}"
        run, told_by = self._run(name, "label_audio.py", *arguments)
        return Stage(
            name,
            run,
            outputs,
            self._inputs(),
            (f"kmeans-{number}", *self._after(number)),
            expected_seconds=self._feature_seconds(one, self.hours),
            told_by=told_by,
        )

    def _training(self, number: int, one: Iteration) -> Stage:
        name = f"train-{number}"
        rate = Mfcc.rate if one.layer is None else self.encoder_rate
        overrides = [
            *self.overrides,
            f"task.data={hydra_value(self.data)}",
            f"task.label_dir={hydra_value(self.folder.stage(f'labels-{number}'))}",
            f"task.label_rate={rate:g}",
            f"optimization.max_update={one.updates}",
            f"hydra.run.dir={hydra_value(self.folder.stage(name))}",
        ]
        flags = ("--config-dir", str(CONFIGS), "--config-name", self.plan.config)
        train = ("-m", "fairseq_cli.hydra_train")
        return Stage(
            name,
            self._spread(name, (*train, *self._layout(), *overrides, *flags)),
            ("checkpoints/checkpoint_last.pt",),
            (*files_of(self.plan.config, self.overrides, CONFIGS), *self._inputs()),
            (f"labels-{number}",),
            "fairseq",
            one.updates * self.plan.speed.update,
            told_by=(*train, *overrides, *flags),  # in any number of processes: fairseq goes on from another one's
            costly=True,
        )

    def _layout(self) -> list[str]:
        """Overrides that spread a configuration, written for so many GPUs, over the processes that there are."""
        distributed = section_of(self.plan.config, self.overrides, CONFIGS, "distributed_training")
        layout = [f"distributed_training.distributed_world_size={self.processes}"]
        if self.processes > 1 and not self.trains_on_gpus:
            layout = ["+distributed=cpu_torchrun"]
        if not any(one.lstrip("+").startswith("optimization.update_freq=") for one in self.overrides):
            freq = max(1, round(int(distributed["distributed_world_size"]) / self.processes))
            layout.append(f"optimization.update_freq=[{freq}]")
        return layout

    def _export(self) -> Stage:
        last = len(self.plan.iterations)
        command = (sys.executable, "-m", "headrace.cli", "export", str(self._checkpoint(last)), "encoder")
        return Stage("export", command, ("encoder",), (), (f"train-{last}",), expected_seconds=10.0)

    # ---- what they share ----

    @property
    def trains_on_gpus(self) -> bool:
        """Where there are some, unless the configuration says common.cpu."""
        common = section_of(self.plan.config, self.overrides, CONFIGS, "common")
        return self.has_gpus and str(common.get("cpu")).lower() != "true"

    @cached_property
    def hours(self) -> float:
        """Of speech in all splits."""
        return sum(sum(read_manifest(self.data, split).num_samples) for split in SPLITS) / SAMPLE_RATE / 3600

    @cached_property
    def encoder_rate(self) -> float:
        """Frames a second of the encoder, and so labels of its layers."""
        return frames_a_second(self.plan.config, self.overrides, CONFIGS)

    @property
    def num_bytes(self) -> float:
        """Of disk, about: stored frames, labels, and three checkpoints with two moments of Adam for each iteration."""
        shape = shape_of(self.plan.config, self.overrides, CONFIGS)
        total = 0.0
        for one in self.plan.iterations:
            dim, rate = (Mfcc.dim, Mfcc.rate) if one.layer is None else (shape.width, self.encoder_rate)
            frames = 3600 * self.hours * rate
            stored = 0 if self.processes > 1 else 4 * dim
            total += frames * (stored + LABEL_BYTES) + 3 * 3 * 4 * 12 * shape.layers * shape.width**2
        return total

    def _feature_seconds(self, one: Iteration, hours: float) -> float:
        return hours * (self.plan.speed.mfcc if one.layer is None else self.plan.speed.encoder) / self.processes

    def _source(self, number: int, one: Iteration) -> tuple[str, ...]:
        if one.layer is None:
            return ()
        return ("--ckpt_path", str(self._checkpoint(number - 1)), "--layer", str(one.layer))

    def _checkpoint(self, number: int) -> Path:
        return self.folder.stage(f"train-{number}") / "checkpoints" / "checkpoint_last.pt"

    def _after(self, number: int) -> tuple[str, ...]:
        return (f"train-{number - 1}",) if number > 1 else ()

    def _inputs(self) -> tuple[Path, ...]:
        return tuple(self.data / f"{split}.tsv" for split in SPLITS)

    def _run(self, stage: str, script: str, *arguments: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A command, and the same without torchrun, by which it is known.

        What was made or begun in some processes is kept in another number of them: labels are the same, and so are
        clusters, to rounding, where there is more than one. One process alone learns its clusters in another way.
        """
        own = (str(PRETRAIN / "labels" / script), *arguments)
        many = script in ("learn_kmeans_distributed.py", "label_audio.py")
        return self._spread(stage, own) if many else (sys.executable, *own), own

    def _spread(self, stage: str, command: tuple[str, ...]) -> tuple[str, ...]:
        """A command of Python in all processes, on this machine or on all."""
        if self.machines is not None:
            return self.machines.led(stage, command)
        if self.processes == 1:
            return (sys.executable, *command)
        here = ("--standalone", f"--nproc-per-node={self.processes}")
        return (sys.executable, "-m", "torch.distributed.run", *here, *command)


def told(iterations: Iterations) -> list[str]:
    """The plan for --dry-run: what each iteration does, each stage with its command and time, and the disk it takes."""
    plan, stages, root = iterations.plan, iterations.stages(), iterations.folder.root
    lines = [f"{plan.name}: {len(plan.iterations)} iterations on {iterations.hours:.2f} h of speech, in {root}"]
    for number, one in enumerate(plan.iterations, start=1):
        what = "MFCC" if one.layer is None else f"layer {one.layer} of iteration {number - 1}"
        lines.append(f"  iteration {number}: {one.clusters} clusters of {what}, {one.updates} updates")
    for stage in stages:
        lines.append(f"{stage.name}: about {_clock(stage.expected_seconds)}")
        lines.append(f"    {as_typed(stage.command)}")
    seconds = sum(stage.expected_seconds for stage in stages)
    lines.append(f"about {_clock(seconds)} on a machine like the one that the plan was sized on")
    place = next(parent for parent in (root, *root.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    lines.append(f"about {iterations.num_bytes / 1e9:.2f} GB of disk, {free / 1e9:.0f} GB are free")
    return lines


def _clock(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
