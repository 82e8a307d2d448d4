"""`make leaks`, tried on a small tree: what it calls caught, what it does not, and that it leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.leaks.copies import Copy, UnfaithfulCopyError
from tests.leaks.gate import ClosedError, Finding
from tests.leaks.model import Mutation, Verdict
from tests.leaks.processes import start_anew
from tests.leaks.run import run
from tests.leaks.trial import Trial

DOOR: Final = """
import time

LIMIT = 3


def opens(key):
    if key != "right":
        return False
    return True


def describe():
    return "a door"


def main():
    print(opens("wrong"))
"""
TESTS: Final = """
import os
import subprocess
import sys
from pathlib import Path

from house.door import opens

BARE = {"PATH": os.environ["PATH"]}


def test_the_wrong_key_opens_nothing():
    assert not opens("wrong")


def test_a_program_knows_it_too():
    command = [sys.executable, "-P", "-c", "from house.door import main; main()"]
    assert subprocess.run(command, cwd="/", env=BARE, capture_output=True, text=True).stdout == "False\\n"


def test_a_script_knows_it_too():
    script = str(Path(sys.executable).with_name("door"))
    assert subprocess.run([script], cwd="/", env=BARE, capture_output=True, text=True).stdout == "False\\n"


def test_that_is_red():
    assert opens("wrong")


def test_that_takes_for_ever():
    (Path(os.environ["TMPDIR"]) / "begun").touch()
    __import__("time").sleep(600)
"""
PROJECT: Final = '[project]\nname = "house"\nversion = "1"\nscripts = {door = "house.door:main"}\n'
FILE: Final = "house/door.py"
CHECK: Final = '    if key != "right":\n'


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing of it is committed: what git has not been told of yet is a part of a tree, too."""
    root = tmp_path_factory.mktemp("house")
    for name, text in {
        FILE: DOOR,
        "house/__init__.py": "",
        "tests/test_door.py": TESTS,
        "pyproject.toml": PROJECT,
        ".gitignore": "secret\n",
        "secret": "not for copies",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def mutation(name: str, before: str, after: str, *, test: str = "test_the_wrong_key_opens_nothing") -> Mutation:
    return Mutation(name=name, file=FILE, before=before, after=after, noticed_by=(f"tests/test_door.py::{test}",))


MUTATIONS: Final = [
    mutation("caught", CHECK, "    if not key:\n"),
    mutation("useless", "LIMIT = 3", "LIMIT = 4"),
    mutation("not imported", "import time", "import tim"),
    mutation("no Python", "def describe():", "def describe("),
    mutation("a name too few", CHECK, "    if key != wanted:\n"),
    mutation("out of time", CHECK, "    raise TimeoutError\n    if key:\n"),
    mutation("caught by a program", CHECK, "    if not key:\n", test="test_a_program_knows_it_too"),
    mutation("caught by a script", CHECK, "    if not key:\n", test="test_a_script_knows_it_too"),
]


@pytest.fixture(scope="module")
def findings(tree: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in asyncio.run(run(MUTATIONS, tree=tree))}


def test_every_mutation_has_its_finding_in_order(findings: dict[str, Finding]) -> None:
    assert list(findings) == [one.name for one in MUTATIONS]


@pytest.mark.parametrize("name", ["caught", "caught by a program", "caught by a script"])
def test_a_wall_that_a_test_needs_is_caught_in_every_process_of_the_test(
    name: str, findings: dict[str, Finding]
) -> None:
    (test,) = next(one.noticed_by for one in MUTATIONS if one.name == name)

    assert (findings[name].verdict, findings[name].reason) == (Verdict.CAUGHT, test)


def test_a_wall_that_no_test_needs_is_told(findings: dict[str, Finding]) -> None:
    assert findings["useless"].verdict is Verdict.UNNOTICED


@pytest.mark.parametrize("name", ["not imported", "no Python", "a name too few"])
def test_a_tree_that_does_not_run_is_not_caught(name: str, findings: dict[str, Finding]) -> None:
    assert findings[name].verdict is Verdict.BROKEN


def test_what_runs_out_of_time_is_not_caught(findings: dict[str, Finding]) -> None:
    assert findings["out of time"].verdict is Verdict.HUNG


def test_the_tree_itself_is_left_alone(tree: Path, findings: dict[str, Finding]) -> None:
    assert (tree / FILE).read_text() == DOOR
    assert not list(tree.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("unsound", "said"),
    [
        (mutation("gone", "    if key is not right:\n", ""), "gone: house/door.py has the text to be replaced 0 times"),
        (mutation("twice", "return", "yield"), "twice: house/door.py has the text to be replaced 3 times"),
        (mutation("red", CHECK, "    if not key:\n", test="test_that_is_red"), r"test_that_is_red \(call\)"),
        (mutation("none", CHECK, "    if not key:\n", test="test_nobody"), "test_nobody: no test was collected"),
    ],
    ids=lambda one: one.name if isinstance(one, Mutation) else "",
)
def test_nothing_is_tried_where_something_could_not_be_caught(unsound: Mutation, said: str, tree: Path) -> None:
    with pytest.raises(ClosedError, match=said):
        asyncio.run(run([MUTATIONS[0], unsound], tree=tree))


def test_sources_that_are_not_the_copys_are_noticed(tree: Path, tmp_path: Path) -> None:
    """As they would be if the tree were installed in the copy's environment, too, and found first."""
    copy, other = (Copy.of_tree(tree, tmp_path / name) for name in ("copy", "other"))
    copy.check()
    (names,) = copy.root.glob(".venv/lib/*/site-packages/leaks.pth")
    names.write_text(f"{other.root}\n{names.read_text()}")
    trial = Trial(copy=copy, selections=["tests/test_door.py::test_the_wrong_key_opens_nothing"])
    report = asyncio.run(trial.run(tmp_path, tmp_path, start=start_anew))

    assert report is not None
    assert report.strays == tuple(str(other.root / name) for name in ("house/__init__.py", FILE))
    with pytest.raises(UnfaithfulCopyError, match=r"door.* runs \['.*/other/house/.*__init__"):
        copy.check()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are, also those that would be kept in memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("tests.leaks.run._in_memory", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_interrupted_leaves_nothing_behind(number: signal.Signals, tree: Path, places: Path) -> None:
    endless = mutation("endless", CHECK, "    if not key:\n", test="test_that_takes_for_ever")

    def interrupt() -> None:
        while not list(places.glob("leaks-*/u0/begun")):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    interrupting = threading.Thread(target=interrupt, daemon=True)
    interrupting.start()
    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        asyncio.run(run([endless], tree=tree))
    interrupting.join()

    assert list(places.iterdir()) == []
    assert [one for one in psutil.process_iter() if str(places) in " ".join(_command(one))] == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
