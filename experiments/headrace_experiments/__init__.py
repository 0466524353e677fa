# SPDX-License-Identifier: Apache-2.0
"""Experiments as stages that can be killed and go on, from corpora to a report: `make demo`, `make results`."""
