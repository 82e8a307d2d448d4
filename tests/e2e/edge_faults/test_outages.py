"""What still answers while a part is away: each line of the table in `envoy/README.md` is a test.

The agent's lines are in `test_agents.py`. A part that is lost has been killed, and nobody starts it again; one that
hangs is there, and does nothing.
"""

import time
from dataclasses import dataclass
from typing import Final

import pytest
from typing_extensions import override

from tests.e2e.edge_faults.conftest import Broken, Tell
from tests.fixtures.edge_faults import NOBODY, SILENCE, reader, wait_for

OK: Final = "200"
STRANGER: Final = "403 ACCESS_DENIED"
CLOSED: Final = "503 UNAVAILABLE"
UNCOUNTED: Final = "503 RATE_UNAVAILABLE"
# The service's own: gRPC's UNAVAILABLE.
SERVICE_SAYS_SO: Final = "503 14"
EVERYTHING: Final = ("postgres", "valkey", "control-plane", "certificates", "agent", "envoy")


@dataclass(frozen=True, slots=True)
class Line:
    """What is told as long as the part is away."""

    part: str
    how: str
    own: str
    """To a tenant's own callers."""
    stranger: str
    """To strangers who ask for a tenant that is there."""

    @override
    def __str__(self) -> str:
        return f"{self.part} {self.how}"


TABLE: Final = (
    Line("control-plane", "lost", OK, STRANGER),
    Line("control-plane", "hung", OK, STRANGER),
    Line("postgres", "lost", SERVICE_SAYS_SO, STRANGER),
    Line("postgres", "hung", SILENCE, STRANGER),
    Line("valkey", "lost", UNCOUNTED, STRANGER),
    Line("valkey", "hung", UNCOUNTED, STRANGER),
    Line("certificates", "lost", CLOSED, STRANGER),
    Line("certificates", "hung", SILENCE, STRANGER),
    Line("envoy", "lost", NOBODY, NOBODY),
    Line("envoy", "hung", SILENCE, SILENCE),
)


@pytest.mark.behaviour("T-F1")
@pytest.mark.behaviour("T-F2")
@pytest.mark.behaviour("T-V7")
@pytest.mark.parametrize("line", TABLE, ids=str)
def test_what_is_told_while_a_part_is_away_and_that_all_is_well_afterwards(
    broken: Broken, line: Line, tell: Tell
) -> None:
    readers = broken.readers
    begun = time.monotonic()
    with getattr(broken.breaker, line.how)(line.part):
        if line.own != SILENCE:
            readers.wait_told(line.own, begun)
        if line.own == UNCOUNTED:
            # Each worker has spent what it had reserved: a second's demand, which another one may hold for longer.
            tell("on what was reserved", wait_for(lambda: OK not in readers.own(time.monotonic() - 1)))
        # What hangs does so at once, and a reader takes seconds to say so.
        settled = time.monotonic()
        time.sleep(0.5)
        readers.wait_told(line.own, settled)
        readers.wait_stranger_told(line.stranger, settled)
        own, stranger = readers.own(settled), readers.stranger(settled)
        told_in = readers.longest(line.own, settled)
    mended = time.monotonic()
    tell("told in", told_in)
    tell("well again after", readers.wait_told(OK, mended))
    broken.world.stack.wait_ready()
    tell("ready again after", time.monotonic() - mended)
    since = readers.own(mended)
    tell("not 200 after that", sum(since.values()) - since[OK])

    assert set(own) == {line.own}
    assert set(stranger) == {line.stranger}


@pytest.mark.behaviour("T-F1")
def test_while_nobody_decides_a_suspended_and_an_absent_tenant_are_refused_all_the_same(broken: Broken) -> None:
    world = broken.world
    suspended = reader(world, world.suspended, foreign=world.suspended.canary, owns="")
    with broken.breaker.hung("workers"):
        told = suspended.ask().said
    suspended.close()

    assert told == STRANGER


def test_a_service_that_hangs_is_given_up_in_fifteen_seconds(broken: Broken, tell: Tell) -> None:
    world = broken.world
    patient = reader(world, world.tenant_a, foreign=world.tenant_b.canary, patience_s=40)
    # On a connection to the service that is there already: to a new one it would not even come.
    assert patient.ask().said == OK
    with broken.breaker.hung("certificates"):
        told = patient.ask()
    patient.close()
    tell("given up after", told.took_s)

    assert told.said == "504 DEADLINE_EXCEEDED"


@pytest.mark.behaviour("T-F1")
def test_everything_that_was_killed_at_once_comes_back_by_itself(broken: Broken, tell: Tell) -> None:
    broken.breaker.kill(*EVERYTHING)
    killed = time.monotonic()
    broken.readers.wait_told(NOBODY, killed)
    tell("well again after", broken.readers.wait_told(OK, killed))
    broken.world.stack.wait_ready()
    tell("ready again after", time.monotonic() - killed)
