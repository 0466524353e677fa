# SPDX-License-Identifier: Apache-2.0
"""fairseq's ``common.user_dir``: trains headrace's encoder under fairseq's own task, criterion and command line.

fairseq imports this package, then every file of ``models/``. Nothing here is needed to load or to run what it trained.
"""

from headrace_fairseq import checkpoints, cpu_distributed

checkpoints.install()
cpu_distributed.install()
