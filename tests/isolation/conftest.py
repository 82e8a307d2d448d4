from collections.abc import Iterator

import pytest

from tests.fixtures.stack import Stack
from tests.isolation.rpc_callers import World, open_world


@pytest.fixture(scope="session")
def world(stack: Stack) -> Iterator[World]:
    """Tenants and callers of every kind, for tests that leave them as they found them."""
    with open_world(stack.dir) as made:
        yield made
