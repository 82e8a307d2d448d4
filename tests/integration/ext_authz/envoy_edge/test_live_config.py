"""What a running Envoy says that it does, by shape: what is nowhere allowed is nowhere found."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ext_authz.xds.resources.filters import ASKING
from tests.integration.ext_authz.envoy_edge.edge import TENANTS, Edge, suspended
from tests.integration.ext_authz.envoy_edge.http1 import request, send

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAIN = [
    "envoy.filters.http.header_mutation",
    "envoy.filters.http.lua",
    "envoy.filters.http.local_ratelimit",
    "envoy.filters.http.on_demand",
    "bulkhead.asking",
    "envoy.filters.http.rbac",
    "envoy.filters.http.grpc_json_transcoder",
    "envoy.filters.http.router",
]


def _all(value: Any, key: str) -> Iterator[Any]:
    """Yield what stands under this key, however deep."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for one in value.values():
            yield from _all(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from _all(one, key)


async def _dump(edge: Edge) -> Any:
    for tenant in TENANTS:
        await send(edge.http_port, request(f"/api/v1/tenants/{tenant.tenant_id}/certificates"))
    return await edge.envoy.ask("/config_dump")


@pytest.mark.behaviour("T-E15")
async def test_the_agent_is_passed_by_nowhere(edge: Edge) -> None:
    dump = await _dump(edge)
    routes = [route for routes in _all(dump, "routes") for route in routes]

    own = [
        route for route in routes if ASKING in route.get("typed_per_filter_config", {}) or "direct_response" in route
    ]
    epochs = {str(tenant.revision) for tenant in TENANTS}

    assert routes
    # But by what a lease shows, which nobody can who was not granted one: it names the epoch, and the class.
    matchers = [header for route in own for header in route["match"]["headers"]]
    shown = [header for header in matchers if header["name"] == "x-bulkhead-lease"]
    prefixes = [header["string_match"]["prefix"].split(".", 1) for header in shown]
    assert len(shown) == len(own)
    assert {epoch for epoch, _ in prefixes} <= epochs
    assert {name for _, name in prefixes} == {"certificates.read.", "certificates.list.", "held."}
    assert all("safe_regex" in route["match"] for route in own)
    hosts = [host for hosts in _all(dump, "virtual_hosts") for host in hosts]
    # What a host says to it is said to the agent, and nothing else: `disabled` is not.
    assert [host["typed_per_filter_config"].keys() for host in hosts] == [{ASKING}] * len(hosts)
    told = [host["typed_per_filter_config"][ASKING] for host in hosts]
    assert [set(one) for one in told] == [{"@type", "check_settings"}] * len(hosts)
    assert {one["@type"].rpartition(".")[2] for one in told} == {"ExtAuthzPerRoute"}


@pytest.mark.behaviour("T-E15")
async def test_nothing_is_open_because_it_could_not_be_checked(edge: Edge) -> None:
    dump = await _dump(edge)

    assert set(_all(dump, "failure_mode_allow")) <= {False}
    assert {status["code"] for status in _all(dump, "status_on_error")} == {"ServiceUnavailable"}
    domains = [domain for domains in _all(dump, "domains") for domain in domains]
    assert domains
    assert [domain for domain in domains if "*" in domain] == []
    assert list(_all(dump, "prefix")) == [] or "/" not in _all(dump, "prefix")


async def test_what_is_closed_elsewhere_too_is_closed_here(edge: Edge) -> None:
    dump = await _dump(edge)
    names = {
        "use_remote_address": {True},
        "preserve_external_request_id": set(),
        "enable_trailers": set(),
        "allow_connect": set(),
        "request_headers_timeout": {"5s"},
        "request_timeout": {"30s"},
        "tls_minimum_protocol_version": {"TLSv1_2", "TLSv1_3"},
        # Unsaid, it is SANITIZE.
        "forward_client_cert_details": set(),
        "match_incoming_request_route": {True},
    }

    assert {name: set(_all(dump, name)) - {False} for name in names} == names


async def test_every_listener_has_the_same_chain(edge: Edge) -> None:
    listeners = [one["active_state"]["listener"] for one in _all(await _dump(edge), "dynamic_listeners") for one in one]
    managers = [chain["filters"][0]["typed_config"] for listener in listeners for chain in listener["filter_chains"]]

    assert {listener["name"] for listener in listeners} == {"edge_http", "edge_https"}
    assert [[one["name"] for one in manager["http_filters"]] for manager in managers] == [CHAIN] * 2
    # But for one word of the script's.
    plain, tls = (json.dumps(manager) for manager in managers)
    assert plain.replace("local IS_TLS = false", "local IS_TLS = true") == tls


async def test_statistics_know_no_tenant(edge: Edge) -> None:
    await _dump(edge)
    names = await edge.envoy.stats()

    assert [name for name in names if any(tenant.tenant_id in name for tenant in TENANTS)] == []
    assert names["http.edge.downstream_rq_total"] > 0


async def test_a_suspension_is_in_force_when_it_is_acknowledged(edge: Edge) -> None:
    """On a connection that was there before, too: a route is chosen for each request."""
    asked = request("/api/v1/tenants/globex/certificates")
    before = await send(edge.http_port, asked)
    await edge.tell(suspended(TENANTS[1], 9))
    during = await send(edge.http_port, asked)
    await edge.tell(TENANTS[1])

    assert (before.status, during.status) == (200, 403)
    assert (await send(edge.http_port, asked)).status == 200
    assert edge.workers.epoch() == str(TENANTS[1].revision)


async def test_keys_are_not_shown(edge: Edge) -> None:
    assert "PRIVATE KEY" not in str(await _dump(edge))
