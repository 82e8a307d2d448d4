"""A request says what it says in one canonical form, or it has a fault."""

from typing import Final
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.ids import tenant_id_violation
from ext_authz.authz.methods import Wire
from ext_authz.authz.request import Asked, UndecidableError, read_request
from tests.unit.ext_authz.authz.checks import CERTIFICATE_ID, SHARED, Ask, grpc_ask

NO_IDS: Final = [
    b"", b" ", b"org_1,org_1", b"org_1, org_2", b",org_1", b" org_1", b"org_1 ", b"org_1\t", b"\torg_1",
    b"org_1\x00", b"ORG_1", b"Org_1", b"org-1", b"org_1/", b"../org_1", b"org_1\xc3\xa9", b"\xff", b"org_1\x7f",
    b"o", b"a" * 42, "\uff4frg_1".encode(),
    "\u043erg_1".encode(), b"org__1", b"1org", b"org_1;x", b"org%5f1", b'"org_1"',
    b"a" * 70_000,
]  # fmt: skip
NO_HOSTS: Final = [
    b"", b".", b"..", b"org-1.csm.example.com..", b"org-1.csm.example.com:1:2", b"org-1.csm.example.com:",
    b"[::1]", b"[::1]:80", b"::1", b"a.example,b.example", b"a.example b.example", b" a.example",
    b"a.example\x00.b", b"*.csm.example.com", b"a_b.example", b"-a.example", b"a-.example", b"a..b",
    b"user@a.example", b"a.example/x", "bücher.example".encode(), "\uff4frg-1.csm.example.com".encode(),
    b"a.example:123456", b"a" * 64, b"a." * 200 + b"a", b"org-1.csm.example.com%00", b"\xff",
    b"org-1.csm.example.com\t", b"a.example:80.", b"org-1.csm.example.com:x",
]  # fmt: skip
NO_PATHS: Final = [
    "", "*", "/", "//", "certificates", "http://org-2.csm.example.com/api/v1/tenants/org_1/certificates",
    "/api/v1/tenants/org_1/../org_2/certificates", "/api/v1/tenants/org_1/.", "/api/v1/tenants/org_1/..",
    "/./api/v1/tenants/org_1", "/api//v1/tenants/org_1", "//api/v1/tenants/org_1", "/api/v1/tenants/org_1/",
    "/api/v1/tenants/org_1;x/certificates", "/api/v1/tenants/org_1\\..\\org_2", "/api/v1/tenants/org_1#x", "/a b",
    "/api/v1/tenants/%6frg_1/certificates", "/api/v1/tenants/org_1%2fcertificates", "/api/v1/tenants/org_1/%2e%2e",
    "/api/v1/tenants/org_1/%5c", "/api/v1/tenants/org_1/%252e", "/api/v1/tenants/org_1/%00", "/api/%zz", "/api/%",
    "/api/v1/tenants/org_1/\x00", "/api/v1/tenants/org_1/\r\n", "/api/v1/tenants/é", "/api/%c0%ae%c0%ae/",
    "/a?b#c", "/api/v1/tenants/org_1/certificates?\x7f", "/api/v1/tenants/org_1/certificates?é", "/{x}", "/a|b",
    '/"', "/<",
]  # fmt: skip
NO_CREDENTIALS: Final = [
    b"", b"Bearer", b"Bearer ", b"Bearer  a.b.c", b" Bearer a.b.c", b"Bearer a.b.c ", b"Bearer\ta.b.c",
    b"Basic YTpi", b"Bearer a.b.c,Bearer d.e.f", b"Bearer a.b.c, d.e.f", b"Bearer a b", b"Bearer \xff",
    b"Bearer a.b.c\x00", b"a.b.c", b"Bearer a=b", b"Token a.b.c", b"Bearer: a.b.c", "Bearer \uff41.b.c".encode(),
    b"BearerBearer a.b.c",
]  # fmt: skip


def read(ask: Ask) -> Asked:
    return read_request(ask.check(), SHARED)


def test_what_a_request_says_is_read() -> None:
    asked = read(Ask(token="a.b.c", tenant="org_1", host=b"Org-1.CSM.example.com.:7448", sni=b"ORG-1.csm.example.com"))

    assert asked.fault == ""
    assert (asked.http_method, asked.path) == ("GET", f"/api/v1/tenants/org_1/certificates/{CERTIFICATE_ID}")
    assert asked.tenant_ids == {"path": "org_1", "header": "org_1"}
    assert asked.hosts == {"host": "org-1.csm.example.com", "sni": "org-1.csm.example.com"}
    assert (asked.token, asked.epoch, asked.peer, asked.request_id) == ("a.b.c", 5, "192.0.2.7", "request-1")
    assert (asked.wire, asked.certificate, asked.query_names) == (Wire.HTTP, b"", ())


