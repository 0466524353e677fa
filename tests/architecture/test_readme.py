# SPDX-License-Identifier: Apache-2.0
"""What the README shows is true: its code runs, its map names what is there."""

import re
import subprocess
import sys

import pytest

# Where a folder or a sound file is named in the README's code, the test lays one of that name before running it.
PREPARE = """
import pathlib, re, sys, numpy, soundfile, torch, headrace
code = pathlib.Path(sys.argv[1]).read_text()
config = headrace.EncoderConfig(
    num_layers=2, embed_dim=16, ffn_dim=32, num_heads=2, look_ahead=2, look_back=6,
    conv_layers=[[16, 10, 5], [16, 8, 8], [16, 8, 8]],
)
for folder in re.findall(r'headrace\\.load\\("([^"]+)"', code):
    headrace.checkpoint.save(headrace.SpeechEncoder(config), folder, provenance={"objective": "none"})
for sound in re.findall(r'"([^"]+\\.(?:wav|flac))"', code):
    pathlib.Path(sound).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(sound, numpy.random.default_rng(0).normal(0, 0.1, 16000), 16000)
exec(compile(code, "README.md", "exec"), {})
"""
SILENT = {"README.md", ".gitignore", ".clang-format"}  # the map itself, and what only tools read


def test_the_code_blocks_of_the_readme_run(repository, tmp_path):
    readme = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    assert blocks, "README.md shows no Python code"
    code = tmp_path / "readme.py"
    code.write_text("\n".join(blocks))
    command = [sys.executable, "-P", "-c", PREPARE, code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_map_in_the_readme_names_every_top_level_entry(repository):
    listed = _files_in_the_repository(repository)
    readme = (repository / "README.md").read_text(encoding="utf-8")
    missing = sorted(top for top in {name.split("/")[0] for name in listed} - SILENT if not _names(readme, top))
    assert not missing, f"README.md's map does not name {missing}"


@pytest.mark.parametrize(("entry", "named"), [("tests", True), ("test", False), ("headrace", True), ("race", False)])
def test_an_entry_counts_as_named_only_as_a_whole_word(entry, named):
    assert _names("headrace/   the library\ntests/   mirrors this tree", entry) is named


def _names(text: str, entry: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(entry)}(?![\w-])", text) is not None


def _files_in_the_repository(repository) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: which files belong to it is not known")
    return done.stdout.splitlines()
