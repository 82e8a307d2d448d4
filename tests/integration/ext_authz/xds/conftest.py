"""A real Envoy and a hub of two hundred tenants."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ext_authz.xds.hub import Hub
from tests.fixtures.plain_resources import PlainResources
from tests.integration.ext_authz.xds.edge import TENANTS, Edge, listener, running_envoy


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose name is short enough for a socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="bulkhead-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def edge(folder: Path) -> AsyncIterator[Edge]:
    source = PlainResources({"edge": listener(folder)})
    hub = Hub(source)
    hub.use(TENANTS)
    async with running_envoy(folder) as envoy, Edge(folder, source, envoy=envoy) as edge:
        await edge.serve(hub)
        await envoy.ready()
        yield edge
