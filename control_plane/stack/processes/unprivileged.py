"""How PostgreSQL runs where we are root, which it refuses to be.

As root it runs in a user namespace that shows us an ordinary id: it owns its files, and nobody is added, nothing
changes its owner, no directory is opened up. Where the host forbids user namespaces, or where a parent directory
belongs to somebody else (root loses its power over foreign files in the namespace), it runs as another user with the
one capability of walking through our directories, and only its own data changes its owner.
"""

import os
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.stack.failures import StackError

_PROBE_TIMEOUT_S: Final = 10
# Initdb wants its user to have a name. Any does, since nothing is looked up by it afterwards.
_PREFERRED_USERS: Final = ("postgres", "nobody", "daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disguise:
    """A way to run a program as an ordinary user."""

    wrapper: tuple[str, ...]
    """What goes in front of the program's own command line."""
    owner: int
    """The id, as we see it, of the files that the program makes."""


def disguise_for(directory: Path, program: Path) -> Disguise:
    """Return the first way that lets `program` run and reach `directory`, which exists.

    Raises:
        StackError: where the host allows none.
    """
    complaints = []
    for disguise in _ways():
        complaint = _try(disguise, directory, program=program)
        if complaint is None:
            return disguise
        complaints.append(complaint)
    raise StackError(
        f"PostgreSQL cannot be run here as an ordinary user: {'; '.join(complaints)}",
        remedy="run this command as an ordinary user who may read this installation and its --dir, or allow root to "
        "make user namespaces (sysctl user.max_user_namespaces) or to keep CAP_SETUID, CAP_SETGID and CAP_DAC_OVERRIDE",
    )


def give(tree: Path, owner: int) -> None:
    """Make `owner` own the tree. Costs a look at its top where it does already."""
    if tree.stat().st_uid == owner:
        return
    for folder, _, names in os.walk(tree):
        for path in (folder, *(os.path.join(folder, name) for name in names)):  # noqa: PTH118 one call for each of many
            os.chown(path, owner, -1, follow_symlinks=False)


def _ways() -> Iterator[Disguise]:
    own = os.geteuid()
    if own != 0 and _has_name(own):
        yield Disguise(wrapper=(), owner=own)
        return
    user = _ordinary_user()
    yield Disguise(
        wrapper=("unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"),
        owner=own,
    )
    if own == 0:
        capability = "-all,+dac_override"
        yield Disguise(
            wrapper=(
                *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
                # Without this access(2) ignores the capability: PostgreSQL's programs would not find each other.
                "--securebits=+no_setuid_fixup",
                *(f"--inh-caps={capability}", f"--ambient-caps={capability}", f"--bounding-set={capability}"),
            ),
            owner=user.pw_uid,
        )


def _has_name(uid: int) -> bool:
    return any(entry.pw_uid == uid for entry in pwd.getpwall())


def _ordinary_user() -> pwd.struct_passwd:
    entries = {entry.pw_name: entry for entry in reversed(pwd.getpwall()) if entry.pw_uid != 0}
    chosen = next((entries[name] for name in _PREFERRED_USERS if name in entries), None)
    if chosen is None and not entries:
        raise StackError(
            "PostgreSQL refuses to run as root, and this machine knows no other user",
            remedy="add any line besides root's to /etc/passwd, such as that of `nobody`",
        )
    return chosen or next(iter(entries.values()))


def _try(disguise: Disguise, directory: Path, *, program: Path) -> str | None:
    """Return what is wrong with it, or None."""
    reach = 'cd "$0" && exec "$1" --version'
    try:
        probe = subprocess.run(  # noqa: S603 the program is of our own installation, the wrapper of the system
            [*disguise.wrapper, "sh", "-c", reach, str(directory), str(program)],
            capture_output=True,
            cwd="/",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if probe.returncode == 0:
        return None
    complaint = probe.stderr.decode(errors="replace").strip().splitlines()
    return complaint[-1] if complaint else f"{disguise.wrapper[0]} ended with {probe.returncode}"
