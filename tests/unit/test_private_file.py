"""A secret's file is there whole or not at all, for its owner only, also when its maker is killed."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from control_plane import private_file
from control_plane.private_file import ExposedKeyError

CONTENT: Final = bytes(range(256)) * 16

# Runs ACTION in children, the n-th of which is killed before its n-th call to the file system, until one survives.
KILLED_EVERYWHERE: Final = """
import os, signal, sys
from pathlib import Path
from control_plane import private_file

path, action, content = Path(sys.argv[1]), sys.argv[2], bytes(range(256)) * 16
calls = 0

def count(event, _):
    global calls
    if event in {"open", "os.link", "os.remove", "os.scandir"}:
        if calls == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1

for limit in range(100):
    if action == "remove":
        private_file.create(path, content)
    else:
        path.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        sys.addaudithook(count)
        private_file.remove(path) if action == "remove" else private_file.create(path, content)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if action == "create" and path.exists():
        assert private_file.read(path) == content, limit
    if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
        # Whoever comes next ends what was begun, and leaves nothing lying about.
        private_file.remove(path) if action == "remove" else private_file.create(path, content)
    assert [each.name for each in path.parent.iterdir()] == ([] if action == "remove" else [path.name]), limit
    if os.waitstatus_to_exitcode(status) == 0:
        break
print(limit)
"""


def test_a_created_file_is_read_back_and_is_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"

    assert private_file.create(path, CONTENT)
    assert private_file.read(path) == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    private_file.create(path, CONTENT)

    assert not private_file.create(path, b"other")
    assert private_file.read(path) == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_that_create_a_file_at_once_one_wins(tmp_path: Path) -> None:
    path, won = tmp_path / "secret", list[int]()
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        if private_file.create(path, bytes([number]) * 64):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert private_file.read(path) == bytes(won) * 64
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("action", ["create", "remove"])
def test_being_killed_anywhere_leaves_all_or_nothing_and_the_next_call_completes(tmp_path: Path, action: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "secret"), action],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 3


def test_removing_takes_the_other_names_of_the_content_too(tmp_path: Path) -> None:
    """A maker that was killed between naming its file and clearing up has left a second name of the same secret."""
    path, neighbour = tmp_path / "secret.1", tmp_path / "secret.10"
    private_file.create(path, CONTENT)
    private_file.create(neighbour, CONTENT)
    os.link(path, tmp_path / ".secret.1.0123456789abcdef.new")
    private_file.remove(path)
    private_file.remove(path)

    assert list(tmp_path.iterdir()) == [neighbour]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_a_file_that_is_open_to_others_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    private_file.create(path, CONTENT)
    path.chmod(mode)

    with pytest.raises(ExposedKeyError, match=f"chmod 600 {path}") as refused:
        private_file.read(path)
    assert repr(CONTENT[:16])[2:-1] not in str(refused.value)
    path.chmod(0o400)
    assert private_file.read(path) == CONTENT


def test_a_link_a_pipe_or_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    path, link, pipe, folder = (tmp_path / name for name in ("secret", "link", "pipe", "folder"))
    private_file.create(path, CONTENT)
    link.symlink_to(path)
    os.mkfifo(pipe, 0o600)
    folder.mkdir()

    assert private_file.read(path) == CONTENT
    for wrong in (link, pipe, folder):
        with pytest.raises(ExposedKeyError):
            private_file.read(wrong)


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    """A limit on the size of files fails a write half-way, as a full disk does."""
    program = (
        "import resource, sys; from pathlib import Path; from control_plane import private_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "private_file.create(Path(sys.argv[1]), bytes(range(256)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "secret")], capture_output=True, text=True, check=False
    )

    assert "File too large" in run.stderr
    assert run.returncode not in {0, -signal.SIGXFSZ}
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_file_is_the_owners_alone_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in (b"first", b"second"):
        private_file.replace(path, content)

    assert private_file.read(path) == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["token"]


def test_a_file_in_the_making_beside_another_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".key.pub.0123456789abcdef.new").write_bytes(b"")
    private_file.create(tmp_path / "key", b"secret")

    assert (tmp_path / ".key.pub.0123456789abcdef.new").exists()