@pytest.mark.behaviour("T-E2")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-tenant-id", b"org_1"),
        ("x-tenant-id", b"org_2"),
        ("x-tenant-id", b""),
        ("authorization", b"Bearer a.b.c"),
        ("content-type", b"application/json"),
        ("host", b"api.csm.example.com"),
        ("host", b"org-2.csm.example.com"),
        (":authority", b"org-2.csm.example.com"),
        ("x-bulkhead-tenant", b"id:org_1"),
    ],
)
@pytest.mark.parametrize("times", [1, 49])
def test_a_second_value_is_a_fault_even_where_it_is_the_same(name: str, value: bytes, times: int) -> None:
    asked = read(
        Ask(
            tenant="org_1",
            content_type="application/json",
            more=(("x-bulkhead-tenant", b"id:org_1"), *[(name, value)] * times),
        )
    )

    assert asked.fault == "DUPLICATE_HEADER"
    assert "org_2" not in asked.tenant_ids.values()


@pytest.mark.behaviour("T-E2")
def test_a_host_that_envoy_tells_in_two_ways_is_a_fault() -> None:
    check = Ask().check()
    check.attributes.request.http.host = b"org-2.csm.example.com"

    assert read_request(check, SHARED).fault == "DUPLICATE_HEADER"


def test_of_several_faults_the_first_is_told() -> None:
    assert read(Ask(path="/..", more=(("x-bulkhead-context", b"x"),))).fault == "FORGED_HEADER"


@pytest.mark.behaviour("T-E2")
@pytest.mark.parametrize("value", NO_IDS)
def test_a_tenant_s_header_that_is_no_id_is_a_fault(value: bytes) -> None:
    asked = read(Ask(more=(("x-tenant-id", value),)))

    assert asked.fault == "MALFORMED_CLAIM"
    assert "header" not in asked.tenant_ids


@given(st.binary(max_size=60))
def test_a_header_is_the_id_that_it_spells_or_a_fault(value: bytes) -> None:
    asked = read(Ask(more=(("x-tenant-id", value),)))

    if asked.fault:
        assert "header" not in asked.tenant_ids
    else:
        assert asked.tenant_ids["header"].encode() == value
        assert tenant_id_violation(asked.tenant_ids["header"]) is None


@pytest.mark.behaviour("T-E7")
@pytest.mark.parametrize("name", ["x-bulkhead-context", "x-bulkhead-reason", "x-bulkhead-grant", "x-bulkhead-"])
def test_a_header_that_only_we_may_send_is_a_fault(name: str) -> None:
    assert read(Ask(more=((name, b"1.e30.x"),))).fault == "FORGED_HEADER"


@pytest.mark.parametrize(
    ("value", "ids", "hosts"),
    [
        (b"id:org_1", {"scope": "org_1"}, {}),
        (b"host:org-1.csm.example.com", {}, {"scope": "org-1.csm.example.com"}),
        (b"host:api.csm.example.com", {}, {}),
    ],
)
def test_what_the_routes_were_selected_by_is_a_claim(value: bytes, ids: dict[str, str], hosts: dict[str, str]) -> None:
    asked = read(grpc_ask(tenant=None, more=(("x-bulkhead-tenant", value),)))

    assert asked.fault == ""
    assert (asked.tenant_ids, asked.hosts) == (ids, hosts)


@pytest.mark.parametrize("value", [b"", b"org_1", b"id:", b"host:", b"id:org_1,org_2", b"id:id:org_1", b"ID:org_1"])
def test_what_our_own_filter_cannot_have_said_is_a_fault(value: bytes) -> None:
    assert read(Ask(more=(("x-bulkhead-tenant", value),))).fault == "MALFORMED_CLAIM"


@pytest.mark.behaviour("T-E6")
@pytest.mark.parametrize(
    ("host", "meant"),
    [
        (b"org-1.csm.example.com", "org-1.csm.example.com"),
        (b"ORG-1.CSM.EXAMPLE.COM", "org-1.csm.example.com"),
        (b"org-1.csm.example.com.", "org-1.csm.example.com"),
        (b"org-1.csm.example.com:443", "org-1.csm.example.com"),
        (b"org-1.csm.example.com.:65535", "org-1.csm.example.com"),
        (b"10.0.0.1:80", "10.0.0.1"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"api.csm.example.com", None),
        (b"API.csm.example.com.:7448", None),
        (b"localhost:7448", None),
        (b"127.0.0.1", None),
    ],
)
def test_a_host_is_compared_without_port_dot_and_case(host: bytes, meant: str | None) -> None:
    asked = read(Ask(host=host))

    assert asked.fault == ""
    assert asked.hosts == ({"host": meant} if meant else {})


