"""The agent's unix sockets: for its own user alone."""

from pathlib import Path
from typing import Final

import grpc

_PRIVATE_FOLDER: Final = 0o700
_PRIVATE: Final = 0o600


def private_folder(path: Path) -> None:
    """Make the folder where it is absent, and see to it that others cannot enter it."""
    path.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    path.chmod(_PRIVATE_FOLDER)


def bind(server: grpc.aio.Server, path: Path) -> None:
    """Have the server listen there, in place of whoever did before.

    Raises:
        RuntimeError: when it cannot, because the path is too long for one thing.
    """
    private_folder(path.parent)
    path.unlink(missing_ok=True)
    if not server.add_insecure_port(f"unix:{path}"):
        raise RuntimeError(f"cannot listen on {path}")
    path.chmod(_PRIVATE)
