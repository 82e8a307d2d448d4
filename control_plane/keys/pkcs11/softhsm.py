"""SoftHSM, as this installation has it: where it is, what it reads, and what it leaves to the operating system.

It is software: whoever can read its directory and its PIN has the keys. So nothing that it keeps is called HSM-backed.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from control_plane import private_file

MODULE: Final = "SOFTHSM2_MODULE"
"""The variable that names the library, where it is none of those that are looked for."""
CONFIGURATION: Final = "SOFTHSM2_CONF"

MODEL: Final = "SoftHSM"
"""How the model of each of its tokens begins."""

_PLACES: Final = ("usr/lib/softhsm/libsofthsm2.so", "usr/lib/*/softhsm/libsofthsm2.so", "usr/lib64/libsofthsm2.so")


def find_module(environment: Mapping[str, str]) -> Path | None:
    """Find the library: named, beside the Python that runs us (`make setup` brings it there), or the system's."""
    if named := environment.get(MODULE):
        return Path(named)
    for root in (Path(sys.prefix) / "softhsm", Path("/")):
        for place in _PLACES:
            for found in sorted(root.glob(place)):
                return found
    return None


def configure(directory: Path) -> dict[str, str]:
    """Make a place for tokens in our own directory, and return what the library has to find in its environment."""
    tokens, file = directory / "tokens", directory / "softhsm2.conf"
    tokens.mkdir(mode=0o700, exist_ok=True)
    lines = (f"directories.tokendir = {tokens}", "objectstore.backend = file", "log.level = ERROR")
    content = "".join(f"{line}\n" for line in lines).encode()
    if not file.exists() or file.read_bytes() != content:
        # The directory was moved, or is new.
        private_file.replace(file, content)
    return {CONFIGURATION: str(file)}


def has_tokens(directory: Path) -> bool:
    """Whether any token was ever made there."""
    return any((directory / "tokens").iterdir())


def make_durable(directory: Path) -> None:
    """Have the disk keep what was done to the tokens: SoftHSM leaves that to the operating system."""
    descriptor = os.open(directory / "tokens", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "the disk does not keep what was written")
    finally:
        os.close(descriptor)
