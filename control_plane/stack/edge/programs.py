"""How the agent and Envoy are run.

Neither is told by us what tenants there are: the agent hears it from the control plane, Envoy from the agent. Both go
on with what they know while those are away.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from control_plane.stack.processes.binaries import envoy_binary
from control_plane.stack.processes.children import Program
from control_plane.stack.processes.size import StackSize

BOOTSTRAP: Final = "edge/bootstrap.json"
"""What Envoy starts from, below the state directory; the agent writes it before it is ready."""
_LOG_LEVEL: Final = "warning"
_LOG_FORMAT: Final = "%Y-%m-%dT%T.%e%z %l %n %v"
# As many connections as the machine lets us have: each takes a descriptor, and two with its upstream's.
_WIDE_OPEN: Final = ("sh", "-c", 'ulimit -Sn "$(ulimit -Hn)"; exec "$0" "$@"')


def agent_program(root: Path, *, log: Path, inherited: Sequence[int]) -> Program:
    """Return the agent of a state directory. Its workers are its own children."""
    # -P: a module in the directory of some user must not stand in for one of ours.
    command = (sys.executable, "-P", "-m", "ext_authz", "agent", "--dir", str(root))
    return Program(arguments=command, log=log, inherited=inherited)


def envoy_program(root: Path, size: StackSize, *, log: Path, inherited: Sequence[int]) -> Program:
    """Return the Envoy of a state directory.

    It needs neither root nor any capability: its ports are high ones. Callers put words into what it logs, so line ends
    are written out.
    """
    command = (
        str(envoy_binary()),
        *("-c", str(root / BOOTSTRAP)),
        *("--concurrency", str(size.proxy_workers)),
        *("--log-level", _LOG_LEVEL, "--log-format", _LOG_FORMAT, "--log-format-escaped"),
        # What has passed the agent by is to be counted soon.
        *("--file-flush-interval-msec", "500"),
        "--disable-hot-restart",
    )
    return Program(arguments=command, log=log, wrapper=_WIDE_OPEN, inherited=inherited)
