# SPDX-License-Identifier: Apache-2.0
"""What the manifest commands share: measuring audio, the quarantine list, whole files, the demo corpus."""
