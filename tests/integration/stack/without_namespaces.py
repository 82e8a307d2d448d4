"""A program for the tests: run another one as root where user namespaces are forbidden, as in many a container."""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
EVERYBODY = "0 0 65536"


def main() -> None:
    moved, move = os.pipe()
    mapped, tell = os.pipe()
    child = os.fork()
    if child:
        if os.read(moved, 1) == b"1":
            Path("/proc", str(child), "uid_map").write_text(EVERYBODY)
            Path("/proc", str(child), "gid_map").write_text(EVERYBODY)
        os.write(tell, b"1")
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    # Where even this is refused they are forbidden already.
    refused = ctypes.CDLL(None).unshare(CLONE_NEWUSER)
    os.write(move, b"0" if refused else b"1")
    os.read(mapped, 1)
    if not refused:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 the test's own words


main()
