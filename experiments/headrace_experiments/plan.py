# SPDX-License-Identifier: Apache-2.0
"""An experiment as stages: from corpora to a report, every command as it could be typed by hand."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from headrace_downstream.files import write_whole
from headrace_experiments.corpora import Splits, check_sessions, find_splits
from headrace_experiments.experiment import CHECKOUT, Experiment, Pretraining, Row, Task
from headrace_experiments.trained import labels_of, trained
from headrace_pretraining.iterations import plan_path
from headrace_pretraining.shape import CONFIGS, encoder_of, files_of
from headrace_stages.hydra import hydra_value
from headrace_stages.stage import RunFolder, Stage

SYNTHESISED_SPLITS = Splits("train", "dev", "test")
S3PRL_SPLITS = {"train": "train", "dev-clean": "dev", "test-clean": "test"}
"""s3prl's names of the splits -> our roles; it keeps the best checkpoint of the split called dev-clean only."""
FEATURE_CACHE = ("--feature-cache", "features")
"""Flags that keep a frozen encoder's features below a stage's folder: they save time, and change no result."""


INFORMATION = "information.json"
"""What labels tell of characters, in the folder of its stage."""


COSTLY = ("pretrain", "hubert")
"""Kinds of stages whose results are kept aside where they have to start afresh."""
CERTIFICATE = "latency.json"
"""What `headrace latency` stores, in the folder of its stage."""


def certificate_stage(row: str) -> str:
    """The stage that certifies a row's encoder."""
    return f"latency-{row}"


def information_stage(name: str, iteration: int) -> str:
    """The stage that measures an iteration's labels."""
    return f"information-{name}-{iteration}"


@dataclass(frozen=True)
class Speech:
    """The corpora of a run: folders, whether they are synthesised, and the ASR corpus's splits."""

    asr: Path
    ser: Path
    splits: Splits
    is_synthesised: tuple[bool, bool]  # asr, ser


def other_corpora(experiment: Experiment, asr_root: Path | None, ser_root: Path | None) -> dict[str, Path]:
    """Folders (by flag, real paths) that take the place of the experiment's own corpora; its own are no others."""
    given = {"--asr-root": (asr_root, experiment.corpora.asr), "--ser-root": (ser_root, experiment.corpora.ser)}
    return {
        flag: root.resolve()
        for flag, (root, own) in given.items()
        if root and not (own and (CHECKOUT / own).resolve() == root.resolve())
    }


def folder_name(experiment: Experiment, others: dict[str, Path]) -> str:
    """The name of a run's folder: one for each choice of corpora, so that no run empties another's stages."""
    if not others:
        return experiment.name
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", path.name) for path in others.values()]
    digest = hashlib.sha256("\n".join(f"{flag}={path}" for flag, path in others.items()).encode()).hexdigest()[:6]
    return "-".join([experiment.name, *names, digest])


def speech_of(experiment: Experiment, folder: RunFolder, asr_root: Path | None, ser_root: Path | None) -> Speech:
    """Where the run's speech is: the folders given, else those of the experiment, else synthesised.

    Raises:
        ValueError: a folder is not in the layout that is needed.
    """
    asr = asr_root or (experiment.corpora.asr and CHECKOUT / experiment.corpora.asr)
    ser = ser_root or (experiment.corpora.ser and CHECKOUT / experiment.corpora.ser)
    if ser:
        check_sessions(Path(ser))
    made = folder.stage("corpora")
    return Speech(
        asr=_absolute(asr) if asr else made / "asr",
        ser=_absolute(ser) if ser else made / "ser",
        splits=find_splits(Path(asr)) if asr else SYNTHESISED_SPLITS,
        is_synthesised=(not asr, not ser),
    )


def _absolute(path: str | Path) -> Path:
    """As it was given: links are not followed, so that a report names a corpus as its user does."""
    return Path(os.path.abspath(path))  # noqa: PTH100  pathlib would leave the ".."


