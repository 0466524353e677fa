# SPDX-License-Identifier: Apache-2.0
"""fairseq imports every file of this folder; each registers one model."""
