# SPDX-License-Identifier: Apache-2.0
"""A mistake is one line and exit code 2 under fairseq's command, an exception in a program of one's own."""

import sys

import pytest

pytest.importorskip("fairseq", reason="fairseq is not installed")
from headrace_fairseq import errors


@pytest.mark.parametrize("error", [ValueError("what, where"), OSError(28, "No space left on device")], ids=str)
@pytest.mark.parametrize("program", ["/env/bin/fairseq-hydra-train", "/env/lib/fairseq_cli/hydra_train.py"])
def test_under_fairseqs_command_a_mistake_is_one_line(monkeypatch, capsys, program, error):
    monkeypatch.setattr(sys, "argv", [program])  # what a process has that fairseq spawned, where Hydra knows nothing
    with pytest.raises(SystemExit) as end, errors.one_clear_line():
        raise error
    assert end.value.code == 2
    assert capsys.readouterr().err == f"headrace_fairseq: {error}\n"


def test_elsewhere_a_mistake_is_an_exception(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    with pytest.raises(ValueError, match="what, where"), errors.one_clear_line():
        raise ValueError("what, where")


def test_other_exceptions_are_ours_and_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fairseq-hydra-train"])
    with pytest.raises(KeyError), errors.one_clear_line():
        raise KeyError("ours")


@pytest.mark.parametrize(("rank", "waited"), [(0, []), (3, [errors.FIRST_RANK_SECONDS])])
def test_the_first_process_speaks_before_the_others(monkeypatch, rank, waited):
    slept = []
    monkeypatch.setattr(sys, "argv", ["fairseq-hydra-train"])
    monkeypatch.setattr(errors, "get_global_rank", lambda: rank)
    monkeypatch.setattr(errors.time, "sleep", slept.append)
    with pytest.raises(SystemExit), errors.one_clear_line():
        raise ValueError("what, where")
    assert slept == waited
