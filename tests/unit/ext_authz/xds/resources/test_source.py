"""What is the same for all tenants."""

import re
from pathlib import Path

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret

from ext_authz.xds.resources.filters import read_lua
from ext_authz.xds.resources.source import EnvoyResources
from tests.integration.ext_authz.envoy_edge.edge import edge_settings

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def test_statics_are_named_and_the_same_every_time(tmp_path: Path) -> None:
    resources = EnvoyResources(edge_settings(tmp_path))
    statics = resources.statics()

    assert {url: set(named) for url, named in statics.items()} == {
        CLUSTER: {"certificates", "ext_authz"},
        LISTENER: {"edge_http", "edge_https"},
        SECRET: {"edge_certificate", "edge_client_ca", "upstream_certificate", "upstream_ca"},
    }
    assert statics == resources.statics()
    for url, kind in ((CLUSTER, Cluster), (LISTENER, Listener), (SECRET, Secret)):
        assert all(kind.parse(body).name == name for name, body in statics[url].items())


def test_a_replaced_certificate_changes_its_secret_and_nothing_else(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)
    resources = EnvoyResources(settings)
    before = resources.statics()
    settings.server_certificate.write_bytes(settings.certificate.read_bytes())
    after = resources.statics()

    changed = {name for url in before for name in before[url] if before[url][name] != after[url][name]}
    assert changed == {"edge_certificate"}


def test_every_worker_is_asked(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)
    workers = EnvoyResources(settings).statics()[CLUSTER]["ext_authz"]

    assert [str(settings.check_socket(number)).encode() in workers for number in range(3)] == [True, True, False]


def test_the_service_has_to_prove_who_it_is(tmp_path: Path) -> None:
    certificates = EnvoyResources(edge_settings(tmp_path)).statics()[CLUSTER]["certificates"]

    assert b"spiffe://bulkhead/service/certificates" in certificates


def test_the_script_sets_and_reads_these_headers_alone() -> None:
    code = re.sub(r"--.*", "", read_lua())
    asked, answered = code.split("local function keep_lease")

    assert set(re.findall(r'get\("([^"]+)"\)', asked)) == {
        *(":path", ":method", ":authority"),
        *("x-tenant-id", "authorization"),
    }
    assert set(re.findall(r'get\("([^"]+)"\)', answered)) == {"bulkhead", "x-bulkhead-grant"}
    assert re.findall(r"replace\((\w+),", code) == ["KEY", "KEY"]
    assert 'KEY = "x-bulkhead-tenant"' in code
    assert set(re.findall(r'add\("?([\w.-]+)"?,', code)) == {
        "x-bulkhead-lease",
        "x-bulkhead-unspent",
        "x-bulkhead-repeated",
        "lease.carrier",
    }
    assert 'carrier = reset and "x-bulkhead-retry-after" or "x-bulkhead-context",' in code
