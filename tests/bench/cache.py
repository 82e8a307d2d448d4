"""What a tenant's cache costs, in a Valkey of its own, which does nothing else. The baseline is a PING."""

import os
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from control_plane.cache.acl import control_plane_user
from control_plane.cache.connection import Connection
from control_plane.cache.handles import login
from tests.bench.measure import Figure, by_turns, figures
from tests.bench.system import System
from tests.fixtures.cache import admit, cache_server, placement
from tests.integration.ext_authz.limiter.valkey_servers import valkey_server

SIZE: Final = 3_000
CALLS: Final = 5_000
USERS: Final = 10_000
HOUR: Final = timedelta(hours=1)


async def handles(_: System) -> AsyncIterator[Figure]:
    """Get and put a value of a certificate's size, and get by turns for two tenants on one connection."""
    tenants = placement(1), placement(2)
    async with cache_server(tenants) as valkey:
        first, second = (valkey.of(tenant) for tenant in tenants)
        connection = await Connection.open(valkey.server.socket)
        who = login(control_plane_user(valkey.server.secret))
        value = os.urandom(SIZE)
        for cache in (first, second):
            await cache.put("certificates/one.pem", value, HOUR)

        async def switch() -> None:
            await first.get("certificates/one.pem")
            await second.get("certificates/one.pem")

        for case, work in (
            ("cache.get", lambda: first.get("certificates/one.pem")),
            ("cache.put", lambda: first.put("certificates/one.pem", value, HOUR)),
            ("cache.get_of_two", switch),
        ):
            taken = await by_turns(work, lambda: connection.call(who, ("PING",)), runs=CALLS)
            for figure in figures(case, *taken, tail=0.99):
                yield figure
        await connection.close()


async def users(_: System) -> AsyncIterator[Figure]:
    """Make ten thousand tenants' users, and look whether they are all there."""
    tenants = [placement(number) for number in range(USERS)]
    async with valkey_server() as server:
        async with server.superuser() as client:
            before = int((await client.info("memory"))["used_memory"])
        begun = time.perf_counter()
        await admit(server, tenants)
        made = time.perf_counter() - begun
        async with server.superuser() as client:
            taken = int((await client.info("memory"))["used_memory"]) - before
            longest = {
                command: figure["usec_per_call"] for command, figure in (await client.info("commandstats")).items()
            }
    yield Figure(case="cache.users_10000", value=round(made, 3), unit="s", baseline=0, runs=1)
    yield Figure(case="cache.users_10000_memory", value=round(taken / 2**20, 2), unit="MiB", baseline=0, runs=1)
    setuser = longest["cmdstat_acl|setuser"]
    yield Figure(case="cache.users_setuser", value=round(setuser, 1), unit="µs", baseline=0, runs=USERS)
    listed = longest["cmdstat_acl|users"]
    yield Figure(case="cache.users_listed", value=round(listed / 1000, 3), unit="ms", baseline=0, runs=1)
