# SPDX-License-Identifier: Apache-2.0
"""Stages run once, go on after a kill, run again when what they read changed, and say why they failed."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from headrace_stages import process, stamps
from headrace_stages.display import Display
from headrace_stages.scheduler import Scheduler, StageFailedError, locked
from headrace_stages.stage import RunFolder, Stage

PATHS = [str(Path(__file__).resolve().parents[2] / "stages")]


def python(code):
    return (sys.executable, "-c", textwrap.dedent(code))


def copies(name, after=(), inputs=(), source=None, **more):
    """A stage that counts its starts in `starts` and writes `out`, from a file or from the stages before it."""
    sources = [str(source)] if source else [f"../{one}/out" for one in after]
    code = f"""
        from pathlib import Path
        with open("starts", "a") as file:
            file.write("x")
        text = "".join(Path(name).read_text() for name in {sources!r})
        Path("out").write_text(text + {name!r})
        """
    return Stage(name, python(code), ("out",), tuple(inputs), tuple(after), **more)


class Pass:
    """Runs stages in one folder; keeps what was said."""

    def __init__(self, root):
        self.folder = RunFolder(root)
        self.said = ""

    def __call__(self, *stages, jobs=2):
        stream = io.StringIO()
        try:
            Scheduler(self.folder, stages, jobs, 1, {}, "commit", Display(stream)).run()
        finally:
            self.said = stream.getvalue()
        return self

    def read(self, name, file="out"):
        return (self.folder.stage(name) / file).read_text()


@pytest.fixture
def run(tmp_path):
    return Pass(tmp_path / "run")


def diamond(**more):
    return copies("a"), copies("b", ["a"]), copies("c", ["a"]), copies("d", ["b", "c"], **more)


def test_stages_run_after_those_that_they_need(run):
    assert run(*diamond()).read("d") == "abacd"


def test_independent_stages_run_side_by_side(run):
    wait = """
        import time
        from pathlib import Path
        Path("out").write_text("here")
        other = Path("..", {!r}, "out")
        for _ in range(200):
            if other.exists():
                break
            time.sleep(0.05)
        else:
            raise SystemExit("the other one never came")
        """
    run(Stage("left", python(wait.format("right")), ("out",)), Stage("right", python(wait.format("left")), ("out",)))


def test_what_is_whole_is_skipped(run):
    run(*diamond())
    run(*diamond())
    assert [run.read(name, "starts") for name in "abcd"] == ["x"] * 4
    assert run.said.count("whole") == 4


def test_the_report_is_always_made_anew(run):
    run(*diamond(always=True))
    run(*diamond(always=True))
    assert "started  d" in run.said and run.said.count("whole") == 3


def test_a_changed_input_reruns_what_hangs_on_it_and_nothing_else(run, tmp_path):
    source, other = tmp_path / "config", tmp_path / "other"
    source.write_text("1"), other.write_text("2")
    stages = (
        copies("reads", inputs=[source], source=source),
        copies("next", ["reads"]),
        copies("aside", inputs=[other], source=other),
    )
    run(*stages)
    source.write_text("3")
    run(*stages)
    assert run.read("next") == "3readsnext"
    assert run.said.count("whole") == 1 and "whole    aside" in run.said


def test_a_rerun_that_makes_the_same_does_not_rerun_what_hangs_on_it(run, tmp_path):
    source = tmp_path / "config"
    source.write_text("1")
    stages = copies("reads", inputs=[source]), copies("next", ["reads"])
    run(*stages)
    source.write_text("2")
    run(*stages)
    assert "started  reads" in run.said and "whole    next" in run.said


def test_another_command_starts_afresh_in_an_empty_folder(run):
    run(copies("a"))
    (run.folder.stage("a") / "left over").touch()
    run(Stage("a", python("open('out', 'w').write('new')"), ("out",)))
    assert sorted(os.listdir(run.folder.stage("a"))) == ["out"]


def test_what_a_costly_stage_made_is_kept_beside_when_it_starts_afresh(run):
    def other(text):
        return Stage("a", python(f"open('out', 'w').write({text!r})"), ("out",), costly=True)

    run(copies("a", costly=True))
    run(other("b"))
    assert "kept     " in run.said and run.read("a") == "b"
    assert run.read("a.before-1") == "a" and "Path(" in run.read("a.before-1", "a.log")
    run(other("c"))
    assert [run.read(name) for name in ("a.before-1", "a.before-2", "a")] == ["a", "b", "c"]
    run(other("c"))
    assert "kept" not in run.said and "whole    a" in run.said


def test_a_run_and_its_inputs_may_move(run, tmp_path):
    source = tmp_path / "here" / "config"
    source.parent.mkdir()
    source.write_text("1")

    def stages(folder, source):
        return copies("a", inputs=[source]), copies("b", source=folder.stage("a") / "out", after=["a"])

    run(*stages(run.folder, source))
    run.folder.root.rename(tmp_path / "elsewhere")
    source.parent.rename(tmp_path / "there")
    moved = Pass(tmp_path / "elsewhere")
    moved(*stages(moved.folder, tmp_path / "there" / "config"))
    assert moved.said.count("whole") == 2


@pytest.mark.parametrize("content", [None, "", "cut"], ids=["removed", "emptied", "changed"])
def test_a_damaged_output_is_made_again(run, content):
    run(copies("a"))
    path = run.folder.stage("a") / "out"
    path.unlink() if content is None else path.write_text(content)
    assert run(copies("a")).read("a") == "a"


def test_a_failed_stage_tells_its_last_lines_and_its_command_and_stops_the_others(run):
    code = "import time; time.sleep(0.5); print('step 1'); raise SystemExit('the disk is full')"
    bad = Stage("bad", python(code), ("out",))
    long = Stage("long", python("import time; time.sleep(60)"), ("out",))
    with pytest.raises(StageFailedError) as failure:
        run(bad, long)
    told = str(failure.value)
    assert "stage bad ended with exit code 1" in told and "the disk is full" in told and "raise SystemExit" in told
    assert stamps.read(run.folder, "long").state == "begun"
    assert not marked_processes(run.folder.root)


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("headrace_fairseq: no such label", "headrace_fairseq: no such label"),
        ("label_audio.py: earlier\nlabel_audio.py: no such split", "label_audio.py: no such split"),
        ("hubert.py: stage a failed:\n    ValueError: inner", "hubert.py: stage a failed:\n    ValueError: inner"),
    ],
    ids=["fairseq", "script", "stages inside"],
)
def test_what_our_commands_say_is_wrong_stands_first_and_without_what_follows_it(run, written, first):
    report = "\n".join(f"torchrun's report {number}" for number in range(40))
    text = f"epoch 1\n{written}\n{report}\n"
    with pytest.raises(StageFailedError) as failure:
        run(Stage("a", python(f"print({text!r}); raise SystemExit(2)"), ("out",)))
    told = str(failure.value)
    assert told.startswith(f"stage a ended with exit code 2: {first}\nits log: {run.folder.log('a')}\nits command, in ")


def test_what_an_earlier_attempt_said_is_not_told_again(run):
    says, dies = (python(f"print({text!r}); raise SystemExit(2)") for text in ("run.py: early", "Traceback"))
    for command, told in ((says, "code 2: run.py: early"), (dies, r"(?s)code 2\. The last lines of .*    Traceback")):
        with pytest.raises(StageFailedError, match=told):
            run(Stage("a", command, ("out",), told_by=("the same",)))
    assert "goes on  a (attempt 2)" in run.said


def test_a_stage_that_leaves_less_than_it_promised_fails(run):
    with pytest.raises(StageFailedError, match="did not leave out"):
        run(Stage("a", python("pass"), ("out",)))


def test_a_failed_stage_goes_on_where_it_was(run, tmp_path):
    flag = tmp_path / "mended"
    code = f"""
        from pathlib import Path
        if not Path({str(flag)!r}).exists():
            Path("half").write_text("half ")
            raise SystemExit("not yet")
        Path("out").write_text(Path("half").read_text() + "whole")
        """
    with pytest.raises(StageFailedError):
        run(Stage("a", python(code), ("out",)))
    flag.touch()
    assert run(Stage("a", python(code), ("out",))).read("a") == "half whole"
    assert stamps.read(run.folder, "a").attempts == 2


def test_scratch_is_removed_once_the_stage_is_done(run):
    code = "import os; os.mkdir('cache'); open('cache/1', 'w').write('x'); open('out', 'w').write('x')"
    run(Stage("a", python(code), ("out",), scratch=("cache",)))
    assert not (run.folder.stage("a") / "cache").exists()


def test_a_second_run_in_the_same_folder_is_refused(run):
    with locked(run.folder), pytest.raises(ValueError, match=r"another run is at work.* choose another folder$"):
        run(copies("a"))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([copies("a"), copies("a")], "two stages are called 'a'"),
        ([copies("b", ["a"]), copies("a")], "comes after a, which is not listed"),
    ],
    ids=["same name", "wrong order"],
)
def test_a_plan_that_cannot_be_run_is_refused(run, stages, message):
    with pytest.raises(ValueError, match=message):
        run(*stages)


def test_an_input_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(ValueError, match=r"stage a reads .*nowhere"):
        run(copies("a", inputs=[tmp_path / "nowhere"]))


# ---- killed from outside ----

COUNTER = """
    import time
    from pathlib import Path
    count = Path("count")
    for step in range(int(count.read_text()) if count.exists() else 0, 40):
        time.sleep(0.05)
        beside = Path("count.part")
        beside.write_text(str(step + 1))
        beside.replace(count)
    Path("out").write_text("done")
    """

RUNNER = """
import sys
sys.path[:0] = {paths!r}  # as run.py does
from pathlib import Path
from headrace_stages.scheduler import Scheduler, StoppedError
from headrace_stages.stage import RunFolder, Stage
stages = [Stage(name, (sys.executable, "-c", {counter!r}), ("out",)) for name in ("one", "two")]
try:
    Scheduler(RunFolder(Path({root!r})), stages, 2, 1, {{}}, "").run()
