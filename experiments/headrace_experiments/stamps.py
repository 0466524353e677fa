# SPDX-License-Identifier: Apache-2.0
"""What is known of each stage's last run, in RUN/stamps/NAME.json: whether it is whole, and what it was made from.

A stage's *key* is a fingerprint of its command, its inputs and what the stages before it made. The stamp is written
when the stage begins (state "begun") and again when it is done: its process ended well and its outputs were seen. So:

    done, same key, outputs as they were     nothing to do
    begun, same key                          killed or failed half-way: goes on in its folder
    anything else                            starts afresh, in an empty folder
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

from headrace_downstream.files import write_whole
from headrace_experiments import fingerprint
from headrace_experiments.stage import RunFolder, Stage


@dataclass(frozen=True)
class Stamp:
    """A stage's last run."""

    key: str
    state: str  # "begun" | "done"
    command: list[str]
    attempts: int = 0
    seconds: float = 0.0  # over all attempts
    processor_seconds: float = 0.0  # the same, of processor time: what a machine shared with others does not stretch
    commit: str = ""
    outputs: dict[str, str] = field(default_factory=dict)  # path below the stage's folder -> fingerprint

    @property
    def made(self) -> str:
        """Fingerprint of the outputs: what the stages after this one depend on."""
        return fingerprint.of_values(self.outputs)


def read(folder: RunFolder, name: str) -> Stamp | None:
    """The stamp of a stage; None where there is none, or none that can be read."""
    try:
        return Stamp(**json.loads(folder.stamp(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write(folder: RunFolder, name: str, stamp: Stamp) -> None:
    """Write a stage's stamp; it appears whole."""
    write_whole(folder.stamp(name), json.dumps(asdict(stamp), indent=1) + "\n")


def key_of(folder: RunFolder, stage: Stage) -> str:
    """Fingerprint of all that decides a stage's result. The stages before it must be done.

    Raises:
        ValueError: an input is not there.
    """
    inputs = {}
    for path in stage.inputs:
        inputs[str(path)] = fingerprint.of_path(path)
        if inputs[str(path)] is None:
            raise ValueError(f"stage {stage.name} reads {path}, which is not there or empty")
    before = {name: stamp.made for name in stage.after if (stamp := read(folder, name)) is not None}
    return fingerprint.of_values([stage.command, stage.outputs, inputs, before])


def is_whole(folder: RunFolder, stage: Stage, key: str) -> bool:
    """Whether a stage is done, was made from what would be read now, and left what still is there, unchanged."""
    stamp = read(folder, stage.name)
    if stamp is None or stamp.state != "done" or stamp.key != key or stage.always:
        return False
    return stamp.outputs == {name: fingerprint.of_path(folder.stage(stage.name) / name) for name in stage.outputs}


def can_go_on(folder: RunFolder, stage: Stage, key: str) -> bool:
    """Whether what a stage left half-made was begun from what would be read now."""
    stamp = read(folder, stage.name)
    return stamp is not None and stamp.state == "begun" and stamp.key == key


def begin(folder: RunFolder, stage: Stage, key: str, commit: str) -> Stamp:
    """Mark a stage as begun, keeping count of the attempts with the same key."""
    before = read(folder, stage.name)
    goes_on = before is not None and can_go_on(folder, stage, key)
    earlier = before if before is not None and goes_on else Stamp(key, "begun", [])
    stamp = replace(earlier, command=list(stage.command), attempts=earlier.attempts + 1, commit=commit)
    write(folder, stage.name, stamp)
    return stamp


def spend(folder: RunFolder, name: str, seconds: float, processor_seconds: float) -> None:
    """Add the time of an attempt that has ended, well or not."""
    if (stamp := read(folder, name)) is not None:
        spent = stamp.processor_seconds + processor_seconds
        write(folder, name, replace(stamp, seconds=stamp.seconds + seconds, processor_seconds=spent))


def finish(folder: RunFolder, stage: Stage) -> list[str]:
    """Mark a stage as done; or leave it begun and return the outputs that it promised and did not leave."""
    found = {name: fingerprint.of_path(folder.stage(stage.name) / name) for name in stage.outputs}
    missing = [name for name, print_ in found.items() if print_ is None]
    stamp = read(folder, stage.name)
    if stamp is None:
        return [str(folder.stamp(stage.name))]
    outputs = {name: print_ for name, print_ in found.items() if print_ is not None}
    write(folder, stage.name, replace(stamp, state="begun" if missing else "done", outputs=outputs))
    return missing
