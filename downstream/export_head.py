#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Put an ASR head that s3prl trained into the portable folder of its encoder, where `headrace stream` runs it live.

    python downstream/export_head.py runs/llsa-asr exp/llsa-base

The head must be one that runs forwards only: train it with -c downstream/asr/config_causal.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
for folder in (CHECKOUT / "downstream", CHECKOUT / "upstream_plugins", CHECKOUT):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from headrace_downstream.head_export import export_head  # noqa: E402  (importable only from here on)


def main(arguments: list[str] | None = None) -> int:
    """0 when it worked, 2 with one line on standard error when it could not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "expdir", type=Path, metavar="EXPDIR", help="-p of downstream/run.py; its best checkpoint on dev"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the portable folder of the encoder that it heard")
    options = parser.parse_args(arguments)
    try:
        head = export_head(options.expdir, options.folder)
    except (ValueError, OSError) as error:
        print(f"export_head.py: {error}", file=sys.stderr)
        return 2
    print(f"{options.folder}: head of {len(head.config.dims)} LSTMs over {head.config.num_hidden_states} hidden states")
    return 0


if __name__ == "__main__":
    sys.exit(main())
