"""The edge of a real stack: a tenant's callers come in by every name that the tenant has, and nobody else does."""

import json
import os
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.cli.edge.demo_tenants import prepare
from tests.fixtures.curl import stand_in
from tests.fixtures.stack import Stack

DOMAIN: Final = "csm.example.com"
SCOPES: Final = ("--scope", "certificates.read", "--scope", "certificates.write")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant, and a token of one who works there."""

    tenant_id: str
    host: str
    """Its DNS label below the platform's domain."""
    custom: str
    """A host name of its own."""
    token: str

    @property
    def certificates(self) -> str:
        return f"/api/v1/tenants/{self.tenant_id}/certificates"

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


def run(stack: Stack, *arguments: str) -> Any:
    done = stack.bulkhead(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make_tenant(stack: Stack) -> Tenant:
    """Create a tenant, and wait until the edge has heard of its token."""
    tenant_id = f"edge_{uuid.uuid4().hex[:12]}"
    custom = f"{tenant_id.replace('_', '-')}.example.org"
    created = run(stack, "tenants", "create", tenant_id, "--domain", custom)
    token = run(stack, "tokens", "issue", tenant_id, "--subject", "alice", *SCOPES)["token"]
    tenant = Tenant(tenant_id=tenant_id, host=f"{created['dns_label']}.{DOMAIN}", custom=custom, token=token)
    url = f"http://{stack.endpoints['edge_http']}{tenant.certificates}"
    stack.wait_until(lambda: httpx.get(url, headers=tenant.bearer).status_code == 200)
    return tenant


@pytest.fixture(scope="module")
def one(stack: Stack) -> Tenant:
    return make_tenant(stack)


@pytest.fixture(scope="module")
def other(stack: Stack) -> Tenant:
    return make_tenant(stack)


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def edge(request: pytest.FixtureRequest, stack: Stack) -> Iterator[httpx.Client]:
    """A client of one version of HTTP, at the plain listener."""
    second = request.param == "HTTP/2"
    with httpx.Client(base_url=f"http://{stack.endpoints['edge_http']}", http1=not second, http2=second) as client:
        yield client


@pytest.mark.behaviour("S2.9", "I19")
def test_tokens_of_each_algorithm_are_let_in_and_a_change_of_it_ends_none(stack: Stack) -> None:
    tenant_id, tokens = f"edge_{uuid.uuid4().hex[:12]}", []
    run(stack, "tenants", "create", tenant_id, "--token-algorithm", "ml-dsa-65")
    tokens.append(run(stack, "tokens", "issue", tenant_id, "--subject", "alice", *SCOPES)["token"])
    for algorithm in ("es256", "eddsa"):
        run(stack, "tenants", "update", tenant_id, "--token-algorithm", algorithm)
        run(stack, "keys", "rotate", f"tenants/{tenant_id}/keys/tokens")
        tokens.append(run(stack, "tokens", "issue", tenant_id, "--subject", "alice", *SCOPES)["token"])
    url = f"http://{stack.endpoints['edge_http']}/api/v1/tenants/{tenant_id}/certificates"
    shown = [run(stack, "certificates", "list", tenant_id, "--token-file", _kept(stack, token)) for token in tokens]

    # By the edge, several times, and by the service itself.
    stack.wait_until(lambda: all(_status(url, token) == 200 for token in tokens))
    for token in tokens * 3:
        assert (_status(url, token), _status(url, f"{token[:-8]}AAAAAAAA")) == (200, 403)
    assert [len(token) > 4096 for token in tokens] == [True, False, False]
    assert len(shown) == len(tokens)


def _status(url: str, token: str) -> int:
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}).status_code


def _kept(stack: Stack, token: str) -> str:
    file = stack.dir / f"{uuid.uuid4()}.token"
    file.touch(mode=0o600)
    file.write_text(token)
    return str(file)


