#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make IEMOCAP, or any corpus in its layout, ready for s3prl's emotion task: five folds, one per session.

Writes meta_data/SessionN/{train,test}_meta_data.json (s3prl's `meta_data` folder; its `root` is ROOT) and
quarantine.tsv. Four classes: neu, hap (with exc), ang, sad.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from headrace_manifests.command import add_scan_arguments, parser_for, run, scan_from
from headrace_manifests.files import write_whole
from headrace_manifests.iemocap import CLASSES, Session, find_sessions, read_session, speaker
from headrace_manifests.quarantine import count_reasons, write_quarantine


def parser() -> argparse.ArgumentParser:
    result = parser_for(__doc__)
    add_scan_arguments(result)
    return result


def metadata(sessions: list[Session]) -> str:
    """Return the JSON that s3prl's `IEMOCAPDataset` reads, sorted by path."""
    labels = {path: label for session in sessions for path, label in session.labels.items()}
    rows = [{"path": path, "label": labels[path], "speaker": speaker(path)} for path in sorted(labels)]
    return json.dumps({"labels": CLASSES, "meta_data": rows}, indent=1) + "\n"


def check_folds(sessions: list[Session]) -> None:
    """Raise ValueError when a session has nothing to test on, or its fold lacks a class to train on."""
    for held_out in sessions:
        if not held_out.labels:
            raise ValueError(f"{held_out.name}: no utterance of the four classes is left to test on")
        trained = {label for session in sessions if session is not held_out for label in session.labels.values()}
        missing = sorted(CLASSES.keys() - trained)
        if missing:
            raise ValueError(f"without {held_out.name} nothing is left to train on of {', '.join(missing)}")


def main(arguments: list[str] | None = None) -> None:
    scan = scan_from(parser().parse_args(arguments))
    sessions = [read_session(scan.root, name) for name in find_sessions(scan.root)]
    kept, rejects = scan.measure_all([path for session in sessions for path in sorted(session.labels)])
    rejects += [reject for session in sessions for reject in session.rejects]
    num_found = sum(len(session.labels) + session.num_unused + len(session.rejects) for session in sessions)
    scan.tolerance.check(rejects, num_found, scan.quarantine)
    write_quarantine(scan.quarantine, rejects)
    for session in sessions:
        session.labels = {path: label for path, label in session.labels.items() if path in kept}
    check_folds(sessions)
    for held_out in sessions:
        folder = scan.dest / "meta_data" / held_out.name
        write_whole(folder / "train_meta_data.json", metadata([s for s in sessions if s is not held_out]))
        write_whole(folder / "test_meta_data.json", metadata([held_out]))
        counts = Counter(held_out.labels.values())
        print(f"{folder}: {len(held_out.labels)} to test on: {', '.join(f'{counts[c]} {c}' for c in CLASSES)}")
    print(f"{sum(s.num_unused for s in sessions)} utterances of other emotions were not used")
    print(f"{scan.quarantine}: {len(rejects)} entries ({count_reasons(rejects)})")


if __name__ == "__main__":
    sys.exit(run(main))
