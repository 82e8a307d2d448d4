"""The two tenants that show the edge: made where they are absent, each with a token and a certificate."""

import shlex
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from control_plane import private_file
from control_plane.cli import operations
from control_plane.cli.calls.edge import Answer, EdgeCaller
from control_plane.cli.calls.endpoints import Endpoints
from control_plane.cli.calls.failures import CallFailedError, failed
from control_plane.cli.session import Session

DEMO_TENANTS: Final = ("acme", "globex")
_FOLDER: Final = "demo"
_SCOPES: Final = ("certificates.read", "certificates.write")
_TOKEN_LIFETIME: Final = timedelta(hours=24)
_TENANT_READY_WITHIN: Final = timedelta(minutes=1)
_SERVED_WITHIN_S: Final = 10.0
_POLL_S: Final = 0.02
_OK: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTenant:
    """A tenant that is ready to be shown."""

    tenant_id: str
    token_file: Path
    """A token that may read and issue certificates; for our eyes only."""
    endpoints: Endpoints

    @property
    def certificates(self) -> str:
        """The path of its certificates at the edge."""
        return f"/api/v1/tenants/{self.tenant_id}/certificates"

    @property
    def curl(self) -> str:
        """The command that lists its certificates through the edge."""
        token = shlex.quote(str(self.token_file))
        url = f"http://{self.endpoints.edge_http}{self.certificates}"
        return f'curl -H "authorization: Bearer $(cat {token})" {shlex.quote(url)}'

    def caller(self) -> EdgeCaller:
        """Open a connection of its own to the edge."""
        return EdgeCaller(self.endpoints, self.token_file)


def prepare(directory: Path) -> Sequence[DemoTenant]:
    """Make whatever the demo's tenants lack, and wait until the edge serves them.

    Raises:
        CallFailedError: when one of them cannot be made, or is suspended.
    """
    endpoints = Endpoints.from_dir(directory)
    tenants = []
    with Session(directory, as_json=True) as administrator:
        for tenant_id in DEMO_TENANTS:
            _keep_tenant(administrator, tenant_id)
            token_file = _keep_token(administrator, tenant_id, folder=directory.resolve() / _FOLDER)
            tenants.append(DemoTenant(tenant_id=tenant_id, token_file=token_file, endpoints=endpoints))
    for tenant in tenants:
        _keep_certificate(tenant, _served(tenant))
    return tenants


def signing_request(host: str) -> str:
    """Make a key that nobody keeps, and return a request for a certificate of it."""
    from cryptography import x509  # noqa: PLC0415 only a new certificate waits for it
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 the same
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 the same

    names = x509.SubjectAlternativeName([x509.DNSName(host)])
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=True)
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _keep_tenant(administrator: Session, tenant_id: str) -> None:
    name = f"tenants/{tenant_id}"
    try:
        tenant = administrator.call("bulkhead.v1.TenantService/GetTenant", {"name": name})
    except CallFailedError as error:
        if error.failure.code != "NOT_FOUND":
            raise
        request = {
            "tenant_id": tenant_id,
            "tenant": {"display_name": f"{tenant_id.capitalize()} (demo)"},
            "request_id": str(uuid.uuid4()),
        }
        operation = administrator.call("bulkhead.v1.TenantService/CreateTenant", request)
        tenant = operations.result(operations.follow(administrator, operation, timeout=_TENANT_READY_WITHIN))
    if tenant["state"] != "ACTIVE":
        hint = f"`{{bulkhead}} tenants reactivate {tenant_id}`, then try again"
        raise failed("FAILED_PRECONDITION", f"{name} is {tenant['state']}", hint=hint)


def _keep_token(administrator: Session, tenant_id: str, *, folder: Path) -> Path:
    """Issue a new token, so that the file's is good for a day from now."""
    request = {
        "parent": f"tenants/{tenant_id}",
        "subject": "demo",
        "role": "ROLE_TENANT_MEMBER",
        "scopes": list(_SCOPES),
        "ttl": f"{_TOKEN_LIFETIME // timedelta(seconds=1)}s",
        "request_id": str(uuid.uuid4()),
    }
    token = str(administrator.call("bulkhead.v1.TokenService/IssueToken", request)["token"])
    file = folder / f"{tenant_id}.token"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        # A curl of an earlier start may be reading it.
        private_file.replace(file, f"{token}\n".encode())
    except OSError as error:
        message = f"{file} cannot be written: {error.strerror}"
        raise failed("FAILED_PRECONDITION", message, hint=f"make {folder} a folder of your own") from error
    return file


def _served(tenant: DemoTenant) -> Answer:
    """Wait until the edge has heard of the tenant, and return what it answers."""
    ends = time.monotonic() + _SERVED_WITHIN_S
    with tenant.caller() as caller:
        while True:
            answer = caller.get(f"{tenant.certificates}?page_size=1")
            if answer.status == _OK:
                return answer
            if time.monotonic() > ends:
                message = f"the edge answers {answer.status} for tenants/{tenant.tenant_id}"
                raise failed("UNAVAILABLE", message, hint="`{bulkhead} proxy status` shows which proxy lags")
            time.sleep(_POLL_S)


def _keep_certificate(tenant: DemoTenant, listed: Answer) -> None:
    if listed.content.get("certificates"):
        return
    request = {"csr_pem": signing_request(f"www.{tenant.tenant_id}.example"), "request_id": str(uuid.uuid4())}
    with tenant.caller() as caller:
        answer = caller.post(f"{tenant.certificates}:issue", request)
    if answer.status != _OK:
        reason = answer.content.get("detail") or answer.content.get("message") or answer.status
        raise failed("UNAVAILABLE", f"no certificate for tenants/{tenant.tenant_id}: {reason}")