@pytest.mark.behaviour("T-E6")
@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_host_of_another_form_is_a_fault(host: bytes) -> None:
    asked = read(Ask(host=host))

    assert asked.fault == "MALFORMED_CLAIM"
    assert asked.hosts == {}


def test_a_shared_host_of_any_form_claims_nothing() -> None:
    asked = read_request(Ask(host=b"[::1]:7448").check(), frozenset({"[::1]"}))

    assert (asked.fault, asked.hosts) == ("", {})


@pytest.mark.behaviour("T-E4")
@pytest.mark.parametrize("path", NO_PATHS)
def test_a_path_that_is_in_no_canonical_form_is_not_interpreted(path: str) -> None:
    asked = read(Ask(path=path))

    assert (asked.fault, asked.path, asked.tenant_ids) == ("MALFORMED_PATH", "", {})


@pytest.mark.behaviour("T-E4")
@given(st.lists(st.sampled_from(["/", ".", "..", "%2e", "%2f", ";", "\\", "tenants", "org_1", "org_2", "a", ":"])))
def test_the_tenant_of_a_path_is_its_fourth_segment_and_nothing_else(parts: list[str]) -> None:
    path = "/api/v1/tenants/" + "".join(parts)
    asked = read(Ask(path=path))

    if not asked.fault:
        assert asked.path == path
        assert quote(path, safe="/:._") == path
        assert asked.tenant_ids == {"path": path.split("/")[4]}
        assert not {".", "..", ""} & set(path.split("/")[1:])


@pytest.mark.parametrize("path", ["/api/v1/tenants/ORG_1/certificates", "/api/v1/tenants/org_1:x/certificates"])
def test_a_path_s_tenant_that_no_tenant_can_be_called_is_a_fault(path: str) -> None:
    assert read(Ask(path=path)).fault == "MALFORMED_CLAIM"


@pytest.mark.parametrize("path", ["/API/v1/tenants/org_2/certificates", "/api/v1/tenants", "/api/v1/tenant/org_2"])
def test_a_path_that_only_resembles_a_tenant_s_names_none(path: str) -> None:
    asked = read(Ask(path=path, tenant=None))

    assert (asked.fault, asked.names_tenant) == ("", False)


@pytest.mark.parametrize("value", NO_CREDENTIALS)
def test_a_credential_of_another_form_is_a_fault(value: bytes) -> None:
    asked = read(Ask(token=None, more=(("authorization", value),)))

    assert (asked.fault, asked.token) == ("MALFORMED_CREDENTIAL", "")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_bearer_in_any_case(scheme: str) -> None:
    asked = read(Ask(token=None, more=(("authorization", f"{scheme} a.b.c".encode()),)))

    assert (asked.fault, asked.token) == ("", "a.b.c")


@pytest.mark.parametrize(
    ("content_type", "wire"),
    [
        (None, Wire.HTTP),
        ("application/json", Wire.HTTP),
        ("application/grpc-web", Wire.HTTP),
        ("Application/grpc", Wire.HTTP),
        ("application/grpc", Wire.GRPC),
        ("application/grpc+proto", Wire.GRPC),
        ("application/grpc+json", Wire.OTHER),
    ],
)
def test_grpc_is_what_envoy_takes_for_grpc(content_type: str | None, wire: Wire) -> None:
    assert read(Ask(content_type=content_type)).wire is wire


def test_an_identity_without_its_certificate_is_a_fault() -> None:
    check = Ask().check()
    check.attributes.source.principal = b"spiffe://bulkhead/tenant/org_1"

    assert read_request(check, SHARED).fault == "CERTIFICATE_MISSING"


@pytest.mark.parametrize("epoch", [None, "", "-1", "1.5", "0x5", "\u0665", "five", " 5"])
def test_a_check_of_a_route_that_is_none_of_ours_cannot_be_decided(epoch: str | None) -> None:
    with pytest.raises(UndecidableError):
        read(Ask(epoch=epoch))


def test_a_check_without_raw_headers_cannot_be_decided() -> None:
    check = Ask().check()
    check.attributes.request.http.ClearField("header_map")

    with pytest.raises(UndecidableError):
        read_request(check, SHARED)


@pytest.mark.parametrize(("raw", "kept"), [(b"a-1", "a-1"), (b"\xff", ""), (b"a\r\nb", ""), (b"x" * 129, "")])
def test_a_request_id_is_plain_text_or_not_kept(raw: bytes, kept: str) -> None:
    check = Ask().check()
    (header,) = (each for each in check.attributes.request.http.header_map.headers if each.key == "x-request-id")
    header.raw_value = raw

    assert read_request(check, SHARED).request_id == kept
