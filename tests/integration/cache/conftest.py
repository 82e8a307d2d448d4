"""A Valkey of a test's own, which knows three tenants."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from control_plane.postgres.placement import Placement
from tests.fixtures.cache import CacheServer, cache_server, placement

A: Final = placement(1)
B: Final = placement(2)
TENANTS: Final[tuple[Placement, ...]] = (A, B, placement(3))


@pytest.fixture
async def valkey() -> AsyncIterator[CacheServer]:
    async with cache_server(TENANTS) as server:
        yield server


@pytest.fixture
def events() -> Iterator[list[EventDict]]:
    with capture_logs() as logged:
        yield logged
