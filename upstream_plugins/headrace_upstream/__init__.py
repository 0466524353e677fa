# SPDX-License-Identifier: Apache-2.0
"""headrace encoders as s3prl upstreams. Needs s3prl for ``register`` only; the upstream itself is plain torch."""
