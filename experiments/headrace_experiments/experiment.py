# SPDX-License-Identifier: Apache-2.0
"""An experiment: one YAML file that names corpora, pretrainings, rows of the table and tasks; read and checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from headrace_downstream.settings import merged
from headrace_pretraining.iterations import Plan, plan_path, read_plan
from headrace_pretraining.shape import CONFIGS, encoder_of

CHECKOUT = Path(__file__).resolve().parents[2]
TASKS = ("asr", "emotion")


@dataclass(frozen=True)
class Corpora:
    """Where speech comes from: folders (relative to the checkout), or None where it is to be synthesised."""

    asr: str | None = None  # LibriSpeech layout
    ser: str | None = None  # IEMOCAP layout
    letters: str | None = None  # --letters of prepare_librispeech.py, relative to the checkout; None: SUPERB's English
    synthesise: Mapping[str, float] = field(default_factory=dict)  # flags of prepare_demo.py: minutes by part, seed


@dataclass(frozen=True)
class Pretraining:
    """One pretraining on the ASR corpus's train split and the emotion corpus together, no labels: one run of
    fairseq-hydra-train, or all iterations of a HuBERT.
    """

    seed: int
    config: str = ""  # a file in pretrain/configs, without .yaml
    updates: int = 0  # of it
    plan: str = ""  # or a file in pretrain/plans or a path, which names a configuration and each iteration's updates
    overrides: Sequence[str] = field(default_factory=list)

    @property
    def configuration(self) -> str:
        """The file in pretrain/configs."""
        return self.config or self.read_plan().config

    @property
    def num_iterations(self) -> int:
        """Of a HuBERT; 0 for one run of fairseq-hydra-train."""
        return len(self.read_plan().iterations) if self.plan else 0

    @property
    def all_updates(self) -> int:
        """Of all its iterations."""
        return sum(one.updates for one in self.read_plan().iterations) if self.plan else self.updates

    def read_plan(self) -> Plan:
        """The plan, where it has one.

        Raises:
            ValueError: there is no such plan, or it is none.
        """
        return read_plan(plan_path(self.plan))


@dataclass(frozen=True)
class Row:
    """One encoder of the table. Exactly one of upstream, pretrained, untrained says where it comes from."""

    title: str
    upstream: Mapping[str, str] | None = None  # per task an entry of s3prl.hub that has no weights: fbank
    waits: str = ""  # how long a frame of it waits, in words
    pretrained: str | None = None  # a pretraining
    untrained: str | None = None  # a pretraining whose shape it has, with random weights from `seed`
    seed: int | None = None
    twin: str | None = None  # the row that a pretrained encoder has to beat: the same shape, untrained
    beside: str | None = None  # another pretrained row that it is compared with
    mixer: str | None = None  # the same weights under another reach, put on after training
    look_ahead: int | None = None
    look_back: int | None = None

    @property
    def source(self) -> str | None:
        """The pretraining that its shape comes from; None for an upstream without weights."""
        return self.pretrained or self.untrained


@dataclass(frozen=True)
class Task:
    """How a task's head is trained: a file in downstream/, what to change in it, and flags of s3prl for encoders."""

    config: str
    seed: int
    steps: int
    eval_step: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    flags: Sequence[str] = field(default_factory=list)  # rows with weights; FBANK comes normalised


@dataclass(frozen=True)
class Experiment:
    """A whole experiment. `expected_seconds` per kind of stage, on 2 cores, only serve to tell the time left."""

    name: str
    title: str
    budget_minutes: float
    corpora: Corpora
    pretraining: Mapping[str, Pretraining]
    rows: Mapping[str, Row]
    main: str
    tasks: Mapping[str, Task]
    expected_seconds: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=list)
    certified: bool = False  # each encoder's certificate: what its frames wait for, proved, and how fast it runs live
    needs_gpu: bool = False  # it would take days without: refused where torch sees none


def read(path: Path) -> Experiment:
    """Read and check an experiment.

    Raises:
        ValueError: naming the file, the key, what was expected and what came.
    """
    content = _content(path)
    try:
        experiment = _experiment(path.stem, content)
        _check(experiment)
    except ValueError as why:
        raise ValueError(f"{path}: {why}") from None
    return experiment


