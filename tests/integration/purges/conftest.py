"""A cell with a vault, a bucket and a Valkey, of which tenants are purged."""

from collections.abc import AsyncIterator

import pytest

from control_plane.cache.users import CacheUsers
from control_plane.keys.vault_software import SoftwareVault
from tests.fixtures.cache import admit
from tests.fixtures.cell import Cell, cell, vault
from tests.fixtures.keyring import Ring, ring
from tests.fixtures.purges import Purges, means
from tests.integration.ext_authz.limiter.valkey_servers import Server, valkey_server

__all__ = ["cell", "ring", "vault"]


@pytest.fixture
async def valkey() -> AsyncIterator[Server]:
    async with valkey_server() as server:
        await admit(server, ())
        yield server


@pytest.fixture
async def purges(cell: Cell, ring: Ring, vault: SoftwareVault, valkey: Server) -> AsyncIterator[Purges]:
    async with CacheUsers.open(valkey.socket, valkey.secret) as users:
        yield Purges(means=means(cell.database, cell.keys, vault, objects=ring.objects, cache_users=users))
