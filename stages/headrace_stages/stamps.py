# SPDX-License-Identifier: Apache-2.0
"""What is known of each stage's last run, in RUN/stamps/NAME.json: whether it is whole, and what it was made from.

A stage's *key* is a fingerprint of its command, its inputs and what the stages before it made. The stamp is written
when the stage begins (state "begun") and again when it is done: its process ended well and its outputs were seen. So:

    done, same key, outputs as they were     nothing to do
    begun, same key                          killed or failed half-way: goes on in its folder
    anything else                            starts afresh, in an empty folder; a costly one's is kept beside it
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from headrace.checkpoint.files import written_whole
from headrace_stages import fingerprint
from headrace_stages.stage import RunFolder, Stage


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
    begun: float = 0.0  # when the attempt began that has not ended yet, in seconds since 1970; 0: none is under way
    spans: list[list[float]] = field(default_factory=list)  # [begin, end] of the attempts that ended

    @property
    def made(self) -> str:
        """Fingerprint of the outputs: what the stages after this one depend on."""
        return fingerprint.of_values(self.outputs)


def read(folder: RunFolder, name: str) -> Stamp | None:
    """The stamp of a stage; None where there is none, or none that can be read."""
    path = folder.stamp(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "spans" not in values:  # written before spans were kept, and last when its process ended
            end = path.stat().st_mtime
            values["spans"] = [[end - values["seconds"], end]]
        return Stamp(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(folder: RunFolder, name: str, stamp: Stamp) -> None:
    """Write a stage's stamp; it appears whole."""
    path = folder.stamp(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(asdict(stamp), indent=1) + "\n", encoding="utf-8")


def key_of(folder: RunFolder, stage: Stage) -> str:
    """Fingerprint of all that decides a stage's result, wherever the run and its inputs lie. The stages before it must
    be done.

    Raises:
        ValueError: an input is not there.
    """
    inputs = [(path.name, fingerprint.of_path(path)) for path in stage.inputs]
    for path, (_, found) in zip(stage.inputs, inputs, strict=True):
        if found is None:
            raise ValueError(f"stage {stage.name} reads {path}, which is not there or empty")
    before = {name: stamp.made for name in stage.after if (stamp := read(folder, name)) is not None}
    command = [part.replace(str(folder.root), "RUN") for part in stage.told_by or stage.command]
    return fingerprint.of_values([command, stage.outputs, inputs, before])


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
    if earlier.begun:  # it was killed, and nobody was left to say when
        earlier = _ended(earlier, _last_sign(folder, stage.name, earlier) - earlier.begun, 0.0)
    attempts = earlier.attempts + 1
    stamp = replace(earlier, command=list(stage.command), attempts=attempts, commit=commit, begun=time.time())
    write(folder, stage.name, stamp)
    return stamp


def spend(folder: RunFolder, name: str, seconds: float, processor_seconds: float) -> None:
    """Add the time of an attempt that has ended, well or not."""
    if (stamp := read(folder, name)) is not None:
        write(folder, name, _ended(stamp, seconds, processor_seconds))


def _ended(stamp: Stamp, seconds: float, processor_seconds: float) -> Stamp:
    """The stamp with its attempt under way counted as one that took so long."""
    return replace(
        stamp,
        seconds=stamp.seconds + seconds,
        processor_seconds=stamp.processor_seconds + processor_seconds,
        begun=0.0,
        spans=[*stamp.spans, [stamp.begun, stamp.begun + seconds]],
    )


def _last_sign(folder: RunFolder, name: str, stamp: Stamp) -> float:
    """When a stage whose end nobody saw last wrote into its log."""
    log = folder.log(name)
    return max(stamp.begun, log.stat().st_mtime) if log.exists() else stamp.begun


def wall_seconds(folder: RunFolder, names: Iterable[str]) -> float:
    """How long a clock on the wall showed at least one of the stages at work, over all starts of the run.

    Stages side by side count once; pauses between two starts do not, nor do attempts that were thrown away.
    """
    spans = []
    for name in names:
        if (stamp := read(folder, name)) is not None:
            spans += [*stamp.spans, *([[stamp.begun, _last_sign(folder, name, stamp)]] if stamp.begun else [])]
    total, reached = 0.0, 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


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
