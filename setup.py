# SPDX-License-Identifier: Apache-2.0
"""What the wheel holds, and the native kernels in it; everything that can be said as data stands in pyproject.toml."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CHECKOUT = Path(__file__).resolve().parent


def native_build():  # noqa: ANN201
    """csrc/build.py as a module."""
    spec = importlib.util.spec_from_file_location("headrace_native_build", CHECKOUT / "csrc" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildNative(build_ext):
    """headrace/_C.so; where it cannot be built, the package is installed without it and runs on the torch path."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"  # no Python symbol in it: one name for every Python

    def build_extension(self, ext: Extension) -> None:
        package = Path(self.get_ext_fullpath(ext.name)).parent
        package.mkdir(parents=True, exist_ok=True)
        module = native_build()
        try:
            module.build(package)
        except module.CannotBuildError as error:
            self.warn(f"headrace is installed without its native kernels and runs on the torch path: {error}")

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()  # an editable install
        record = Path(self.build_lib) / "headrace" / "native_build.json"
        if record.exists():
            self.copy_file(str(record), str(CHECKOUT / "headrace" / record.name))

    def get_outputs(self) -> list[str]:
        # the record stands beside the kernels, also where these were not built
        every = [Path(path) for path in super().get_outputs()]
        every += [path.with_name("native_build.json") for path in every]
        return [str(path) for path in every if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {out: source for out, source in super().get_output_mapping().items() if Path(source).exists()}


class AnyPython(bdist_wheel):
    """One wheel for every Python 3 of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=find_packages(include=["headrace", "headrace.*"])
    + find_packages("upstream_plugins", include=["headrace_upstream", "headrace_upstream.*"]),
    package_dir={"headrace_upstream": "upstream_plugins/headrace_upstream"},
    ext_modules=[Extension("headrace._C", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": AnyPython},
)