@dataclass(frozen=True)
class Plan:
    """Builds the stages of one experiment in one folder. Stages of `without_cache` keep no features."""

    experiment: Experiment
    folder: RunFolder
    speech: Speech
    without_cache: frozenset[str] = field(default_factory=frozenset)

    def stages(self) -> list[Stage]:
        """All stages, each after those that it needs."""
        stages = [self._corpora()] if any(self.speech.is_synthesised) else []
        stages += self._manifests()
        for name, one in self.experiment.pretraining.items():
            stages += [self._pretraining(name, one), *self._information(name, one)]
        for name, row in self.experiment.rows.items():
            if row.source:
                stages.append(self._export(name, row))
                stages += [self._certificate(name)] if self.experiment.certified else []
            stages += [self._downstream(task, name, row) for task in self.experiment.tasks]
        return [*stages, self._report(stages)]

    # ---- speech ----

    def _corpora(self) -> Stage:
        flags = []
        for name, value in self.experiment.corpora.synthesise.items():
            flags += [f"--{name.replace('_', '-')}", f"{value:g}"]
        command = self._python("manifests/prepare_demo.py", ".", *flags)
        return self._stage("corpora", "corpora", command, ("asr", "ser"))

    def _manifests(self) -> list[Stage]:
        s, of_asr, of_ser = self.speech, *(("corpora",) if made else () for made in self.speech.is_synthesised)
        roles = [f"--{role}={getattr(s.splits, role)}" for role in ("train", "dev", "test")]
        links = [f"asr={s.asr / s.splits.train}"]
        links += [f"ser/Session{number}={s.ser / f'Session{number}' / 'sentences'}" for number in range(1, 6)]
        train = s.asr / s.splits.train
        own = self.experiment.corpora.letters
        letters = (CHECKOUT / own,) if own else ()
        return [
            self._stage(
                "manifest-asr",
                "manifests",
                self._python(
                    "manifests/prepare_librispeech.py",
                    str(s.asr),
                    "--dest",
                    ".",
                    *roles,
                    *(f"--letters={path}" for path in letters),
                ),
                ("char.dict", "len_for_bucket"),
                inputs=(
                    *(() if of_asr else (s.asr / getattr(s.splits, role) for role in ("train", "dev", "test"))),
                    *letters,
                ),
                after=of_asr,
            ),
            self._stage(
                "manifest-emotion",
                "manifests",
                self._python("manifests/prepare_iemocap.py", str(s.ser), "--dest", "."),
                ("meta_data",),
                inputs=() if of_ser else (s.ser,),
                after=of_ser,
            ),
            self._stage(
                "gather",
                "manifests",
                self._python("experiments/gather.py", "speech", *links),
                ("speech",),
                inputs=(*(() if of_asr else (train,)), *(() if of_ser else (s.ser,))),
                after=tuple({*of_asr, *of_ser}),
            ),
            self._stage(
                "manifest-pretraining",
                "manifests",
                self._python(
                    "manifests/wav2vec_manifest.py",
                    str(self.folder.stage("gather") / "speech"),
                    "--dest=.",
                    "--ext=flac,wav",
                    "--valid-percent=0.03",
                ),
                ("train.tsv", "valid.tsv"),
                after=("gather",),
            ),
        ]

    # ---- encoders ----

    def _pretraining(self, name: str, one: Pretraining) -> Stage:
        data, stage = self.folder.stage("manifest-pretraining"), f"pretrain-{name}"
        overrides = [*one.overrides, f"common.seed={one.seed}"]
        if one.plan:
            command = self._python(
                "pretrain/hubert.py", str(plan_path(one.plan)), *overrides, "--data", str(data), "--dest", "."
            )
        else:
            overrides += [f"task.data={hydra_value(data)}", f"optimization.max_update={one.updates}"]
            overrides += [f"hydra.run.dir={hydra_value(self.folder.stage(stage))}"]
            flags = ("--config-dir", str(CONFIGS), "--config-name", one.config)
            command = (sys.executable, "-m", "fairseq_cli.hydra_train", *overrides, *flags)
        return self._stage(
            stage,
            "hubert" if one.plan else "pretrain",
            command,
            (str(trained(self.folder, name, one).checkpoint.relative_to(self.folder.stage(stage))),),
            inputs=(*files_of(one.configuration, overrides, CONFIGS), *([plan_path(one.plan)] if one.plan else [])),
            after=("manifest-pretraining",),
            progress="stages" if one.plan else "fairseq",
        )

    def _information(self, name: str, one: Pretraining) -> list[Stage]:
        """What the labels of each iteration tell of the ASR corpus's transcripts."""
        speech, data = self.speech.asr / self.speech.splits.train, self.folder.stage("manifest-pretraining")
        found = []
        for number in range(1, one.num_iterations + 1):
            labels = labels_of(self.folder, name, number)
            flags = (str(data), "train", str(labels), str(speech), "--json", INFORMATION)
            command = self._python("pretrain/labels/measure_labels.py", *flags)
            stage, after = information_stage(name, number), (f"pretrain-{name}",)
            found.append(self._stage(stage, "information", command, (INFORMATION,), after=after))
        return found

    def _export(self, name: str, row: Row) -> Stage:
        if row.untrained:
            one = self.experiment.pretraining[row.untrained]
            overrides, flags = list(one.overrides), ["--seed", str(row.seed)]
            after: tuple[str, ...] = ()
            if encoder_of(one.configuration, one.overrides, CONFIGS).get("frontend") == "log_mel":
                overrides.append(f"common.seed={one.seed}")  # which draws the utterances whose statistics it has
                flags += ["--data", str(self.folder.stage("manifest-pretraining"))]
                after = ("manifest-pretraining",)
            command = self._python("pretrain/untrained.py", "encoder", one.configuration, *overrides, *flags)
            files = files_of(one.configuration, overrides, CONFIGS)
            return self._stage(f"export-{name}", "export", command, ("encoder",), inputs=files, after=after)
        assert row.pretrained is not None
        checkpoint = trained(self.folder, row.pretrained, self.experiment.pretraining[row.pretrained]).checkpoint
        flags = []
        for flag in ("mixer", "look_ahead", "look_back"):
            if (value := getattr(row, flag)) is not None:
                flags += [f"--{flag.replace('_', '-')}", str(value)]
        command = (sys.executable, "-m", "headrace.cli", "export", str(checkpoint), "encoder", *flags)
        return self._stage(f"export-{name}", "export", command, ("encoder",), after=(f"pretrain-{row.pretrained}",))

    def _certificate(self, name: str) -> Stage:
        encoder = str(self.folder.stage(f"export-{name}") / "encoder")
        command = (sys.executable, "-m", "headrace.cli", "latency", encoder, "--output", ".")
        return self._stage(certificate_stage(name), "latency", command, (CERTIFICATE,), after=(f"export-{name}",))

    # ---- scores ----

    def _downstream(self, task: str, name: str, row: Row) -> Stage:
        one = self.experiment.tasks[task]
        manifests = "manifest-asr" if task == "asr" else "manifest-emotion"
        data = self.speech.asr if task == "asr" else self.speech.ser
        flags = ["-m", "train,evaluate", "-d", task, "-c", str(self.config_path(task)), "-p", "exp"]
        flags += ["--data", str(data), "--manifests", str(self.folder.stage(manifests))]
        cached = f"{task}-{name}" not in self.without_cache
        flags += [*FEATURE_CACHE, "--seed", str(one.seed)]
        flags += ["--folds", "all"] if task == "emotion" else []
        if row.source:
            flags += ["-u", "headrace_local", "-k", str(self.folder.stage(f"export-{name}") / "encoder")]
        elif row.upstream:
            flags += ["-u", row.upstream[task]]
        command = self._python("downstream/run.py", *flags, *(one.flags if row.source else ()))
        return self._stage(
            f"{task}-{name}",
            task,
            command if cached else tuple(word for word in command if word not in FEATURE_CACHE),
            ("exp/score.json",),
            inputs=(self.config_path(task), CHECKOUT / "downstream" / task),
            after=(manifests, *([f"export-{name}"] if row.source else [])),
            progress="downstream",
            scratch=("features",),
            told_by=() if cached else command,  # with or without, so that room on the disk decides nothing else
        )

    def config_path(self, task: str) -> Path:
        """The configuration that a task's heads are trained with, in the run's folder."""
        return self.folder.root / "configs" / f"{task}.yaml"

    def write_configs(self) -> None:
        """Write the tasks' configurations: the file in downstream/, and what this experiment changes in it."""
        for task, one in self.experiment.tasks.items():
            text = yaml.safe_dump(self._config(task, one), sort_keys=False)
            write_whole(self.config_path(task), text)

    def _config(self, task: str, one: Task) -> dict[str, Any]:
        runner = {"total_steps": one.steps, "eval_step": one.eval_step, "save_step": one.eval_step}
        config: dict[str, Any] = {"base": str(CHECKOUT / "downstream" / one.config), "runner": runner}
        for key, value in one.changes.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
        if task == "asr":
            datarc = {theirs: [getattr(self.speech.splits, ours)] for theirs, ours in S3PRL_SPLITS.items()}
            expert = config.get("downstream_expert", {})
            config["downstream_expert"] = {**expert, "datarc": {**expert.get("datarc", {}), **datarc}}
        return config

    def _report(self, before: list[Stage]) -> Stage:
        after = tuple(stage.name for stage in before)
        command = self._python("experiments/report.py", str(self.folder.root))
        # it belongs beside the stages, where people look for it, and is written whole
        return Stage("report", command, (), after=after, expected_seconds=self._expected("report"), always=True)

    # ---- what all share ----

    def _python(self, script: str, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, str(CHECKOUT / script), *arguments)

    def _expected(self, kind: str) -> float:
        return float(self.experiment.expected_seconds.get(kind, 10.0))

    def _stage(
        self,
        name: str,
        kind: str,
        command: tuple[str, ...],
        outputs: tuple[str, ...],
        inputs: tuple[Path, ...] = (),
        after: tuple[str, ...] = (),
        progress: str = "percent",
        scratch: tuple[str, ...] = (),
        told_by: tuple[str, ...] = (),
    ) -> Stage:
        expected, costly = self._expected(kind), kind in COSTLY
        return Stage(name, command, outputs, inputs, after, progress, expected, scratch, told_by=told_by, costly=costly)
