"""Envoy and the agent come back in any order, by themselves, and to what was in force."""

import json
import time
from typing import Final

import httpx
import pytest

from tests.e2e.edge_faults.conftest import Broken, Tell
from tests.fixtures.edge_faults import NOBODY, wait_for

OK: Final = "200"
CLOSED: Final = "503 UNAVAILABLE"


@pytest.mark.parametrize(
    ("parts", "away"),
    [(("agent", "envoy"), ()), (("agent",), ("control-plane",)), (("agent", "envoy"), ("control-plane",))],
    ids=["agent and envoy", "agent, without the control plane", "agent and envoy, without the control plane"],
)
def test_the_edge_starts_again_with_the_control_plane_or_without_it(
    broken: Broken, parts: tuple[str, ...], away: tuple[str, ...], tell: Tell
) -> None:
    pids = broken.world.stack.pids()
    with broken.breaker.hung(*away):
        broken.breaker.kill(*parts)
        killed = time.monotonic()
        wait_for(lambda: all(broken.world.stack.pids().get(part, pids[part]) != pids[part] for part in parts))
        begun = time.monotonic()
        tell("well again after", broken.readers.wait_told(OK, begun) + begun - killed)
        told = broken.readers.own(killed)

    assert set(told) <= {OK, CLOSED, NOBODY}


def test_an_envoy_that_starts_while_the_agent_hangs_lets_nobody_in_until_it_hears_from_it(
    broken: Broken, tell: Tell
) -> None:
    readers = broken.readers
    with broken.breaker.hung("agent"):
        broken.breaker.kill("envoy")
        wait_for(lambda: _is_up(broken.world.stack.endpoints["envoy_admin"]))
        begun = time.monotonic()
        readers.wait_told(NOBODY, begun)
        time.sleep(2)
        own, stranger = readers.own(begun), readers.stranger(begun)
    mended = time.monotonic()
    tell("well again after", readers.wait_told(OK, mended))

    assert set(own) == set(stranger) == {NOBODY}


def _is_up(admin: str) -> bool:
    """Tell whether an Envoy runs there, whatever it serves."""
    try:
        return httpx.get(f"http://{admin}/server_info").is_success
    except httpx.HTTPError:
        return False


def test_a_tenant_that_was_founded_while_the_agent_was_away_is_served_once_it_is_back(
    broken: Broken, tell: Tell
) -> None:
    with broken.breaker.lost("agent"):
        tenant = broken.world.founder.found("delta")
        # Long enough for Envoy to have asked for its agent a few times.
        time.sleep(3)
    asking = broken.asks_for(tenant)
    tell("served after", wait_for(lambda: asking.ask().said == OK))
    asking.close()


def test_what_is_said_to_be_applied_after_an_agents_death_is_known_to_its_envoy(broken: Broken) -> None:
    pid = broken.world.stack.pids()["agent"]
    broken.breaker.kill("agent")
    wait_for(lambda: broken.world.stack.pids().get("agent", pid) != pid)
    tenant = broken.world.founder.found("epsilon")
    broken.world.founder.applied()
    asking = broken.asks_for(tenant)
    told = asking.ask().said
    asking.close()

    assert told == OK


def test_envoy_asks_for_an_agent_that_is_away_each_second(broken: Broken) -> None:
    bootstrap = json.loads((broken.world.stack.dir / "edge" / "bootstrap.json").read_text())
    (service,) = bootstrap["dynamicResources"]["adsConfig"]["grpcServices"]

    assert service["envoyGrpc"]["retryPolicy"]["retryBackOff"]["maxInterval"] == "1s"
