# SPDX-License-Identifier: Apache-2.0
"""A pretraining from outside: what its configuration describes, and HuBERT's iterations as stages. Without fairseq."""
