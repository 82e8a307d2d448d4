"""An agent that is lost or hung: closed, with 503 in time, and open again when it is back."""

import time

import pytest

from ext_authz.leases.grants import LONGEST_MS
from tests.e2e.edge_faults.conftest import Broken, Tell, has_all_workers
from tests.fixtures.edge_faults import wait_for

CLOSED = "503 UNAVAILABLE"
# A Check may take a quarter of a second. Here a hang is told from an answer; how long it really takes is in the report.
HANGS_S = 3.0


@pytest.mark.behaviour("T-E13")
@pytest.mark.parametrize(
    ("how", "part"), [("hung", "agent"), ("hung", "workers"), ("lost", "agent"), ("lost", "workers")]
)
def test_nothing_reaches_the_service_while_nobody_decides(broken: Broken, how: str, part: str, tell: Tell) -> None:
    readers = broken.readers
    begun = time.monotonic()
    with getattr(broken.breaker, how)(part):
        readers.wait_told(CLOSED, begun)
        # While one asks for more, others may go on with what was leased before.
        time.sleep(LONGEST_MS / 1000)
        sent, closed = broken.world.upstream_requests(), time.monotonic()
        time.sleep(0.5)
        readers.wait_told(CLOSED, closed)
        readers.wait_stranger_told(CLOSED, closed)
        told, strangers = readers.own(closed), readers.stranger(closed)
        sent_meanwhile = broken.world.upstream_requests() - sent
    mended = time.monotonic()
    tell("503 after", readers.longest(CLOSED, closed))
    tell("open again after", readers.wait_told("200", mended))

    assert sent_meanwhile == 0
    assert set(told) == set(strangers) == {CLOSED}
    assert readers.longest(CLOSED, begun) < HANGS_S


@pytest.mark.behaviour("T-E13")
def test_a_tenants_first_request_is_not_held_for_an_agent_that_is_away(broken: Broken, tell: Tell) -> None:
    tenant = broken.world.founder.found("omega")
    broken.world.founder.applied()
    asking = broken.asks_for(tenant)
    with broken.breaker.hung("agent"):
        told = asking.ask()
    tell("503 after", told.took_s)
    tell("open again after", wait_for(lambda: asking.ask().said == "200"))
    asking.close()

    assert told.said == CLOSED


@pytest.mark.behaviour("T-E13")
def test_workers_that_hang_are_replaced(broken: Broken, tell: Tell) -> None:
    begun = time.monotonic()
    before = {worker.pid for worker in broken.breaker.workers()}
    with broken.breaker.hung("workers"):
        broken.readers.wait_told(CLOSED, begun)
        tell("open again after", broken.readers.wait_told("200", time.monotonic()))
        wait_for(lambda: not before & {worker.pid for worker in broken.breaker.workers()})


@pytest.mark.behaviour("T-E13")
@pytest.mark.parametrize("how", ["hung", "killed"])
def test_hardly_anybody_notices_that_one_worker_is_lost_and_then_the_other(
    broken: Broken, how: str, tell: Tell
) -> None:
    begun = time.monotonic()
    for worker in broken.breaker.workers():
        worker.suspend() if how == "hung" else worker.kill()
        wait_for(lambda: not worker.is_running())  # noqa: B023 run at once
        wait_for(lambda: has_all_workers(broken.world))
    told, took = broken.readers.own(begun), broken.readers.longest("200", begun)
    tell("answers 200", told["200"])
    tell("answers 503", told[CLOSED])
    tell("longest", took)

    assert set(told) <= {"200", CLOSED}
    # On a busy machine the other worker may be late too.
    assert told["200"] > 4 * told[CLOSED]
