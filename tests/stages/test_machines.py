# SPDX-License-Identifier: Apache-2.0
"""Machines that run a stage together start it when all are there, and fail, wait and go on together."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from headrace_stages import stamps
from headrace_stages.joiner import Joiner
from headrace_stages.leader import Leader, farewell
from headrace_stages.machines import Machines, MeetingLostError, address, free_port, open_meeting, reach_meeting
from headrace_stages.scheduler import Scheduler, StageFailedError
from headrace_stages.stage import RunFolder, Stage

STAGES = Path(__file__).resolve().parents[2] / "stages"
LOST_SECONDS = 4.0

# what a part does: each process leaves its rank, and what is asked for in a file beside
PART = """
import os, sys, time
from pathlib import Path
rank = os.environ["RANK"]
Path(f"rank-{rank}").write_text(os.environ["WORLD_SIZE"])
if Path(f"fails-{rank}").exists():
    sys.exit("part.py: this one cannot")
if Path(f"dies-{rank}").exists():
    sys.exit(1)
while Path(f"stays-{rank}").exists():
    time.sleep(0.1)
Path("out").write_text("made")
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "part.py"
    path.write_text(PART)
    return path


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def home(folder):
    """Where the stage runs."""
    folder.stage("together").mkdir(parents=True)
    return folder.stage("together")


def machines_at(port, this=0, processes=1):
    return Machines(2, this, "127.0.0.1", port, processes)


@pytest.fixture
def start_joiner(folder, script):
    """Start machine 1 as a process; all are ended in the end."""
    started = []

    def start(port, processes=1, command=None, count=2):
        code = f"""
            import sys
            sys.path.insert(0, {str(STAGES)!r})
            from pathlib import Path
            from headrace_stages.joiner import Joiner
            from headrace_stages.machines import Machines
            from headrace_stages.stage import RunFolder, Stage
            machines = Machines({count}, 1, "127.0.0.1", {port}, {processes})
            stage = Stage("together", machines.led("together", {command or (str(script),)!r}), ("out",))
            Joiner(RunFolder(Path({str(folder.root)!r}), 1), [stage], machines, 1, wait_seconds=60.0).run()
            """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lead(port, script, home, monkeypatch, wait_seconds=60.0):
    """Machine 0's part, in this process; its exit code. The meeting is over when it returns."""
    monkeypatch.chdir(home)
    machines = machines_at(port)
    leader = Leader(machines, open_meeting(machines), "together", (str(script),), wait_seconds, LOST_SECONDS)
    return leader.run()


