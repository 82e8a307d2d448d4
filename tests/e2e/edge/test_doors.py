"""T-E15 and T-E19: what is behind the edge, and what Envoy is really told, by its own account."""

import json
import stat
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from tests.fixtures.edge import EdgeWorld
from tests.fixtures.edge_wire import Door, Fields, framed, http2, rest

HTTP_MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ASKING: Final = "bulkhead.asking"
# By whom these are served elsewhere in the stack, or in other stacks.
DOORS: Final = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.Health/Check",
    "/grpc.channelz.v1.Channelz/GetTopChannels",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    "/envoy.service.auth.v3.Authorization/Check",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    "/bulkhead.edge.v1.PolicyService/FollowPolicies",
    "/bulkhead.v1.EdgeService/ListEdges",
    "/bulkhead.v1.TenantService/ListTenants",
    "/bulkhead.v1.TenantService/GetTenant",
    "/bulkhead.v1.TokenService/IssueToken",
    "/bulkhead.v1.AuditService/ListAuditEntries",
    "/google.longrunning.Operations/ListOperations",
    "/bulkhead.v1.CertificateService/",
    "/bulkhead.v1.CertificateService",
    "/bulkhead.v1.certificateservice/ListCertificates",
    "/bulkhead.v1.CertificateService/ListCertificates/",
    "/bulkhead.v1.CertificateService/ListCertificatesX",
)
ADMIN: Final = (
    "/config_dump", "/clusters", "/stats", "/stats/prometheus", "/server_info", "/listeners", "/quitquitquit",
    "/metrics", "/healthz", "/ready", "/certs", "/memory", "/api/v1/edges", "/api/v1/tenants", "/api/v1/tenants/{a}",
    "/", "/api/v1/tenants/{a}/tokens", "/api/v1/tenants/{a}/auditEntries", "/api/v1/operations",
)  # fmt: skip


def members(value: Any, key: str) -> Iterator[Any]:
    """Find every member of that name, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from members(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner, key)


@pytest.fixture
def config(edge_world: EdgeWorld) -> Any:
    """Everything that Envoy has been told, after each tenant's routes were asked for."""
    for tenant in edge_world.tenants:
        httpx.get(f"http://{edge_world.http}{tenant.certificates}", headers=tenant.bearer)
    return json.loads(edge_world.admin("/config_dump?include_eds"))


@pytest.fixture
def routes(config: Any) -> dict[str, Any]:
    """All tenants' routes that Envoy has, by their names."""
    dumps = [part for part in config["configs"] if part["@type"].endswith("RoutesConfigDump")]
    found = [one["route_config"] for dump in dumps for one in dump.get("dynamic_route_configs", ())]
    assert not any(dump.get("static_route_configs") for dump in dumps)
    return {one["name"]: one for one in found}


def leaves_the_agent_out(one: Any) -> bool:
    """Tell whether a route or a host says to what asks anything but what the agent is told."""
    settings = one.get("typed_per_filter_config", {}).get(ASKING)
    return settings is not None and settings.keys() != {"@type", "check_settings"}


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("shown", ["the tenant's", "the platform's", "none"])
def test_no_service_but_the_tenants_own_is_reached(edge_world: EdgeWorld, *, path: str, shown: str) -> None:
    own = edge_world.tenant_a
    token = {"the tenant's": own.token, "the platform's": edge_world.platform_token, "none": ""}[shown]
    before = edge_world.upstream_requests()
    credential: Fields = [(b"authorization", b"Bearer " + token.encode())] if token else []
    for host in (edge_world.authority, own.host):
        headers = [
            *rest(path.encode(), host.encode(), method=b"POST"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"x-tenant-id", own.tenant_id.encode()),
        ]
        answer = http2(Door(address=edge_world.http), [*headers, *credential], body=framed(b""))
        assert answer.header("grpc-status") == "7", answer
        assert answer.header("grpc-message") in {"access denied", "no method is served there"}

    assert edge_world.upstream_requests() == before


@pytest.mark.behaviour("T-E19")
@pytest.mark.parametrize("path", ADMIN)
def test_nothing_of_the_platforms_is_served_to_tenants(edge_world: EdgeWorld, *, path: str) -> None:
    own = edge_world.tenant_a
    before = edge_world.upstream_requests()
    for token in (own.token, edge_world.platform_token):
        for host in (edge_world.authority, own.host):
            answer = httpx.get(
                f"http://{edge_world.http}{path.format(a=own.tenant_id)}",
                headers={"authorization": f"Bearer {token}", "host": host},
            )
            assert (answer.status_code, answer.json()["status"]) == (403, 403)

    assert edge_world.upstream_requests() == before