def signing_request() -> str:
    names = x509.SubjectAlternativeName([x509.DNSName("www.example.org")])
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=True)
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def server_certificate(host: str) -> tuple[bytes, bytes]:
    """Make a certificate that signs itself, and its key, both in PEM."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), secret


def denial(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], dict[str, Any]]:
    """Return what a stranger is told, without what differs in each answer."""
    varying = {"date", "x-request-id"}
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in varying)
    return answer.status_code, headers, {name: value for name, value in answer.json().items() if name != "instance"}


def test_a_certificate_is_issued_and_read_by_path_and_header(edge: httpx.Client, one: Tenant) -> None:
    headers = {**one.bearer, "x-tenant-id": one.tenant_id}
    issued = edge.post(f"{one.certificates}:issue", json={"csr_pem": signing_request()}, headers=headers)
    name = issued.json()["name"]
    read = edge.get(f"/api/v1/{name}", headers=headers)

    assert (issued.status_code, read.status_code) == (200, 200), issued.text
    assert name.startswith(f"tenants/{one.tenant_id}/certificates/")
    assert read.json() == issued.json()
    assert read.http_version in {"HTTP/1.1", "HTTP/2"}


@pytest.mark.parametrize("host", ["host", "custom"])
def test_a_tenants_own_hosts_lead_to_it(edge: httpx.Client, one: Tenant, *, host: str) -> None:
    answer = edge.get(one.certificates, headers={**one.bearer, "host": getattr(one, host)})

    assert answer.status_code == 200, answer.text


def test_what_a_tenant_may_still_ask_in_this_minute_is_said(edge: httpx.Client, one: Tenant) -> None:
    answer = edge.get(one.certificates, headers=one.bearer)

    assert answer.headers["ratelimit-policy"] == '"minute";q=600;w=60'
    assert answer.headers["ratelimit"].startswith('"minute";r=')


def disagreements(one: Tenant, other: Tenant) -> dict[str, tuple[str, dict[str, str]]]:
    """Return paths and headers that do not agree with each other: each request is wrong in one thing alone."""
    own = one.bearer
    return {
        "path": (other.certificates, own),
        "header": (one.certificates, {**own, "x-tenant-id": other.tenant_id}),
        "host": (one.certificates, {**own, "host": other.host}),
        "custom domain": (one.certificates, {**own, "host": other.custom}),
        "token": (one.certificates, other.bearer),
        "no token": (one.certificates, {}),
        "an absent tenant": ("/api/v1/tenants/nobody-has-this-name/certificates", own),
        "a host of nobody": (one.certificates, {**own, "host": "elsewhere.example.net"}),
        "no tenant at all": ("/", own),
    }


@pytest.mark.behaviour("E2.2")
def test_whatever_does_not_agree_is_refused_in_one_and_the_same_way(
    edge: httpx.Client, one: Tenant, other: Tenant
) -> None:
    answers = {what: edge.get(path, headers=headers) for what, (path, headers) in disagreements(one, other).items()}
    reference = answers["path"]

    assert (reference.status_code, reference.json()["code"]) == (403, "ACCESS_DENIED")
    assert {what for what, answer in answers.items() if denial(answer) != denial(reference)} == set()


@pytest.fixture
def certificates(stack: Stack) -> Iterator[certificates_pb2_grpc.CertificateServiceStub]:
    """Call through the edge by gRPC, without a host of any tenant."""
    options = (("grpc.default_authority", stack.endpoints["edge_authority"]), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(stack.endpoints["edge_http"], options=options) as channel:
        yield certificates_pb2_grpc.CertificateServiceStub(channel)


Certificates = certificates_pb2_grpc.CertificateServiceStub


def test_a_certificate_is_issued_and_read_over_grpc(certificates: Certificates, one: Tenant) -> None:
    metadata = (("authorization", f"Bearer {one.token}"), ("x-tenant-id", one.tenant_id))
    request = certificates_pb2.IssueCertificateRequest(parent=f"tenants/{one.tenant_id}", csr_pem=signing_request())
    issued = certificates.IssueCertificate(request, metadata=metadata, timeout=10)
    read = certificates.GetCertificate(
        certificates_pb2.GetCertificateRequest(name=issued.name), metadata=metadata, timeout=10
    )

    assert read == issued


@pytest.mark.parametrize("named", ["header", "message"])
def test_over_grpc_header_and_message_have_to_name_the_tokens_tenant(
    certificates: Certificates, one: Tenant, other: Tenant, *, named: str
) -> None:
    header, message = (other, one) if named == "header" else (one, other)
    metadata = (("authorization", f"Bearer {one.token}"), ("x-tenant-id", header.tenant_id))
    with pytest.raises(grpc.RpcError) as raised:
        certificates.ListCertificates(
            certificates_pb2.ListCertificatesRequest(parent=f"tenants/{message.tenant_id}"),
            metadata=metadata,
            timeout=10,
        )

    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("second", [False, True])
def test_over_tls_the_edge_shows_a_certificate_of_the_internal_authority(
    stack: Stack, one: Tenant, *, second: bool
) -> None:
    _, _, port = stack.endpoints["edge_https"].rpartition(":")
    trusted = ssl.create_default_context(cafile=stack.endpoints["edge_ca_file"])
    with httpx.Client(verify=trusted, http2=second) as client:
        answer = client.get(f"https://localhost:{port}{one.certificates}", headers=one.bearer)

    assert answer.status_code == 200, answer.text
    assert answer.http_version == ("HTTP/2" if second else "HTTP/1.1")


def shown_names(stack: Stack) -> list[str]:
    """Return the DNS names of the certificate that Envoy shows to a new connection."""
    host, _, port = stack.endpoints["edge_https"].rpartition(":")
    shown = x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode())
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def test_an_operators_certificate_is_shown_as_soon_as_it_is_there(stack: Stack) -> None:
    folder = stack.dir / "ca"
    ours = {name: (folder / name).read_bytes() for name in ("edge.pem", "edge.key")}
    before = shown_names(stack)
    certificate, key = server_certificate("shop.example.org")
    try:
        (folder / "edge.key").write_bytes(key)
        (folder / "edge.pem").write_bytes(certificate)
        stack.wait_until(lambda: shown_names(stack) == ["shop.example.org"])
    finally:
        for name, content in ours.items():
            (folder / name).write_bytes(content)
    stack.wait_until(lambda: shown_names(stack) == before)

    assert before == ["api.csm.example.com", "*.csm.example.com", "localhost"]


def test_a_suspended_tenants_callers_are_strangers_once_that_is_applied(stack: Stack) -> None:
    tenant = make_tenant(stack)
    url = f"http://{stack.endpoints['edge_http']}{tenant.certificates}"
    stranger = denial(httpx.get(url))
    run(stack, "tenants", "suspend", tenant.tenant_id, "--wait")
    suspended = denial(httpx.get(url, headers=tenant.bearer))
    run(stack, "tenants", "reactivate", tenant.tenant_id, "--wait")
    again = httpx.get(url, headers=tenant.bearer)

    assert suspended == stranger
    assert again.status_code == 200


def test_the_demo_shows_what_it_is_about_and_leaves_its_tenants_as_they_were(stack: Stack) -> None:
    first, second = (run(stack, "demo") for _ in range(2))
    after = [run(stack, "tenants", "get", tenant_id) for tenant_id in ("acme", "globex")]

    for shown in (first, second):
        assert [request["status"] for request in shown["certificate"]["requests"]] == [200, 200]
        assert [request["status"] for request in shown["cross_tenant"]["requests"]] == [403, 403]
        assert shown["cross_tenant"]["alike"] is True
        assert shown["suspension"]["applied_ms"] > 0
        assert (shown["flood"]["sent"], shown["flood"]["admitted"]) == (60, 20)
        assert 0 < shown["flood"]["retry_after_s"] <= 60
    assert [(tenant["state"], tenant["requests_per_minute"]) for tenant in after] == [("ACTIVE", 0), ("ACTIVE", 0)]


def test_the_demo_tells_people_the_same_in_four_scenes(stack: Stack) -> None:
    shown = stack.bulkhead("demo")

    assert shown.returncode == 0, shown.stderr
    assert [line[0] for line in shown.stdout.splitlines() if not line.startswith(" ")] == ["1", "2", "3", "4"]


def test_what_envoy_is_told_of_a_tenant_can_be_looked_at(stack: Stack, one: Tenant) -> None:
    rendered = run(stack, "xds", "render", "--tenant", one.tenant_id)
    unknown = stack.bulkhead("xds", "render", "--tenant", "nobody-has-this-name")

    assert one.custom in json.dumps(rendered)
    assert unknown.returncode != 0
    assert unknown.stderr


@pytest.mark.parametrize("name", ["agent", "envoy"])
def test_what_the_edge_runs_is_seen_by_its_owner_alone(stack: Stack, *, name: str) -> None:
    part = next(part for part in stack.status().components if part["name"] == name)

    assert part["state"] == "ready"
    assert (stack.dir / "logs" / f"{name}.log").stat().st_mode & 0o077 == 0
    assert (stack.dir / "edge").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("real", [True, False])
def test_the_curls_that_make_up_prints_work(stack: Stack, curl_folder: Path, tmp_path: Path, *, real: bool) -> None:
    folder = curl_folder if real else stand_in(tmp_path)
    # What `up --demo` prints once the stack is up; prepared again on a stack that runs, it is the same.
    curls = [tenant.curl for tenant in prepare(stack.dir)]
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    answers = [
        subprocess.run(["sh", "-c", curl], capture_output=True, check=True, env={**os.environ, "PATH": path}).stdout
        for curl in curls
    ]

    assert all(json.loads(answer)["certificates"] for answer in answers)
    assert {file.name: file.stat().st_mode & 0o777 for file in (stack.dir / "demo").iterdir()} == {
        "acme.token": 0o600,
        "globex.token": 0o600,
    }
