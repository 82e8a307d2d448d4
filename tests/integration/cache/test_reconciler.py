"""Valkey knows each tenant of the registry and nobody else, whatever happened to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.cache.connection import Connection
from control_plane.cache.handles import LIBRARY
from control_plane.cache.reconciler import Reconciler
from control_plane.cache.users import CacheUsers
from control_plane.errors import UnavailableError
from control_plane.ids import TenantId, new_uuid
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from tests.fixtures.cache import CacheServer, placement, reconcile
from tests.fixtures.eventually import eventually
from tests.fixtures.postgres import MakeTenant
from tests.fixtures.valkey import SUPERUSER, control_plane
from tests.integration.cache.conftest import TENANTS, A, B
from tests.integration.ext_authz.limiter.valkey_servers import Server, valkey_server

HOUR: Final = timedelta(hours=1)
FEW: Final = [placement(number) for number in range(1, 7)]


@dataclass(slots=True)
class Registry:
    """The tenants that there are, in the place of a database."""

    tenants: list[Placement] = field(default_factory=list)
    is_away: bool = False
    readings: int = 0

    async def everyone(self) -> AsyncIterator[Placement]:
        self.readings += 1
        if self.is_away:
            raise UnavailableError("away")
        for tenant in list(self.tenants):
            yield tenant


def uids(*tenants: Placement) -> set[str]:
    return {str(tenant.uid) for tenant in tenants}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with valkey_server() as running:
        yield running


@asynccontextmanager
async def reconciling(server: Server, registry: Registry) -> AsyncIterator[Reconciler]:
    async with Reconciler.open(server.socket, server.secret, registry.everyone) as reconciler:
        running = asyncio.create_task(reconciler.run())
        try:
            yield reconciler
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def knows(server: Server, *tenants: Placement) -> None:
    """Wait until these tenants, and no others, are known."""
    await eventually(lambda: server.tenants_known() == uids(*tenants))


async def test_the_missing_are_made_and_the_strange_removed(server: Server) -> None:
    registry = Registry(FEW[:3])
    async with reconciling(server, registry) as reconciler:
        await knows(server, *FEW[:3])
        registry.tenants = FEW[2:]
        reconciler.hint()
        await knows(server, *FEW[2:])


@pytest.mark.behaviour("T-V7")
async def test_a_valkey_that_was_killed_knows_everybody_again(server: Server) -> None:
    async with reconciling(server, Registry(FEW)):
        await knows(server, *FEW)
        await server.kill()
        await server.restart()
        await knows(server, *FEW)


@pytest.mark.behaviour("T-V7")
async def test_a_valkey_that_comes_later_or_empty_is_filled(server: Server) -> None:
    await server.kill()
    async with reconciling(server, Registry(FEW)):
        await server.restart(empty=True)
        await knows(server, *FEW)
        with control_plane(server.socket, server.valkey.secrets_dir) as client:
            libraries = client.function_list(library="bulkhead_cache")

    assert len(libraries) == 1


async def test_a_frozen_valkey_is_given_up_and_found_again(server: Server) -> None:
    registry = Registry(FEW[:2])
    async with reconciling(server, registry) as reconciler:
        await knows(server, *FEW[:2])
        server.freeze()
        try:
            registry.tenants = FEW
            reconciler.hint()
            await asyncio.sleep(0.3)
        finally:
            server.thaw()
        await knows(server, *FEW)


async def test_a_registry_that_is_away_removes_nobody(server: Server) -> None:
    registry = Registry(FEW[:3])
    async with reconciling(server, registry) as reconciler:
        await knows(server, *FEW[:3])
        registry.is_away = True
        readings = registry.readings
        reconciler.hint()
        await eventually(lambda: registry.readings >= readings + 3)
        meanwhile = server.tenants_known()
        registry.is_away, registry.tenants = False, FEW
        await knows(server, *FEW)

    assert meanwhile == uids(*FEW[:3])


async def test_a_tenant_that_comes_during_a_pass_is_not_taken_for_a_strange_one(server: Server) -> None:
    """It is registered first, and let in then. Whoever asked in the other order would shut it out."""

    async def everyone() -> AsyncIterator[Placement]:
        yield A
        async with CacheUsers.open(server.socket, server.secret) as users:
            await users.make(B)

    await reconcile(server, everyone)

    assert server.tenants_known() == uids(A, B)


async def test_functions_that_are_others_are_replaced(server: Server) -> None:
    async with server.superuser() as client:
        await client.function_load(LIBRARY.read_text().replace("return fits and 1 or 0", "return 1"))
    async with reconciling(server, Registry(FEW)):
        await knows(server, *FEW)
        with control_plane(server.socket, server.valkey.secrets_dir) as client:
            (library,) = client.function_list(library="bulkhead_cache", withcode=True)

    assert LIBRARY.read_text() in list(library)


async def test_rights_that_somebody_changed_are_as_they_ought_to_be_after_a_start(valkey: CacheServer) -> None:
    await valkey.client.acl_setuser(str(A.uid), enabled=True, keys=["*"], categories=["+@all"], nopass=True)
    await valkey.client.acl_setuser(str(B.uid), enabled=False)
    changed: Any = await valkey.client.acl_getuser(str(A.uid))
    await reconcile(valkey.server, Registry(list(TENANTS)).everyone)
    async with valkey.server.superuser(decode_responses=True) as client:
        user: Any = await client.acl_getuser(str(A.uid))

    assert changed["keys"] == ["~*"]
    assert (user["keys"], user["flags"]) == (["~tenant:{org_1}:*"], ["on"])
    assert await valkey.of(B).put("one", b"x", HOUR)


async def test_a_second_pass_changes_nothing(valkey: CacheServer) -> None:
    """It asks who there is, and says nothing anew: a server with 10,000 tenants is not kept busy."""
    connection = await Connection.open(valkey.server.socket)
    registry = Registry(list(TENANTS))
    async with Reconciler.open(valkey.server.socket, valkey.server.secret, registry.everyone) as reconciler:
        await reconciler.reconcile(connection)
        async with valkey.server.superuser(decode_responses=True) as client:
            await client.config_resetstat()
            await client.acl_setuser(SUPERUSER, enabled=True)
        await reconciler.reconcile(connection)
    await connection.close()
    async with valkey.server.superuser(decode_responses=True) as client:
        calls = await client.info("commandstats")

    # The superuser's own making and removal, and no tenant's.
    assert calls["cmdstat_acl|setuser"]["calls"] == 2
    assert "cmdstat_function|load" not in calls
    assert "cmdstat_acl|list" not in calls


async def test_a_tenant_of_whose_id_no_pattern_can_be_made_keeps_no_other_out(server: Server) -> None:
    odd = replace(FEW[0], tenant_id=TenantId("org_*"))
    async with reconciling(server, Registry([odd, *FEW[1:]])):
        await knows(server, *FEW[1:])


async def test_where_memory_is_short_users_are_kept_all_the_same(server: Server) -> None:
    async with server.superuser() as client:
        await client.config_set("maxmemory", 1)
    async with reconciling(server, Registry(FEW)):
        await knows(server, *FEW)


async def test_whoever_is_registered_is_known_also_while_it_is_made(
    server: Server, database: Database, make_tenant: MakeTenant
) -> None:
    made = await make_tenant("org_1")

    async def register(tx: SystemTransaction) -> Placement:
        row = await tx.fetch_one(
            """
            INSERT INTO csm_system.tenants (id, uid, display_name, state, tier, schema_name, dns_label)
            VALUES ('org_2', %(uid)s, 'Two', 'PROVISIONING', 'standard', 'tenant_org_2', 'org-2')
            RETURNING *
            """,
            {"uid": new_uuid()},
        )
        assert row is not None
        return Placement.of(row)

    in_the_making = await database.system().run(register)
    await reconcile(server, Directory(database).everyone)

    assert server.tenants_known() == uids(made, in_the_making)


steps = st.lists(
    st.tuples(st.sampled_from(["register", "forget", "make", "remove", "pass"]), st.sampled_from(FEW)), max_size=12
)


@given(steps=steps)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_pass_ends_with_the_registrys_tenants_whatever_was_there(
    server: Server, steps: list[tuple[str, Placement]]
) -> None:
    registry = Registry()
    connection = await Connection.open(server.socket)
    async with Reconciler.open(server.socket, server.secret, registry.everyone) as reconciler:
        for step, tenant in [*steps, ("pass", FEW[0])]:
            match step:
                case "register" if tenant not in registry.tenants:
                    registry.tenants.append(tenant)
                case "forget" if tenant in registry.tenants:
                    registry.tenants.remove(tenant)
                case "make":
                    await reconciler.users.make(tenant)
                case "remove":
                    async with server.superuser() as client:
                        await client.acl_deluser(str(tenant.uid))
                case "pass":
                    await reconciler.reconcile(connection)
    await connection.close()

    assert server.tenants_known() == uids(*registry.tenants)
