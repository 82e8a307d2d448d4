"""What the edge may still decide by while it hears nothing new: as much as each tenant allows, and no more."""

import time
from collections.abc import Iterator
from typing import Final

import grpc
import pytest

from bulkhead.v1 import edges_pb2, edges_pb2_grpc, tenant_requests_pb2, tenants_pb2, tenants_pb2_grpc
from tests.e2e.edge_faults.conftest import Broken, Tell, await_a_new_minute
from tests.fixtures.edge import EdgeWorld
from tests.fixtures.edge_faults import wait_for

OK: Final = "200"
STRANGER: Final = "403 ACCESS_DENIED"
STALE: Final = "503 POLICY_STALE"
REFUSED_BY_SERVICE: Final = "400 9"
LIMITED: Final = "429 RATE_LIMITED"
CLOSED: Final = "503 UNAVAILABLE"
UNCOUNTED: Final = "503 RATE_UNAVAILABLE"
Metadata = tuple[tuple[str, str], ...]


class Administrator:
    """Asks the control plane, and asks again while it is away."""

    def __init__(self, world: EdgeWorld, channel: grpc.Channel) -> None:
        self._metadata: Metadata = (("authorization", f"Bearer {world.platform_token}"),)
        self._tenants = tenants_pb2_grpc.TenantServiceStub(channel)
        self._edges = edges_pb2_grpc.EdgeServiceStub(channel)

    def update(self, tenant: tenants_pb2.Tenant, *fields: str) -> None:
        request = tenants_pb2.UpdateTenantRequest(tenant=tenant)
        request.update_mask.paths.extend(fields)
        self._tenants.UpdateTenant(request, metadata=self._metadata, wait_for_ready=True, timeout=30)

    def suspend(self, tenant_id: str) -> int:
        """Return the revision at which it is suspended."""
        request = tenant_requests_pb2.SuspendTenantRequest(name=f"tenants/{tenant_id}", reason="for the tests")
        return self._tenants.SuspendTenant(
            request, metadata=self._metadata, wait_for_ready=True, timeout=30
        ).edge_revision

    def applied(self, revision: int = 0, *, within_s: int = 30) -> edges_pb2.WaitAppliedResponse:
        request = edges_pb2.WaitAppliedRequest(revision=revision)
        request.timeout.FromSeconds(within_s)
        return self._edges.WaitApplied(request, metadata=self._metadata, wait_for_ready=True, timeout=60)


@pytest.fixture
def administrator(broken: Broken) -> Iterator[Administrator]:
    stack = broken.world.stack
    trusted = grpc.ssl_channel_credentials((stack.dir / "ca" / "ca.pem").read_bytes())
    with grpc.secure_channel(stack.endpoints["admin_grpc"], trusted) as channel:
        yield Administrator(broken.world, channel)


@pytest.mark.behaviour("T-F2")
def test_a_tenant_is_served_without_news_for_as_long_as_it_allows(
    broken: Broken, administrator: Administrator, tell: Tell
) -> None:
    strict = broken.world.founder.found("strict")
    wanted = tenants_pb2.Tenant(name=f"tenants/{strict.tenant_id}")
    wanted.max_policy_age.FromSeconds(4)
    administrator.update(wanted, "max_policy_age")
    administrator.applied()
    asking = broken.asks_for(strict)
    wait_for(lambda: asking.ask().said == OK)
    with broken.breaker.hung("control-plane"):
        tell("stale after", wait_for(lambda: asking.ask().said == STALE))
        since = time.monotonic()
        time.sleep(1)
        told = {asking.ask().said for _ in range(10)}
        others = broken.readers.own(since)
    tell("well again after", wait_for(lambda: asking.ask().said == OK))
    asking.close()

    assert told == {STALE}
    assert set(others) == {OK}


@pytest.mark.behaviour("T-F2")
def test_a_suspension_that_an_edge_has_not_heard_of_is_told_as_such_and_holds_as_soon_as_it_has(
    broken: Broken, administrator: Administrator, tell: Tell
) -> None:
    tenant = broken.world.founder.found("epsilon")
    administrator.applied()
    asking = broken.asks_for(tenant)
    wait_for(lambda: asking.ask().said == OK)
    with broken.breaker.silent("agent"):
        revision = administrator.suspend(tenant.tenant_id)
        waited = administrator.applied(revision, within_s=2)
        meanwhile = asking.ask().said
    mended = time.monotonic()
    done = administrator.applied(revision)
    tell("applied after", time.monotonic() - mended)
    afterwards = {asking.ask().said for _ in range(20)}
    asking.close()

    assert (waited.applied, list(waited.lagging)) == (False, ["edges/local"])
    # The edge still lets it in; the service has heard of it.
    assert meanwhile == REFUSED_BY_SERVICE
    assert (done.applied, done.live_edges) == (True, 1)
    assert afterwards == {STRANGER}


@pytest.mark.behaviour("T-V7")
@pytest.mark.parametrize("how", ["hung", "restarted", "emptied"])
def test_a_valkey_that_comes_back_admits_no_more_than_a_minutes_rate(broken: Broken, how: str) -> None:
    limit = 20
    tenant = broken.world.founder.found("zeta", requests_per_minute=limit)
    broken.world.founder.applied()
    asking = broken.asks_for(tenant)
    wait_for(lambda: asking.ask().said == OK)
    await_a_new_minute(10)
    if how == "hung":
        with broken.breaker.hung("valkey"):
            while_away = {asking.ask().said for _ in range(10)}
    elif how == "restarted":
        with broken.breaker.lost("valkey"):
            while_away = {asking.ask().said for _ in range(10)}
    else:
        broken.empty_valkey()
        while_away = set()
    told: list[str] = []
    while LIMITED not in told:
        told.append(asking.ask().said)
    asking.close()

    # On a machine that is too busy for 250 ms, Envoy says it first.
    closed = {UNCOUNTED, CLOSED}
    assert while_away <= closed
    assert set(told) <= {OK, LIMITED} | closed
    assert told.count(OK) <= limit
