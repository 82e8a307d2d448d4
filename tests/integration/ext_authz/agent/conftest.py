"""A folder for an agent."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short enough for a socket's path.
    with TemporaryDirectory(prefix="edge-") as name:
        yield Path(name)
