#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Link folders of speech side by side below one root, for one fairseq manifest over several corpora; copies nothing.

python experiments/gather.py DEST asr=CORPUS/train ser/Session1=OTHER/Session1/sentences
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def link(dest: Path, name: str, target: Path) -> None:
    """Make DEST/name lead to the target. Raises ValueError when the target is no folder."""
    if not target.is_dir():
        raise ValueError(f"{target} is no folder; expected the speech that is to be seen as {name}")
    place = dest / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target.resolve(), target_is_directory=True)


def main(arguments: list[str] | None = None) -> int:
    """Link; 2 and one line for what the caller can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path, metavar="DEST")
    parser.add_argument("links", nargs="+", metavar="NAME=FOLDER")
    options = parser.parse_args(arguments)
    try:
        for pair in options.links:
            name, equals, target = pair.partition("=")
            if not equals or not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"expected NAME=FOLDER with NAME below DEST, got {pair!r}")
            link(options.dest, name, Path(target))
    except (ValueError, OSError) as error:
        print(f"gather.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