def until(holds, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_stage_runs_on_all_machines_and_the_others_end_with_the_run(folder, script, start_joiner):
    port = free_port()
    machines = machines_at(port, processes=2)
    joiner = start_joiner(port, processes=2)
    stage = Stage("together", machines.led("together", (str(script),)), ("out",))
    Scheduler(folder, [stage], 1, 1, {}, "").run()
    farewell(machines, "well")
    said, _ = joiner.communicate(timeout=60)
    assert joiner.returncode == 0, said
    assert "done     together" in said
    ranks = {path.name: path.read_text() for path in folder.stage("together").glob("rank-*")}
    assert ranks == {f"rank-{rank}": "4" for rank in range(4)}
    assert RunFolder(folder.root, 1).log("together").exists()


def test_a_run_that_ended_badly_ends_the_others(start_joiner):
    port = free_port()
    joiner = start_joiner(port)
    farewell(machines_at(port), "badly")
    said, _ = joiner.communicate(timeout=60)
    assert joiner.returncode == 1
    assert "the run ended badly on machine 0" in said


def test_a_machine_whose_part_fails_is_named_with_its_words(script, home, start_joiner, monkeypatch, capfd):
    port = free_port()
    (home / "fails-1").touch()
    start_joiner(port)
    assert lead(port, script, home, monkeypatch) == 1
    assert "machines.py: machine 1: part.py: this one cannot" in capfd.readouterr().out


def test_machine_0_whose_part_fails_ends_the_stage_in_its_own_words(script, home, start_joiner, monkeypatch, capfd):
    port = free_port()
    (home / "fails-0").touch()
    (home / "dies-1").touch()  # as where the connection to machine 0 breaks
    start_joiner(port)
    assert lead(port, script, home, monkeypatch) == 1
    said = capfd.readouterr()
    assert "part.py: this one cannot" in said.out + said.err
    assert "machine 1" not in said.out


def test_two_processes_cannot_be_one_machine(start_joiner):
    port = free_port()
    start_joiner(port)
    time.sleep(5.0)
    second = start_joiner(port)
    said, _ = second.communicate(timeout=60)
    assert "InUseError: another run is at work" in said


def test_machines_wait_for_the_last_before_any_of_them_starts(script, home, start_joiner, monkeypatch, capfd):
    monkeypatch.chdir(home)
    machines = Machines(3, 0, "127.0.0.1", free_port(), 1)
    start_joiner(machines.port, count=3)
    leader = Leader(machines, open_meeting(machines), "together", (str(script),), 8.0, LOST_SECONDS)
    assert leader.run() == 1
    assert "machine 2 did not come" in capfd.readouterr().out
    assert not list(home.glob("rank-*"))


def test_a_farewell_that_nobody_can_hear_is_a_warning(monkeypatch, capsys):
    monkeypatch.setattr("headrace_stages.machines.ANSWER_SECONDS", 0.3)
    machines = machines_at(free_port())
    taken = open_meeting(machines)
    farewell(machines, "well")
    assert "warning: the other machines were not told that the run is over: --meet: nothing" in capsys.readouterr().out
    assert taken.look("over") is None


def test_a_machine_that_missed_the_farewell_of_a_whole_run_ends_well(folder):
    stage = Stage("last", (), ())
    stamps.write(folder, "last", stamps.Stamp("key", "done", []))
    joiner = Joiner(folder, [stage], machines_at(free_port(), this=1), 1, wait_seconds=0.3)
    assert joiner.run() is None


def test_another_command_on_a_machine_is_refused_on_both(script, home, start_joiner, monkeypatch, capfd):
    port = free_port()
    joiner = start_joiner(port, command=(str(script), "--another"))
    assert lead(port, script, home, monkeypatch) == 1
    assert "machine 1: stage together is another command here than on machine 0" in capfd.readouterr().out
    said, _ = joiner.communicate(timeout=60)
    assert "ValueError: stage together is another command here" in said
    assert not list(home.glob("rank-*"))


def test_a_machine_that_does_not_come_is_named(script, home, monkeypatch, capfd):
    port = free_port()
    assert lead(port, script, home, monkeypatch, wait_seconds=1.0) == 1
    assert f"machines.py: machine 1 did not come to 127.0.0.1:{port}" in capfd.readouterr().out


@pytest.mark.parametrize("pause", [0.0, LOST_SECONDS], ids=["at once", "a while later"])
def test_a_machine_that_was_killed_comes_back_and_the_stage_goes_on(
    script, home, start_joiner, monkeypatch, capfd, pause
):
    port = free_port()
    for rank in range(2):
        (home / f"stays-{rank}").touch()
    first = start_joiner(port)

    def kill_and_start_again():
        until((home / "rank-1").exists)
        os.kill(first.pid, signal.SIGKILL)
        (home / "stays-1").unlink()
        (home / "rank-1").unlink()
        first.wait()
        time.sleep(pause)
        start_joiner(port)
        until((home / "rank-1").exists)
        (home / "stays-0").unlink()

    other = threading.Thread(target=kill_and_start_again)
    other.start()
    code = lead(port, script, home, monkeypatch)
    other.join()
    assert code == 0
    assert "machine 1 was lost; going on when it is there again" in capfd.readouterr().out
    assert (home / "rank-1").exists()


def test_the_others_outlive_machine_0_and_take_part_when_it_is_there_again(script, home, start_joiner, monkeypatch):
    port = free_port()
    (home / "stays-0").touch()
    (home / "stays-1").touch()
    joiner = start_joiner(port)
    led = [str(STAGES / "lead.py"), "2", "1", f"127.0.0.1:{port}", "together", "--", str(script)]
    killed = subprocess.Popen([sys.executable, *led], cwd=home)
    until((home / "rank-1").exists)
    killed.kill()
    killed.wait()
    for name in ("stays-0", "stays-1", "rank-1"):
        (home / name).unlink()
    assert lead(port, script, home, monkeypatch) == 0
    assert (home / "rank-1").exists()
    assert joiner.poll() is None


def test_machine_0_that_is_not_there_is_told_with_its_address(folder):
    port = free_port()
    joiner = Joiner(folder, [], machines_at(port, this=1), 1, wait_seconds=0.3)
    with pytest.raises(ValueError, match=f"machine 0 has opened nothing at 127.0.0.1:{port}"):
        joiner.run()


def test_a_meeting_that_is_over_is_lost_to_the_others():
    machines = machines_at(free_port())
    meeting = open_meeting(machines)
    meeting.put("key", "text")
    other = reach_meeting(machines_at(machines.port, this=1), 10.0)
    assert other.look("key") == "text"
    assert other.look("another") is None
    del meeting
    with pytest.raises(MeetingLostError):
        for _ in range(100):
            other.look("key")


@pytest.mark.parametrize(
    "text", ["node17", ":29400", "node17:", "node17:port", "node17:0", "node17:70000", "fe80::1", "http://node17:29400"]
)
def test_an_address_is_a_host_and_a_port(text):
    with pytest.raises(ValueError, match=r"--meet: expected HOST:PORT of machine 0, .* got"):
        address(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("node17:29400", ("node17", 29400)), ("[fe80::1]:29400", ("fe80::1", 29400))]
)
def test_an_address_is_taken_apart(text, expected):
    assert address(text) == expected


@pytest.mark.parametrize(
    ("count", "this", "said"),
    [
        (1, 0, "--machines: expected 2 or more with --meet, got 1"),
        (2, 2, "--machine: expected 0 to 1, as --machines says, got 2"),
        (3, -1, "--machine: expected 0 to 2, as --machines says, got -1"),
    ],
)
def test_machines_that_cannot_be_are_refused(count, this, said):
    with pytest.raises(ValueError, match=said):
        Machines(count, this, "localhost", 29400, 1)


def test_a_port_that_another_program_has_is_told(monkeypatch):
    monkeypatch.setattr("headrace_stages.machines.ANSWER_SECONDS", 0.5)
    machines = machines_at(free_port())
    meeting = open_meeting(machines)
    with pytest.raises(ValueError, match=f"--meet: nothing can be opened at 127.0.0.1:{machines.port}"):
        open_meeting(machines)
    assert meeting.look("key") is None


def test_a_failed_stage_of_all_machines_is_told_in_their_words(folder, script):
    machines = machines_at(free_port())
    (folder.stage("together")).mkdir(parents=True)
    command = machines.led("together", (str(script),))
    odd = (*command[:4], "nowhere", *command[5:])  # no HOST:PORT
    with pytest.raises(StageFailedError, match=r"lead.py: --meet: expected HOST:PORT"):
        Scheduler(folder, [Stage("together", odd, ("out",))], 1, 1, {}, "").run()
