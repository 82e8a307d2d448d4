"""Unit tests are pure: none may open a connection."""

from collections.abc import Iterator

import pytest
from pytest_socket import disable_socket, enable_socket


@pytest.fixture(autouse=True)
def no_connections() -> Iterator[None]:
    # An event loop wakes itself through a pair of unix sockets.
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
