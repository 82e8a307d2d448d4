"""Edges and proxies at the command line, and waiting until a change is enforced."""

from datetime import UTC, datetime
from typing import Any

import pytest

from bulkhead.v1 import edges_pb2, tenants_pb2, tokens_pb2
from control_plane import errors

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
State = edges_pb2.Edge.ResourceType
APPLIED = edges_pb2.WaitAppliedResponse(revision=7, applied=True, live_edges=2)
LAGGING = edges_pb2.WaitAppliedResponse(revision=7, lagging=["edges/a", "edges/b"], live_edges=3)
TENANT = tenants_pb2.Tenant(name="tenants/org_1", edge_revision=7)
TOKEN = tokens_pb2.Token(name="tenants/org_1/tokens/1", edge_revision=7)

CHANGES: dict[str, tuple[list[str], tenants_pb2.Tenant | tokens_pb2.Token]] = {
    "SuspendTenant": (["tenants", "suspend", "org_1"], TENANT),
    "ReactivateTenant": (["tenants", "reactivate", "org_1"], TENANT),
    "UpdateTenant": (["tenants", "update", "org_1", "--tier", "business"], TENANT),
    "RevokeToken": (["tokens", "revoke", "tenants/org_1/tokens/1"], TOKEN),
}


def edge(name: str, *proxies: edges_pb2.Edge.Proxy, live: bool = True) -> edges_pb2.Edge:
    made = edges_pb2.Edge(name=f"edges/{name}", revision=6, live=live, proxies=proxies)
    made.last_seen_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    return made


def proxy(node: str, *types: edges_pb2.Edge.ResourceType) -> edges_pb2.Edge.Proxy:
    return edges_pb2.Edge.Proxy(node=node, types=types)


@pytest.fixture
def some_edges(api: Any) -> None:
    refused = State(type_url=LISTENER, state=State.NACK, resources=2, revision=5, error="bad\x1b[31m filter")
    synced = State(type_url=LISTENER, state=State.SYNCED, resources=2, revision=6)
    edges = [
        edge("a", proxy("envoy-1", synced, refused)),
        edge("b"),
        edge("c", proxy("envoy-2")),
        edge("d", live=False),
    ]
    api.answer("ListEdges", edges_pb2.ListEdgesResponse(edges=edges, revision=7))


@pytest.mark.usefixtures("some_edges")
def test_proxy_status_has_a_line_for_each_type_of_each_proxy(cli: Any) -> None:
    done = cli("proxy", "status")

    assert [line.split(maxsplit=6) for line in done.out.splitlines()] == [
        ["EDGE", "NODE", "TYPE", "STATE", "RESOURCES", "REVISION", "ERROR"],
        ["a", "envoy-1", "Listener", "SYNCED", "2", "6"],
        ["a", "envoy-1", "Listener", "NACK", "2", "5", r"bad\x1b[31m filter"],
        ["b", "STALE", "6", "no", "proxy", "is", "connected"],
        ["c", "envoy-2", "STALE", "has", "asked", "for", "nothing yet"],
        ["d", "STALE", "6", "not", "heard", "of", "since 2026-01-02T00:00:00Z"],
    ]
    assert done.err == "the newest revision is 7\n"


@pytest.mark.usefixtures("some_edges")
def test_edges_are_listed_with_what_each_enforces(cli: Any) -> None:
    done = cli("edges", "list")

    assert [line.split() for line in done.out.splitlines()[:2]] == [
        ["NAME", "LIVE", "REVISION", "PROXIES", "LAST", "SEEN", "TIME"],
        ["edges/a", "yes", "6", "1", "2026-01-02T00:00:00Z"],
    ]


@pytest.mark.usefixtures("some_edges")
@pytest.mark.parametrize("command", [["edges", "list"], ["proxy", "status"]])
def test_a_program_gets_the_whole_answer(cli: Any, *, command: list[str]) -> None:
    done = cli(*command, "--json")

    assert (done.code, done.err) == (0, "")
    assert done.json["revision"] == "7"
    assert done.json["edges"][0]["proxies"][0]["types"][1]["state"] == "NACK"


@pytest.mark.parametrize(
    ("live", "told"),
    [
        (0, "no edge is live to enforce revision 7"),
        (1, "revision 7 is enforced by every edge (1)"),
        (2, "revision 7 is enforced by every edge (2)"),
    ],
)
def test_waiting_says_how_many_enforce_it(api: Any, cli: Any, *, live: int, told: str) -> None:
    api.answer("WaitApplied", edges_pb2.WaitAppliedResponse(revision=7, applied=True, live_edges=live))
    done = cli("edges", "wait")

    assert (done.code, done.out) == (0, f"{told}\n")
    assert api.received[0].request.timeout.seconds == 10


def test_waiting_in_vain_fails_and_names_those_that_lag(api: Any, cli: Any) -> None:
    api.answer("WaitApplied", LAGGING)
    done = cli("edges", "wait", "--revision", "7", "--timeout", "2s")

    assert (done.code, done.out) == (6, "")
    assert done.err.splitlines()[0] == (
        "error: DEADLINE_EXCEEDED (EDGES_LAG): revision 7 is not enforced yet after 2s by edges/a, edges/b"
    )
    assert "proxy status` shows what holds it back" in done.err


def test_waiting_in_vain_gives_a_program_both_the_answer_and_the_error(api: Any, cli: Any) -> None:
    api.answer("WaitApplied", LAGGING)
    done = cli("edges", "wait", "--json")

    assert done.json["lagging"] == ["edges/a", "edges/b"]
    assert (done.error["reason"], done.error["exit_code"]) == ("EDGES_LAG", 6)


def test_nobody_waits_for_more_than_a_minute(api: Any, cli: Any) -> None:
    assert cli("edges", "wait", "--timeout", "61s").code == 2
    assert not api.received


@pytest.mark.parametrize("rpc", CHANGES)
def test_a_change_waits_for_its_own_revision_if_asked_to(api: Any, cli: Any, *, rpc: str) -> None:
    command, answer = CHANGES[rpc]
    api.answer(rpc, answer)
    api.answer("WaitApplied", APPLIED)
    plain = cli(*command)
    waited = cli(*command, "--wait")

    assert [call.method for call in api.received] == [rpc, rpc, "WaitApplied"]
    assert api.received[-1].request.revision == 7
    assert plain.out == waited.out
    assert waited.err.startswith("revision 7 is enforced by every edge (2) after ")


@pytest.mark.parametrize("rpc", CHANGES)
@pytest.mark.parametrize("failure", [LAGGING, errors.UnavailableError("away")], ids=["lagging", "away"])
def test_a_change_that_is_made_and_perhaps_not_enforced_is_a_partial_one(
    api: Any, cli: Any, *, rpc: str, failure: Any
) -> None:
    command, answer = CHANGES[rpc]
    api.answer(rpc, answer)
    api.answer("WaitApplied", failure)
    done = cli(*command, "--wait", "--json")

    assert done.json["name"] == answer.name
    assert (done.code, done.error["exit_code"]) == (7, 7)


def test_what_is_only_checked_is_not_waited_for(api: Any, cli: Any) -> None:
    api.answer("UpdateTenant", TENANT)

    assert cli("tenants", "update", "org_1", "--tier", "business", "--validate-only", "--wait").code == 0