except StoppedError:
    sys.exit(130)
"""


def start_counting(root):
    counter = textwrap.dedent(COUNTER)
    code = RUNNER.format(paths=PATHS, counter=counter, root=str(root))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def count(root, name):
    path = root / "stages" / name / "count"
    return int(path.read_text()) if path.exists() else 0


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def marked_processes(root):
    mark = f"{process.MARK}={root}".encode()
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in environment(path)]


def environment(path):
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_a_killed_run_leaves_no_process_and_goes_on(tmp_path, how):
    root = tmp_path / "run"
    first = start_counting(root)
    wait_until(lambda: min(count(root, "one"), count(root, "two")) >= 5)
    first.send_signal(how)
    first.communicate()
    assert first.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    wait_until(lambda: not marked_processes(root))
    reached = count(root, "one")
    assert 5 <= reached < 40
    second = start_counting(root)
    said = second.communicate()[0]
    assert second.returncode == 0
    assert "goes on  one (attempt 2)" in said and count(root, "one") == 40


def test_processes_that_outlived_a_killed_run_are_ended_before_their_stage_goes_on(run):
    orphan, bystander = (
        subprocess.Popen(["sleep", "60"], env=os.environ | {process.MARK: f"{run.folder.root}{end}"})
        for end in ("", "-2")
    )
    try:
        wait_until(lambda: marked_processes(run.folder.root) and marked_processes(f"{run.folder.root}-2"))
        run(copies("a"))
        assert orphan.wait(5) == -signal.SIGKILL and "ended 1 processes" in run.said
        assert bystander.poll() is None
    finally:
        for one in (orphan, bystander):
            one.kill()
            one.wait()
