# SPDX-License-Identifier: Apache-2.0
"""Long work as stages: commands side by side, skipped when whole, gone on with when killed, with the time left told."""
