# SPDX-License-Identifier: Apache-2.0
"""One ``fairseq-hydra-train`` in a forked process: arguments, folder and log come as globals from ``conftest.py``."""

import contextlib
import os
import resource
import sys

os.chdir(FOLDER)  # noqa: F821
with open(LOG, "ab") as log:  # noqa: F821, PTH123
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
if MAX_FILE_BYTES is not None:  # noqa: F821
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))  # noqa: F821
sys.argv = ["fairseq-hydra-train", *ARGUMENTS]  # noqa: F821

from fairseq_cli.hydra_train import cli_main  # noqa: E402

with (
    contextlib.redirect_stdout(os.fdopen(1, "w", buffering=1)),
    contextlib.redirect_stderr(os.fdopen(2, "w", buffering=1)),
):
    cli_main()
