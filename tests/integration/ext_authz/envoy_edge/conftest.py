"""One edge for each module: Envoy takes half a second to start."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.ext_authz.envoy_edge.edge import Edge, running_edge


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    """The module's edge, which nobody has asked anything yet."""
    shared_edge.workers.__init__()  # type: ignore[misc]  # as if new
    shared_edge.upstream.__init__()  # type: ignore[misc]  # as if new
    return shared_edge
