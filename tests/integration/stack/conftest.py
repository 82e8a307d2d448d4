"""What the tests of the stack's parts share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A private directory whose name is short enough for a socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="bulkhead-"))
    yield folder
    shutil.rmtree(folder)
