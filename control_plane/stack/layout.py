"""The state directory: what is where, and for whose eyes."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.stack.failures import StateDirectoryError

PRIVATE: Final = 0o700
# The longest name below the directory of sockets, and what the kernel takes as an address, its final NUL left out.
_LONGEST_SOCKET_NAME: Final = len("/.s.PGSQL.5432")
_LONGEST_SOCKET_PATH: Final = 107
_LARGE_LOG: Final = 16 << 20
_FOLDERS: Final = ("ca", "secrets", "valkey", "objects", "vault", "logs")


@dataclass(frozen=True, slots=True)
class StateDir:
    """The names in one state directory."""

    root: Path
    """Absolute."""

    @property
    def lock(self) -> Path:
        """Locked as long as any process of the stack lives."""
        return self.root / "lock"

    @property
    def supervisor_lock(self) -> Path:
        """Locked as long as the supervisor lives."""
        return self.root / "supervisor.lock"

    @property
    def state(self) -> Path:
        """What the supervisor says of itself and its children."""
        return self.root / "state.json"

    @property
    def endpoints(self) -> Path:
        """Where the stack answers; there while it is up."""
        return self.root / "endpoints.json"

    @property
    def admin_token(self) -> Path:
        """The administrator's token, kept fresh by the control plane."""
        return self.root / "admin.token"

    @property
    def authority(self) -> Path:
        """The internal authority, with the certificates that it has signed."""
        return self.root / "ca"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data."""
        return self.root / "postgres"

    @property
    def valkey(self) -> Path:
        """Valkey's data."""
        return self.root / "valkey"

    @property
    def secrets(self) -> Path:
        """Keys that the processes share."""
        return self.root / "secrets"

    @property
    def run(self) -> Path:
        """The sockets, or a link to where they are."""
        return self.root / "run"

    def log(self, name: str) -> Path:
        """Return the log of a process."""
        return self.root / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Make the directory and its folders, for our eyes only.

        Raises:
            StateDirectoryError: when it is somebody else's, or was made for something else.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
            self.check_ours()
            self.root.chmod(PRIVATE)
            self.lock.touch(mode=0o600)
            for name in _FOLDERS:
                (self.root / name).mkdir(exist_ok=True, mode=PRIVATE)
        except OSError as error:
            raise self._unusable(error) from error

    def check_ours(self) -> None:
        """Check that the directory is a stack's and our own, or not there at all.

        Raises:
            StateDirectoryError: when it is somebody else's, or was made for something else.
        """
        try:
            owner = self.root.stat().st_uid
            # One look: an `up` of this moment makes the lock first, and all else after it.
            names = {path.name for path in self.root.iterdir()} if owner == os.geteuid() else set()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(error) from error
        if owner != os.geteuid():
            raise StateDirectoryError(
                f"{self.root} belongs to user {owner}, and this is user {os.geteuid()}",
                remedy="run as that user, or name a directory of your own with --dir",
            )
        if names and self.lock.name not in names:
            raise StateDirectoryError(
                f"{self.root} holds other things than a stack's state",
                remedy="name an empty directory, or one that does not exist yet, with --dir",
            )

    def roll_logs(self) -> None:
        """Put logs that have grown large aside, over those that were put aside before."""
        for log in (self.root / "logs").glob("*.log"):
            if log.stat().st_size > _LARGE_LOG:
                log.replace(log.with_suffix(".log.1"))

    def sockets(self) -> Path:
        """Return the directory of sockets, made if need be: short enough an address, for our eyes only."""
        if len(os.fsencode(self.run)) + _LONGEST_SOCKET_NAME <= _LONGEST_SOCKET_PATH:
            if self.run.is_symlink():
                self.run.unlink()
            self.run.mkdir(exist_ok=True, mode=PRIVATE)
            return self.run
        if not (self.run.is_symlink() and _is_private(self.run.readlink())):
            self.run.unlink(missing_ok=True)
            self.run.symlink_to(tempfile.mkdtemp(prefix="bulkhead-", dir=_short_place()))
        return self.run.readlink()

    def remove_sockets(self) -> None:
        """Remove the directory of sockets; nothing listens there any more."""
        if self.run.is_symlink():
            if _is_private(self.run.readlink()):
                shutil.rmtree(self.run.readlink())
            self.run.unlink()
        elif self.run.exists():
            shutil.rmtree(self.run)

    def _unusable(self, error: OSError) -> StateDirectoryError:
        return StateDirectoryError(
            f"{self.root} cannot be used: {error.strerror}", remedy="name a directory of your own with --dir"
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file of facts that the next start finds out again: whole or not at all, for our eyes only."""
    draft = _draft(path, json.dumps(value, indent=2).encode() + b"\n")
    draft.replace(path)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file that has to outlast a power cut: whole or not at all, for our eyes only."""
    draft = _draft(path, content)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; empty where there is nothing."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _draft(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    return draft


def _is_private(path: Path) -> bool:
    try:
        about = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and stat.S_IMODE(about.st_mode) == PRIVATE


def _short_place() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = given and len(given) < _LONGEST_SOCKET_PATH // 2 and _is_private(Path(given))
    return Path(given) if usable else Path("/tmp")  # noqa: S108 mkdtemp makes a private directory of a new name in it