def test_envoys_administration_and_the_agents_sockets_are_this_machines_and_this_users(edge_world: EdgeWorld) -> None:
    config = json.loads((edge_world.stack.dir / "config.json").read_text())["edge"]
    bootstrap = json.loads((edge_world.stack.dir / "edge" / "bootstrap.json").read_text())
    folder = edge_world.stack.dir / config["sockets_dir"]
    modes = {socket.name: stat.S_IMODE(socket.stat().st_mode) for socket in folder.glob("*.sock")}
    del modes["valkey.sock"]

    assert bootstrap["admin"]["address"]["socketAddress"]["address"] == "127.0.0.1"
    assert modes == dict.fromkeys(("xds.sock", "policies.sock", "check-0.sock", "check-1.sock"), 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.behaviour("T-E15")
def test_the_agent_is_passed_by_on_no_route_of_anybodys(edge_world: EdgeWorld, routes: dict[str, Any]) -> None:
    hosts = [host for one in routes.values() for host in one.get("virtual_hosts", ())]
    every = [*hosts, *(route for host in hosts for route in host["routes"])]

    assert f"tenant:{edge_world.tenant_a.tenant_id}" in routes
    own = [one for one in every if leaves_the_agent_out(one) or "direct_response" in one or "redirect" in one]
    # What is shown there nobody has whom the agent has not given it.
    assert {one["name"] for one in own} == {"leased", "held"}
    assert {one["match"]["headers"][0]["name"] for one in own} == {"x-bulkhead-lease"}
    assert all(one["match"]["headers"][0]["string_match"]["prefix"].count(".") > 1 for one in own)


def test_a_suspended_tenant_has_no_routes_at_all(edge_world: EdgeWorld, routes: dict[str, Any]) -> None:
    suspended = {name.replace("tenants/", "tenant:") for name in edge_world.founder.suspended()}

    assert f"tenant:{edge_world.suspended.tenant_id}" in suspended & routes.keys()
    assert {name for name, one in routes.items() if not one.get("virtual_hosts")} == suspended & routes.keys()


@pytest.mark.behaviour("T-E15")
def test_routes_are_an_allow_list_of_one_tenants_paths_at_its_own_hosts(
    edge_world: EdgeWorld, routes: dict[str, Any]
) -> None:
    own = edge_world.tenant_a
    made = routes[f"tenant:{own.tenant_id}"]
    (host,) = made["virtual_hosts"]
    served = [route for route in host["routes"] if route["name"] == "served"]
    matches = [route["match"] for route in served]

    assert set(host["domains"]) == {own.host, own.custom, edge_world.authority, "localhost", "127.0.0.1"}
    assert [(match["path_separated_prefix"], "grpc" in match) for match in matches] == [
        (f"/api/v1/tenants/{own.tenant_id}", False),
        ("/bulkhead.v1.CertificateService", True),
    ]
    assert {route["route"]["cluster"] for route in served} == {"certificates"}
    assert {"authorization", "x-tenant-id", "x-bulkhead-tenant"} <= set(made["request_headers_to_remove"])


@pytest.mark.behaviour("T-E15")
def test_no_host_of_any_routes_is_a_wildcard(routes: dict[str, Any]) -> None:
    domains = [domain for one in routes.values() for host in one.get("virtual_hosts", ()) for domain in host["domains"]]

    assert [domain for domain in domains if "*" in domain] == []


@pytest.mark.behaviour("T-E15")
def test_nothing_fails_open(config: Any) -> None:
    assert not any(members(config, "failure_mode_allow"))
    assert not any(members(config, "failure_mode_allow_header_add"))
    authorizers = [
        part
        for part in members(config, "typed_config")
        if isinstance(part, dict) and str(part.get("@type", "")).endswith("ext_authz.v3.ExtAuthz")
    ]
    assert authorizers
    for part in authorizers:
        assert part["status_on_error"]["code"] == "ServiceUnavailable"
        assert part["validate_mutations"] is True
        assert part["encode_raw_headers"] is True
        assert part.get("filter_enabled") is None


def test_every_listener_is_hardened(config: Any) -> None:
    managers = [
        part
        for part in members(config, "typed_config")
        if isinstance(part, dict) and str(part.get("@type", "")).endswith(HTTP_MANAGER)
    ]
    assert len(managers) == 2
    for manager in managers:
        assert manager["normalize_path"] is True
        assert manager["merge_slashes"] is True
        assert manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
        assert manager["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
        assert manager["use_remote_address"] is True
        assert manager["strip_any_host_port"] is True
        assert manager["strip_trailing_host_dot"] is True
        assert not manager.get("preserve_external_request_id")
        assert manager.get("forward_client_cert_details", "SANITIZE") == "SANITIZE"
        assert "scoped_routes" in manager
        assert "route_config" not in manager
        removed = json.dumps(manager["early_header_mutation_extensions"])
        assert all(prefix in removed for prefix in ("x-bulkhead-", "x-envoy-", "x-forwarded-"))
        filters = [one["name"].rpartition(".")[2] for one in manager["http_filters"]]
        assert filters[-1] == "router"
        assert filters.index("lua") < filters.index("on_demand") < filters.index("asking")
        assert filters.index("asking") < filters.index("grpc_json_transcoder")


def test_what_envoy_says_of_itself_holds_no_private_key(edge_world: EdgeWorld) -> None:
    said = edge_world.admin("/config_dump?include_eds") + edge_world.admin("/certs")

    assert "PRIVATE KEY" not in said
    assert "[redacted]" in said
