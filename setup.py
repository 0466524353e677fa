# SPDX-License-Identifier: Apache-2.0
"""What the wheel holds; everything else that can be said as data stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["headrace", "headrace.*"])
    + find_packages("upstream_plugins", include=["headrace_upstream", "headrace_upstream.*"]),
    package_dir={"headrace_upstream": "upstream_plugins/headrace_upstream"},
)
