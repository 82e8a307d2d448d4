"""Leases on a whole stack: many requests, few Checks, each request counted once, whoever is killed meanwhile."""

import http.client
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from control_plane.settings import Settings
from tests.fixtures.edge import EdgeTenant, EdgeWorld
from tests.fixtures.edge_faults import Breaker, wait_for
from tests.fixtures.synthetic import registry

SENT: Final = 600
LIMIT: Final = 100_000
CHECKED, LEASED = "checked", "leased"
READ: Final = "/bulkhead.v1.CertificateService/GetCertificate"
USED: Final = """
SELECT coalesce(sum(u.admitted), 0)::int, coalesce(sum(u.cost), 0)::int
  FROM csm_system.edge_usage AS u JOIN csm_system.tenants AS t ON t.uid = u.tenant_uid
 WHERE t.id = %s AND u.method = %s
"""


@pytest.fixture
def tenant(edge_world: EdgeWorld) -> Iterator[EdgeTenant]:
    founder = edge_world.founder
    made = founder.found("leased", requests_per_minute=LIMIT)
    founder.applied()
    yield made
    founder.suspend(made.tenant_id)


def ask(world: EdgeWorld, tenant: EdgeTenant, times: int) -> Counter[str]:
    """Read the tenant's certificate so often, as fast as it is answered; count what was checked and what was leased."""
    connection = http.client.HTTPConnection(world.http, timeout=10)
    found: Counter[str] = Counter()
    for _ in range(times):
        connection.request("GET", f"/api/v1/{tenant.certificate}", headers={**tenant.bearer, "host": world.authority})
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status != 200 or tenant.canary in body
        # Only a Check tells what is left of the rate.
        served = CHECKED if answer.headers["ratelimit"] else LEASED
        found[served if answer.status == 200 else str(answer.status)] += 1
    connection.close()
    return found


def is_decided(world: EdgeWorld, tenant: EdgeTenant, told: Counter[str]) -> bool:
    """Tell whether an agent has let a request more by, and count it; what a lease lets by says nothing of that."""
    answer = ask(world, tenant, 1)
    told.update(answer)
    return CHECKED in answer


def has_another_agent(world: EdgeWorld, pid: int) -> bool:
    """Tell whether there is an agent, and not the one of that pid."""
    return world.stack.pids().get("agent", pid) != pid


def used(world: EdgeWorld, tenant: EdgeTenant) -> tuple[int, int]:
    """Return how many reads of the tenant's certificates were counted, and what they cost."""
    with registry(Settings.from_dir(world.stack.dir)) as connection:
        row = connection.execute(USED, (tenant.tenant_id, READ)).fetchone()
    assert row is not None
    return row[0], row[1]


@pytest.mark.behaviour("I6", "S3.13", "S3.14")
def test_most_requests_need_no_check_and_each_is_counted_once(edge_world: EdgeWorld, tenant: EdgeTenant) -> None:
    checks, served = (edge_world.counter(f"cluster.{name}.upstream_rq_total") for name in ("ext_authz", "certificates"))
    before = used(edge_world, tenant)
    answers = ask(edge_world, tenant, SENT)
    asked = edge_world.counter("cluster.ext_authz.upstream_rq_total") - checks

    assert answers.keys() == {CHECKED, LEASED}
    assert edge_world.counter("cluster.certificates.upstream_rq_total") - served >= SENT
    assert answers[CHECKED] == asked < SENT / 4
    wait_for(lambda: used(edge_world, tenant)[0] >= before[0] + SENT)
    # And no more come later.
    time.sleep(2)
    assert used(edge_world, tenant) == (before[0] + SENT, before[1] + SENT)


@pytest.mark.behaviour("I6", "S3.13")
def test_an_agent_that_is_killed_forgets_no_request_that_a_lease_let_by(
    edge_world: EdgeWorld, tenant: EdgeTenant
) -> None:
    breaker = Breaker(edge_world.stack)
    before = used(edge_world, tenant)[0]
    told: Counter[str] = Counter()
    for _ in range(3):
        told.update(ask(edge_world, tenant, SENT // 3))
        killed = edge_world.stack.pids()["agent"]
        breaker.kill("agent")
        # Its workers are gone by the time that there is another one.
        wait_for(partial(has_another_agent, edge_world, killed))
        wait_for(lambda: is_decided(edge_world, tenant, told))

    assert told[LEASED] > SENT / 2 > told[CHECKED]
    wait_for(lambda: used(edge_world, tenant)[0] >= before + told[LEASED])
    time.sleep(2)
    # What its last Checks have admitted, an agent that is killed may not have handed in yet.
    assert 0 <= used(edge_world, tenant)[0] - before - told[LEASED] <= told[CHECKED]
