# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: DESIGN's rules as one table, held against the syntax trees of the sources."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# The library's layers, lowest first. A module imports its own layer and lower ones only.
LAYERS = [
    "durations", "reach", "ops", "linear", "pieces", "streaming", "positions", "mixers", "drawn", "frontend",
    "log_mel", "frontends", "config", "convolution", "conformer", "blocks", "live", "encoder", "graph", "int8",
    "checkpoint", "head", "latency", "certificate", "certificate_page", "stream", "recordings", "attention_map",
    "attention_report", "attention_page", "export", "doctor", "cli",
]  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """What the sources under one folder may import beside the standard library."""

    ours: tuple[str, ...]
    others: tuple[str, ...]
    inside_functions: tuple[str, ...] = ()  # extras: imported when asked for, never when the module is


RULES = {
    "headrace": Rule(
        ours=("headrace",),
        others=("torch", "numpy", "soundfile", "safetensors"),
        inside_functions=("matplotlib", "huggingface_hub", "sounddevice"),
    ),
    "manifests": Rule(
        ours=("headrace_manifests",),
        others=("numpy", "soundfile", "soxr", "tqdm", "espeakng_loader"),
    ),
    "pretrain": Rule(
        ours=("headrace_fairseq", "headrace_labels", "headrace_pretraining", "headrace_stages", "headrace"),
        others=(
            "fairseq", "fairseq_cli", "hydra", "omegaconf", "torch", "numpy", "sklearn", "joblib", "kaldi_native_fbank",
            "safetensors", "soundfile", "tensorboardX", "tqdm", "yaml",
        ),
    ),
    "upstream_plugins": Rule(
        ours=("headrace_upstream", "headrace"),
        others=("s3prl", "torch", "numpy"),
    ),
    "downstream": Rule(
        ours=("headrace_downstream", "headrace_upstream", "headrace"),
        others=(
            "s3prl", "torch", "torchaudio", "numpy", "soundfile", "soxr", "huggingface_hub", "jiwer", "yaml", "tqdm",
        ),
    ),
    "stages": Rule(ours=("headrace_stages", "headrace"), others=("torch",)),
    "experiments": Rule(
        ours=(
            "headrace_experiments", "headrace_stages", "headrace_manifests", "headrace_pretraining",
            "headrace_downstream", "headrace",
        ),
        others=("torch", "numpy", "soundfile", "yaml", "tqdm", "matplotlib", "tensorboardX"),
    ),
    "benchmarks": Rule(
        ours=("headrace",),
        others=("torch", "numpy", "matplotlib"),
        inside_functions=("chill_attention", "sklearn"),  # peers
    ),
    "csrc": Rule(ours=(), others=(), inside_functions=("torch",)),
    "docs": Rule(ours=("headrace",), others=("torch", "numpy", "matplotlib")),
    "hubconf.py": Rule(ours=("headrace_upstream", "headrace"), others=("torch",)),
    "setup.py": Rule(ours=(), others=("setuptools", "torch")),
}  # fmt: skip

OURS = {name for rule in RULES.values() for name in rule.ours}


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and whether the import stands inside a function."""

    module: str
    line: int
    inside_function: bool


def imports_of(source: str, package: str = "") -> list[Import]:
    """Every import of a source text, relative ones resolved against ``package``; none that only a type checker sees."""
    found: list[Import] = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            found.extend(Import(f"{base}.{alias.name}", node.lineno, inside) for alias in node.names)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    base = parents[: len(parents) - node.level + 1]
    return ".".join(base + ([node.module] if node.module else []))


def offences(rule: Rule, imports: list[Import], scripts_beside: set[str]) -> list[str]:
    """The imports that a rule forbids, each with its line."""
    bad = []
    for item in imports:
        top = item.module.split(".")[0]
        allowed = top in {*sys.stdlib_module_names, *rule.ours, *rule.others, *scripts_beside}
        allowed |= item.inside_function and top in rule.inside_functions
        if not allowed:
            bad.append(f"line {item.line}: {item.module}")
    return bad


def layer_offences(module: str, imports: list[Import]) -> list[str]:
    """Imports inside the library that point upwards. ``module`` is the importing module's full name."""
    parts = module.split(".")
    if len(parts) < 2:
        return []  # headrace/__init__.py only lists the public names
    here = LAYERS.index(parts[1])
    bad = []
    for item in imports:
        target = item.module.split(".")
        if target[0] == "headrace" and (target[1] not in LAYERS or LAYERS.index(target[1]) > here):
            bad.append(f"line {item.line}: {parts[1]} imports {item.module}")
    return bad


