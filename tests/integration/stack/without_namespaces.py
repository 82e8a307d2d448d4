"""A program for the tests: run another one as root where user namespaces are forbidden.

`--all-users` leaves root its power over other users, as in a container; without it, root is the only user there is.
"""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000


def main() -> None:
    everybody = sys.argv[1] == "--all-users"
    command = sys.argv[2:] if everybody else sys.argv[1:]
    uid, gid = os.geteuid(), os.getegid()
    moved, move = os.pipe()
    mapped, tell = os.pipe()
    child = os.fork()
    if child:
        os.read(moved, 1)
        process = Path("/proc", str(child))
        if not everybody:
            (process / "setgroups").write_text("deny")
        (process / "uid_map").write_text("0 0 65536" if everybody else f"0 {uid} 1")
        (process / "gid_map").write_text("0 0 65536" if everybody else f"0 {gid} 1")
        os.write(tell, b"1")
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER):
        sys.exit(os.strerror(ctypes.get_errno()))
    os.write(move, b"1")
    os.read(mapped, 1)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.execvp(command[0], command)  # noqa: S606 the test's own words


main()
