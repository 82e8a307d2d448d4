"""Many tenants at the edge (T-X5): what each costs while it is idle, and who hears of a change of one."""

import http.client
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, LiteralString

import pytest

from tests.e2e.edge_scale.conftest import IS_BATTERY, Scaled, Tell, scaled
from tests.fixtures.synthetic import SyntheticTenant, insert, registry

KNOWN: Final = 10_000 if IS_BATTERY else 1_000
TOUCHED: Final = 3_000 if IS_BATTERY else 100
# By its id, and by its host.
SCOPES_EACH: Final = 2
# Beside a frame of the change itself, there are pings.
FRAME_BYTES: Final = 16 * 1024
MB: Final = 1e6
# What an idle tenant may cost: in one process of the agent's, and in the control plane.
AGENT_BYTES: Final = 20_000
CONTROL_PLANE_BYTES: Final = 100_000

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """A stack with many tenants at its edge."""

    world: Scaled
    tenants: Sequence[SyntheticTenant]
    known_s: float
    """From their commit until the edge had all of them."""
    before: dict[str, int]
    """What was in memory without them."""
    untouched: dict[str, int]
    """What was in memory with them, before any was asked for."""
    scopes: dict[str, int]
    """What Envoy counted then."""


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with scaled() as world:
        before = world.memory()
        tenants = insert(world.settings, KNOWN)
        begun = time.perf_counter()
        world.applied()
        known_s = time.perf_counter() - begun
        # The last-good copy is written, and what all that took is let go.
        time.sleep(5)
        yield Crowd(
            world=world,
            tenants=tenants,
            known_s=known_s,
            before=before,
            untouched=world.memory(),
            scopes=scopes(world),
        )


def scopes(world: Scaled) -> dict[str, int]:
    found = world.counters(r"http\.edge\.scoped_rds\.tenants\.(all|active)_scopes")
    return {name.rpartition(".")[2]: value for name, value in found.items()}


def touch(world: Scaled, tenants: Sequence[SyntheticTenant]) -> tuple[list[int], list[float]]:
    """Ask once for each tenant, with a token that lacks the scope: the agent answers, and nobody behind it."""
    tokens = [tenant.token("certificates.write") for tenant in tenants]
    statuses: list[int] = []
    seconds: list[float] = []
    with closing(http.client.HTTPConnection(world.stack.endpoints["edge_http"], timeout=30)) as connection:
        for tenant, token in zip(tenants, tokens, strict=True):
            headers = {"host": world.stack.endpoints["edge_authority"], "authorization": f"Bearer {token}"}
            begun = time.perf_counter()
            connection.request("GET", tenant.certificates, headers=headers)
            answer = connection.getresponse()
            code = json.loads(answer.read())["code"]
            seconds.append(time.perf_counter() - begun)
            assert (answer.status, code) in {(403, "SCOPE_MISSING"), (503, "UNAVAILABLE")}
            statuses.append(answer.status)
    return statuses, seconds


def routes(world: Scaled) -> dict[str, str]:
    """Return the versions of the routes that Envoy has, by their names."""
    dumped = world.envoy("/config_dump?resource=dynamic_route_configs").json().get("configs", [])
    return {one["route_config"]["name"]: one["version_info"] for one in dumped}


def received(world: Scaled) -> int:
    """Tell how many bytes Envoy has had from the agent."""
    return world.counters(r"cluster\.xds\.upstream_cx_rx_bytes_total")["cluster.xds.upstream_cx_rx_bytes_total"]


def test_the_edge_knows_all_of_them_and_has_routes_of_none(crowd: Crowd, tell: Tell) -> None:
    tell(f"tenants.{KNOWN}.known_s", crowd.known_s)

    assert crowd.scopes == {"all_scopes": SCOPES_EACH * KNOWN, "active_scopes": 0}


def test_an_idle_tenant_costs_next_to_nothing(crowd: Crowd, tell: Tell) -> None:
    each = {name: (crowd.untouched[name] - before) / KNOWN for name, before in crowd.before.items()}
    for name, before in crowd.before.items():
        tell(f"tenants.{KNOWN}.memory.{name}.before_mb", before / MB)
        tell(f"tenants.{KNOWN}.memory.{name}.untouched_mb", crowd.untouched[name] / MB)

    assert {name: cost for name, cost in each.items() if cost > _allowed(name)} == {}


def _allowed(name: str) -> int:
    return CONTROL_PLANE_BYTES if name == "control-plane" else AGENT_BYTES


def test_routes_are_fetched_for_those_who_are_asked_for(crowd: Crowd, tell: Tell) -> None:
    world, tenants = crowd.world, crowd.tenants[:TOUCHED]
    before = scopes(world)["active_scopes"]
    first, again = touch(world, tenants), touch(world, tenants)
    tell(f"tenants.{KNOWN}.first_touch_p50_ms", statistics.median(first[1]) * 1000)
    tell(f"tenants.{KNOWN}.later_p50_ms", statistics.median(again[1]) * 1000)
    for name, size in world.memory().items():
        tell(f"tenants.{KNOWN}.memory.{name}.touched_{TOUCHED}_mb", size / MB)

    assert scopes(world)["active_scopes"] - before == TOUCHED
    # A busy machine may miss the agent's deadline now and then.
    assert [statuses.count(403) >= 0.98 * TOUCHED for statuses, _ in (first, again)] == [True, True]


@pytest.mark.behaviour("T-X5")
@pytest.mark.parametrize(
    ("change", "more_scopes"),
    [("state = 'SUSPENDED'", 0), ("domains = ARRAY[dns_label || '.example.org']", 1)],
    ids=["suspended", "another domain"],
)
def test_of_a_change_envoy_is_sent_what_is_that_tenants(
    crowd: Crowd, tell: Tell, *, change: LiteralString, more_scopes: int
) -> None:
    # Another four each time: the one before is suspended.
    world, (changed, *others) = crowd.world, crowd.tenants[-4 - 4 * more_scopes :][:4]
    touch(world, [changed, *others])
    before = routes(world), scopes(world)["all_scopes"], received(world)
    with registry(world.settings) as connection:
        connection.execute(f"UPDATE csm_system.tenants SET {change} WHERE uid = %s", [changed.uid])
    begun = time.perf_counter()
    world.applied()
    tell(f"tenants.{KNOWN}.{change.split()[0]}.applied_ms", (time.perf_counter() - begun) * 1000)
    after = routes(world), scopes(world)["all_scopes"], received(world)
    tell(f"tenants.{KNOWN}.{change.split()[0]}.bytes", after[2] - before[2])

    assert {f"tenant:{other.tenant_id}" for other in others} <= set(after[0])
    assert {name for name, version in after[0].items() if before[0].get(name) != version} == {
        f"tenant:{changed.tenant_id}"
    }
    assert after[1] - before[1] == more_scopes
    assert after[2] - before[2] <= FRAME_BYTES
