# SPDX-License-Identifier: Apache-2.0
"""How encoders are scored: s3prl's own run_downstream on today's libraries, and error rates with intervals."""
