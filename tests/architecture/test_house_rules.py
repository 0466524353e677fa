# SPDX-License-Identifier: Apache-2.0
"""Rules of CONTRIBUTING.md that a machine can hold: length, licence line, nothing of one machine in the text."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = {".py", ".sh", ".cpp", ".cu", ".cuh", ".h"}
TEXTS = SOURCES | {".md", ".toml", ".yaml", ".yml", ".lock", ".json", ".html", ""}
NOT_OURS = {"runs", "build", "outputs", "multirun", "__pycache__"}

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 70
LONG_FILES: dict[str, str] = {}  # path: the reason why it is one thing all the same
OF_ONE_MACHINE = {
    "a home folder": re.compile(r"(?<![\w.])/(?:root|home/\w+)/"),
    "a folder of a build machine": re.compile(r"(?<![\w./])/(?:work|opt/(?:wheels|pypi))\b"),
    "a registry's host": re.compile(
        r"\b(?:pypi[.]org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org)\b"
    ),
    "an address in a network": re.compile(
        r"(?<![\d.])(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?![\d.])"
    ),
}


def texts(endings: set[str]) -> list[Path]:
    """Files of the checkout with one of the endings, relative to it; what tools and runs leave is not ours."""
    found = []
    for path in sorted(REPOSITORY.rglob("*")):
        parts = path.relative_to(REPOSITORY).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts)
        left = NOT_OURS & set(parts) or ".egg-info" in str(path)
        if path.is_file() and not hidden and not left and path.suffix in endings:
            found.append(path.relative_to(REPOSITORY))
    return found


def functions_longer_than(limit: int, source: str) -> list[str]:
    """Names of the functions of a source text that are longer than ``limit`` lines."""
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [f"{f.name} ({f.end_lineno - f.lineno + 1} lines)" for f in functions if f.end_lineno - f.lineno >= limit]


@pytest.mark.parametrize("path", texts(SOURCES), ids=str)
def test_a_source_is_one_thing_or_says_why_it_is_long(path):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES or LONG_FILES.get(str(path)), "split it, or say why in LONG_FILES"
    if path.suffix == ".py":
        assert not functions_longer_than(MOST_LINES_OF_A_FUNCTION, text)


def test_no_reason_outlives_its_long_file():
    lengths = {name: (REPOSITORY / name).read_text(encoding="utf-8").count("\n") for name in LONG_FILES}
    assert not [name for name, lines in lengths.items() if lines <= MOST_LINES]


@pytest.mark.parametrize("path", [p for p in texts(SOURCES) if (REPOSITORY / p).stat().st_size], ids=str)
def test_a_source_names_its_licence_at_the_top(path):
    head = (REPOSITORY / path).read_text(encoding="utf-8").splitlines()[:2]
    assert any("SPDX-License-Identifier: Apache-2.0" in line for line in head)


@pytest.mark.parametrize("path", texts(TEXTS), ids=str)
def test_a_text_names_nothing_of_one_machine(path):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    found = {what: pattern.findall(text) for what, pattern in OF_ONE_MACHINE.items() if pattern.search(text)}
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "cd /" + "root/corpus",
        "see /" + "work/shared",
        "--index https://" + "pypi" + ".org/simple",
        "host 10." + "0.0.7",
        "/" + "opt/wheels",
    ],
)
def test_what_belongs_to_one_machine_is_caught(text):
    assert any(pattern.search(text) for pattern in OF_ONE_MACHINE.values())


@pytest.mark.parametrize(
    "text", ["../shared/data", "exp/work/llsa", "torch 2.13.0", "10.3 ms, 10.5.1", "a/home/b", "PyPI"]
)
def test_what_belongs_to_no_machine_is_let_through(text):
    assert not any(pattern.search(text) for pattern in OF_ONE_MACHINE.values())


def test_a_long_function_is_caught():
    source = "def short():\n    pass\n\ndef long():\n" + "    x = 1\n" * 70
    assert functions_longer_than(70, source) == ["long (71 lines)"]