def _content(path: Path, is_base: bool = False) -> Any:
    """What a file says; a line `base: other.yaml` takes what the other one beside it says, and changes some of it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected an experiment")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as why:
        raise ValueError(f"{path}: not YAML ({' '.join(str(why).split())})") from why
    if not isinstance(content, dict) or "base" not in content:
        return content
    if is_base:
        raise ValueError(f"{path}: has a base of its own; expected a whole experiment as the base of another")
    base = content.pop("base")
    if not isinstance(base, str):
        raise ValueError(f"{path}: base: expected the name of another file beside it, got {base!r}")
    return merged(_mapping(base, _content(path.parent / base, is_base=True)), content)


def _experiment(name: str, content: Any) -> Experiment:
    values = dict(_mapping("the file", content))
    values["corpora"] = _build(Corpora, "corpora", values.get("corpora") or {})
    for key, kind in (("pretraining", Pretraining), ("rows", Row), ("tasks", Task)):
        parts = _mapping(key, values.get(key))
        values[key] = {part: _build(kind, f"{key}.{part}", value) for part, value in parts.items()}
    return _build(Experiment, "the file", values | {"name": name})


T = TypeVar("T")


def _build(kind: type[T], where: str, values: Any) -> T:
    values = _mapping(where, values)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where} has no key {unknown[0]!r}; it has {', '.join(known)}")
    needed = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return kind(**values)


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where}: expected names with values, got {value!r}")
    return value


def _check(experiment: Experiment) -> None:
    if odd := sorted(set(experiment.tasks) - set(TASKS)) or not experiment.tasks:
        raise ValueError(f"tasks: expected {' and '.join(TASKS)} or one of them, got {odd or 'none'}")
    if experiment.main not in experiment.rows:
        raise ValueError(f"main: expected a row ({', '.join(experiment.rows)}), got {experiment.main!r}")
    for name, one in experiment.pretraining.items():
        if bool(one.config) is bool(one.plan) or bool(one.updates) is bool(one.plan):
            raise ValueError(f"pretraining.{name}: give config and updates, or plan, which has updates of its own")
        if one.plan:
            one.read_plan()
    for name, row in experiment.rows.items():
        if sum(value is not None for value in (row.upstream, row.pretrained, row.untrained)) != 1:
            raise ValueError(f"rows.{name}: give exactly one of upstream, pretrained, untrained")
        if row.upstream is not None and (
            not isinstance(row.upstream, dict) or set(experiment.tasks) - set(row.upstream)
        ):
            raise ValueError(f"rows.{name}: upstream names one of s3prl for each of {', '.join(experiment.tasks)}")
        if row.source is not None and row.source not in experiment.pretraining:
            known = ", ".join(experiment.pretraining)
            raise ValueError(f"rows.{name}: {row.source!r} is no pretraining; there are {known}")
        if (row.seed is None) is (row.untrained is not None):
            raise ValueError(f"rows.{name}: seed belongs to untrained rows, and they need one")
        if row.beside is not None and (row.beside == name or row.beside not in experiment.rows):
            raise ValueError(f"rows.{name}: beside must name another row, got {row.beside!r}")
        needs_twin = row.pretrained and (row.twin is not None or row.beside is None)
        if needs_twin and not _is_twin(experiment, row.pretrained or "", experiment.rows.get(row.twin or "")):
            wanted = f"an untrained row with the encoder of pretraining {row.pretrained}, which it has to beat"
            raise ValueError(f"rows.{name}: twin must name {wanted}; got {row.twin!r}")


def _is_twin(experiment: Experiment, pretrained: str, twin: Row | None) -> bool:
    """Whether an untrained row has the encoder of a pretraining, whatever that learned from."""
    if twin is None or twin.untrained is None:
        return False
    if twin.untrained == pretrained:
        return True
    both = [experiment.pretraining[name] for name in (pretrained, twin.untrained)]
    first, second = (encoder_of(one.configuration, one.overrides, CONFIGS) for one in both)
    return first == second