def sources() -> list[Path]:
    """Every Python file that the rules speak of, relative to the repository."""
    found = []
    for name in RULES:
        path = REPOSITORY / name
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [path.relative_to(REPOSITORY) for path in found]


def package_of(path: Path) -> str:
    """Import name of the package that a source belongs to: "" for a script."""
    folders = [part for part in path.parts[:-1] if part in OURS or _inside_package(path, part)]
    return ".".join(folders)


def _inside_package(path: Path, part: str) -> bool:
    position = path.parts.index(part)
    return any(parent in OURS for parent in path.parts[:position])


def module_of(path: Path) -> str:
    package = package_of(path)
    return package if path.stem == "__init__" else f"{package}.{path.stem}".lstrip(".")


@pytest.mark.parametrize("path", sources(), ids=str)
def test_a_source_imports_only_what_its_folder_may(path):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    beside = {other.stem for other in (REPOSITORY / path).parent.glob("*.py")} if not package_of(path) else set()
    assert not offences(RULES[path.parts[0]], imports_of(text, package_of(path)), beside)


@pytest.mark.parametrize("path", [p for p in sources() if p.parts[0] == "headrace"], ids=str)
def test_the_library_imports_only_lower_layers(path):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert not layer_offences(module_of(path), imports_of(text, package_of(path)))


def test_every_python_file_outside_the_tests_has_a_rule():
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    ours = {name for name in folders if not name.startswith(".")} - {"tests", "runs", "build", "outputs"}
    assert ours <= set(RULES)


@pytest.mark.parametrize(
    ("folder", "source", "forbidden"),
    [
        ("headrace", "import fairseq", "fairseq"),
        ("headrace", "from s3prl.nn import S3PRLUpstream", "s3prl"),
        ("headrace", "def f():\n    import hydra", "hydra"),
        ("headrace", "try:\n    import transformers\nexcept ImportError:\n    pass", "transformers"),
        ("headrace", "import matplotlib", "matplotlib"),
        ("headrace", "from headrace_upstream import expert", "headrace_upstream"),
        ("upstream_plugins", "import fairseq", "fairseq"),
        ("pretrain", "import s3prl.hub", "s3prl"),
        ("downstream", "from fairseq import checkpoint_utils", "fairseq"),
        ("manifests", "import headrace", "headrace"),
        ("experiments", "from tests.conftest import SEED", "tests"),
        ("headrace", "from benchmarks.cases import CASES", "benchmarks"),
    ],
    ids=lambda value: str(value).split("\n")[0],
)
def test_a_forbidden_import_is_caught(folder, source, forbidden):
    assert forbidden in str(offences(RULES[folder], imports_of(source), set()))


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("headrace", "import math\nimport torch.nn.functional as F\nfrom headrace.reach import Band"),
        ("headrace", "def picture():\n    import matplotlib.pyplot"),
        ("downstream", "import s3prl.hub"),
        ("pretrain", "from fairseq.models import register_model"),
    ],
    ids=["the four", "an extra inside a function", "s3prl downstream", "fairseq in pretrain"],
)
def test_an_allowed_import_is_let_through(folder, source):
    assert not offences(RULES[folder], imports_of(source), set())


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("headrace.ops.sa", "from headrace.mixers import MIXERS", True),
        ("headrace.ops.sa", "from ..mixers import MIXERS", True),
        ("headrace.reach", "from headrace import encoder", True),
        ("headrace.encoder", "import headrace.cli", True),
        ("headrace.encoder", "from headrace.ops import sa", False),
        ("headrace.ops.sa", "from . import reference", False),
        ("headrace.reach", "if TYPE_CHECKING:\n    from headrace.encoder import SpeechEncoder", False),
    ],
)
def test_an_import_that_points_upwards_is_caught(module, source, caught):
    package = module.rpartition(".")[0]
    assert bool(layer_offences(module, imports_of(source, package))) is caught
