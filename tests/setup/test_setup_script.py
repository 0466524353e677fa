# SPDX-License-Identifier: Apache-2.0
""".ci/setup makes .venv whole or makes it again: killed, run twice, run at once. A stand-in Python counts installs."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Plays `python -m venv` (it copies itself into .venv/bin) and pip (it writes down what it was asked to install).
# A file `hold` in the folder makes the install of fairseq wait; a file `torch_is_bare` makes `import torch` fail until
# pip has resolved torch's own requirements.
STAND_IN = r"""#!/usr/bin/env bash
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo venv >>calls ;;
    "-c import torch") [ ! -e torch_is_bare ] || exit 1 ;;
    *"cache list"*) echo " - fairseq_fixed-0.12.3.1-cp311-cp311-linux_x86_64.whl" ;;
    *" install "*)
        while [ -r .venv/part ] && grep -q fairseq .venv/part && [ -e hold ]; do touch held; sleep 0.02; done
        case "$*" in *--constraint*) rm -f torch_is_bare ;; esac
        echo "$*" >>calls ;;
esac
"""
TOOLS = ["bash", "sh", "cat", "cp", "cut", "dirname", "env", "flock", "grep", "head", "mkdir", "mv", "rm"]
TOOLS += ["find", "sed", "sha256sum", "sleep", "sort", "touch"]


@pytest.fixture
def checkout(tmp_path, repository) -> Iterator[Path]:
    """The set-up script, the lock file and a stand-in Python in a folder whose name has a space."""
    folder = tmp_path / "a checkout"
    (folder / ".ci").mkdir(parents=True)
    (folder / "csrc").mkdir()
    for name in (".ci/setup", "requirements.lock", "pyproject.toml", "setup.py", "csrc/operations.cpp"):
        shutil.copy(repository / name, folder / name)
    (folder / "python3.11").write_text(STAND_IN)
    (folder / "python3.11").chmod(0o755)
    yield folder
    (folder / "hold").unlink(missing_ok=True)


def start(checkout: Path, **environment: str) -> subprocess.Popen[str]:
    command = [checkout / ".ci" / "setup"]
    variables = {**os.environ, "PATH": f"{checkout}:{os.environ['PATH']}", "PYTHON": "", **environment}
    return subprocess.Popen(
        command,
        env=variables,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,  # tests kill it with its children
    )


def run(checkout: Path, **environment: str) -> tuple[int, str]:
    process = start(checkout, **environment)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


def environments_made(checkout: Path) -> int:
    return calls(checkout).count("venv")


def wait_until_fairseq_is_being_installed(checkout: Path) -> None:
    for _ in range(1500):
        if (checkout / "held").exists():
            return
        time.sleep(0.02)
    raise TimeoutError("the set-up never came to fairseq")


def test_every_install_is_exact_and_resolves_nothing(checkout):
    code, output = run(checkout)
    assert code == 0, output
    installs = [call for call in calls(checkout) if call != "venv"]
    assert len(installs) == 5
    assert all("--no-deps --no-build-isolation" in call for call in installs)
    assert installs[-1].endswith("--editable .")


def test_a_second_run_does_nothing(checkout):
    run(checkout)
    before = calls(checkout)
    assert run(checkout) == (0, "")
    assert calls(checkout) == before


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_set_up_that_was_killed_is_thrown_away_and_made_again(checkout, sign):
    (checkout / "hold").touch()
    process = start(checkout)
    wait_until_fairseq_is_being_installed(checkout)
    os.killpg(process.pid, sign)
    process.communicate(timeout=60)
    (checkout / ".venv" / "half-made").touch()
    (checkout / "hold").unlink()
    assert run(checkout)[0] == 0
    assert environments_made(checkout) == 2
    assert not [*checkout.glob(".venv*/half-made")]


def test_a_set_up_whose_pip_outlives_it_is_waited_for(checkout):
    (checkout / "hold").touch()
    first = start(checkout)
    wait_until_fairseq_is_being_installed(checkout)
    first.kill()  # the script alone: its pip goes on
    first.wait()
    second = start(checkout)
    assert "waiting" in second.stdout.readline()
    assert environments_made(checkout) == 1
    (checkout / "hold").unlink()
    second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert (second.returncode, environments_made(checkout)) == (0, 2)


def test_two_at_once_make_one_environment(checkout):
    (checkout / "hold").touch()
    first = start(checkout)
    wait_until_fairseq_is_being_installed(checkout)
    second = start(checkout)
    assert "waiting" in second.stdout.readline()
    (checkout / "hold").unlink()
    first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert (first.returncode, second.returncode, environments_made(checkout)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("changed", "made"),
    [("requirements.lock", 2), ("pyproject.toml", 1), ("setup.py", 1), ("csrc/operations.cpp", 1)],
    ids=[
        "a new lock: all again",
        "new metadata: the project alone",
        "a new setup.py: the project alone",
        "a new kernel: the project alone",
    ],
)
def test_what_changed_is_installed_again(checkout, changed, made):
    run(checkout)
    before = len(calls(checkout))
    (checkout / changed).write_text((checkout / changed).read_text() + "\n# changed\n")
    assert run(checkout)[0] == 0
    assert environments_made(checkout) == made
    assert calls(checkout)[-1].endswith("--editable .")
    assert len(calls(checkout)) > before


def test_a_checkout_that_was_moved_is_set_up_again(checkout):
    run(checkout)
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert run(moved)[0] == 0
    assert environments_made(moved) == 2


def test_an_environment_of_somebody_else_is_set_aside_not_removed(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "theirs").touch()
    code, output = run(checkout)
    assert (code, len(list(checkout.glob(".venv.aside.*/theirs")))) == (0, 1)
    assert "setting it aside" in output


def test_a_torch_without_its_libraries_fetches_those_that_it_pins(checkout):
    (checkout / "torch_is_bare").touch()
    code, output = run(checkout)
    assert code == 0, output
    assert any(call.endswith(" install --constraint requirements.lock torch==2.13.0") for call in calls(checkout))
    assert "no CPU build of torch was found" in output


@pytest.mark.parametrize("name", ["python3", "python"])
def test_python_3_11_is_found_under_another_name(checkout, name):
    (checkout / "python3.11").rename(checkout / name)
    assert run(checkout, PATH=path_without_python(checkout))[0] == 0


def test_a_python_that_was_named_and_does_not_fit_is_refused(checkout):
    code, output = run(checkout, PYTHON="/nowhere/python3.11")
    assert code == 1
    assert "found: none" in output


@pytest.mark.parametrize("name", ["python3.11", "python3"], ids=["a python3.11 that does not run", "an old python3"])
def test_without_python_3_11_one_clear_line_says_what_to_do(checkout, name):
    (checkout / "python3.11").unlink()
    (checkout / name).write_text("#!/bin/sh\ncase $1 in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac\n")
    (checkout / name).chmod(0o755)
    code, output = run(checkout, PATH=path_without_python(checkout))
    assert code == 1
    assert "Python 3.11 with the venv module is needed" in output
    assert f"found: {checkout}/{name} (Python 3.9.2)" in output
    assert "make PYTHON=" in output
    assert not (checkout / ".venv").exists()


def path_without_python(checkout: Path) -> str:
    """A PATH with what the script calls and no Python but the checkout's."""
    tools = checkout / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))
    return f"{checkout}:{tools}"
