"""The state directory: whose it is, who holds it, and where its sockets are."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control_plane.stack.failures import StackError, StateDirectoryError
from control_plane.stack.layout import StateDir
from control_plane.stack.processes.locks import Hold, holder_of, is_held

# Takes both locks in another process, says so, and keeps them until its end of stdin.
HOLDER = """
import sys
from pathlib import Path
from control_plane.stack.processes.locks import Hold
hold = Hold.take(Path(sys.argv[1], "lock"), Path(sys.argv[1], "supervisor.lock"))
print(hold is not None and hold.is_alone(), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(root: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_everything_is_for_our_eyes_only_even_if_the_directory_was_not(tmp_path: Path) -> None:
    root = tmp_path / "state"
    root.mkdir(mode=0o755)
    StateDir(root).prepare()

    assert {path: path.stat().st_mode & 0o077 for path in [root, *root.iterdir()]} == dict.fromkeys(
        [root, *root.iterdir()], 0
    )


def test_a_directory_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StateDirectoryError, match="holds other things"):
        StateDir(tmp_path).prepare()

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    # Root's is there for everybody; root itself is handed one that is nobody's.
    root = tmp_path / "state" if os.geteuid() == 0 else Path("/proc/1")
    if os.geteuid() == 0:
        root.mkdir()
        os.chown(root, 65534, 65534)
    with pytest.raises(StateDirectoryError, match="belongs to user"):
        StateDir(root).check_ours()


def test_a_directory_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirectoryError, match="cannot be used: Not a directory") as raised:
        StateDir(tmp_path / "file" / "state").prepare()

    assert "--dir" in raised.value.remedy


def test_the_supervisors_pid_is_known_while_it_lives(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert holder_of(tmp_path / "supervisor.lock") == process.pid
        assert is_held(tmp_path / "lock")
        assert Hold.take(tmp_path / "lock", tmp_path / "supervisor.lock") is None

    assert holder_of(tmp_path / "supervisor.lock") is None
    assert not is_held(tmp_path / "lock")


async def test_whoever_is_left_of_an_earlier_run_is_waited_for_and_named(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        hold = Hold.take(tmp_path / "lock", tmp_path / "its-supervisor-is-dead.lock")
        assert hold is not None
        with pytest.raises(StackError, match=rf"still use .*\({process.pid}\)") as raised:
            await hold.wait_alone(tmp_path / "lock", within_s=0.1)
        waiting = asyncio.ensure_future(hold.wait_alone(tmp_path / "lock", within_s=10))
        await asyncio.sleep(0)
        process.kill()
        await waiting

        assert f"kill -9 {process.pid}" in raised.value.remedy
        hold.release()


def test_sockets_of_a_deep_directory_are_in_a_short_private_one(tmp_path: Path) -> None:
    deep = StateDir(tmp_path / ("d" * 100))
    deep.prepare()
    first = deep.sockets()
    again = deep.sockets()

    assert len(os.fsencode(first)) < 60
    assert first.stat().st_mode & 0o777 == 0o700
    assert again == first
    deep.remove_sockets()
    assert not first.exists()
    assert not deep.run.is_symlink()


def test_a_short_directory_that_somebody_could_look_into_is_not_used_again(tmp_path: Path) -> None:
    deep = StateDir(tmp_path / ("d" * 100))
    deep.prepare()
    first = deep.sockets()
    first.chmod(0o755)
    second = deep.sockets()
    first.rmdir()
    deep.remove_sockets()

    assert second != first


def test_a_log_that_has_grown_large_is_put_aside_once(tmp_path: Path) -> None:
    state_dir = StateDir(tmp_path / "state")
    state_dir.prepare()
    with state_dir.log("postgres").open("wb") as log:
        log.truncate(17 << 20)
    state_dir.log("valkey").write_text("short")
    state_dir.roll_logs()

    assert sorted(path.name for path in (tmp_path / "state" / "logs").iterdir()) == ["postgres.log.1", "valkey.log"]
