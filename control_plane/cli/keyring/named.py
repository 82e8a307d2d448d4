"""Make keys of a tenant's own, bring them along, and end them."""

import base64
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.grpcurl import Secret
from control_plane.cli.calls.message import Message
from control_plane.cli.session import Session

_SERVICE: Final = "bulkhead.v1.KeyService"
_IMPORTS: Final = "bulkhead.v1.KeyImportService"
_PUBLIC: Final = 0o644
# Shown by --json, and written by --out.
_LEFT_OUT: Final = ("public_key", "hpke_info")
_METHODS: Final = {
    "hpke": "HPKE_MLKEM768_X25519_AES_256_GCM",
    "hpke-chacha": "HPKE_MLKEM768_X25519_CHACHA20_POLY1305",
    "rsa": "RSA_OAEP_4096_SHA256_AES_KWP",
}

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="What it is called within the tenant.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/keys/KEY, of the tenant's own.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="tenants/TENANT/importJobs/JOB")]
Signing = Annotated[
    str,
    typer.Option(
        "--signing",
        metavar="ALGORITHM",
        help="A key that signs: EC_P256, EC_P384, ED25519, RSA_3072, RSA_4096, ML_DSA_44, ML_DSA_65 or ML_DSA_87. "
        "Without it, one that encrypts.",
    ),
]


def method_name(text: str) -> str:
    """Return how a key is wrapped, as the API calls it."""
    if text.lower() in _METHODS:
        return _METHODS[text.lower()]
    if text in _METHODS.values():
        return text
    raise typer.BadParameter(f"must be one of {', '.join(_METHODS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What is brought along, and how."""

    signing: Signing = ""
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            parser=method_name,
            help="How it is wrapped: hpke, hpke-chacha, or rsa as devices do (CKM_RSA_AES_KEY_WRAP).",
        ),
    ] = "hpke"

    def request(self, tenant: str, key_id: str) -> Message:
        """Say it in a request."""
        job = {"key": f"{tenant}/keys/{key_id}", **kind(self.signing), "method": self.method}
        return {"parent": tenant, "import_job": job}


def kind(signing: str) -> Message:
    """Say what a key is for, and its algorithm."""
    return {"purpose": "SIGNING", "algorithm": signing} if signing else {"purpose": "ENCRYPTION"}


def create_key(
    session: Session,
    tenant: arguments.Tenant,
    key_id: KeyId,
    *,
    signing: Signing = "",
    request_id: arguments.RequestId = "",
    validate_only: arguments.ValidateOnly = False,
) -> None:
    """Make a key of the tenant's own. Only the tenant's administrator can."""
    request = {
        "parent": tenant,
        "key_id": key_id,
        "key": kind(signing),
        "request_id": session.request_id(request_id),
        "validate_only": validate_only,
    }
    session.show(session.call_once(f"{_SERVICE}/CreateKey", request))


def create_import_job(
    session: Session, tenant: arguments.Tenant, key_id: KeyId, *, imported: Imported, out: arguments.OutFile = None
) -> None:
    """Get what one version of a key can be wrapped under elsewhere, for three days. --out writes the public key."""
    job = session.call(f"{_IMPORTS}/CreateImportJob", imported.request(tenant, key_id))
    if out:
        session.deliver(base64.b64decode(job["public_key"]), out, mode=_PUBLIC)
    if out != Path("-"):
        session.show(job, leave_out=_LEFT_OUT)
        session.hint("keys", "import-wrapped", job["name"], "--file", "FILE")


def import_wrapped_key(
    session: Session, job: Job, *, file: Annotated[Path, typer.Option(metavar="FILE", help="The wrapped key.")]
) -> None:
    """Hand over a key that was wrapped elsewhere, such as in a device."""
    secret = Secret(field="wrapped_key", file=file, is_bytes=True)
    session.show(session.call(f"{_IMPORTS}/ImportKey", {"name": job}, secret=secret))


def import_key(
    session: Session,
    tenant: arguments.Tenant,
    key_id: KeyId,
    *,
    file: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The key: 32 bytes as they are, or a private key in PEM or PKCS #8 DER."),
    ],
    imported: Imported,
) -> None:
    """Bring a key along, or the next version of one: it is wrapped here, and nobody sees it on the way."""
    from control_plane.cli.keyring import wrapping  # noqa: PLC0415 only who wraps waits for cryptography

    try:
        key = wrapping.read(file, is_signing=bool(imported.signing))
        job = session.call(f"{_IMPORTS}/CreateImportJob", imported.request(tenant, key_id))
        wrapped = wrapping.wrap(key, job)
    except wrapping.UnusableKeyError as error:
        raise failed("INVALID_ARGUMENT", f"{file} {error}") from error
    session.show(session.call(f"{_IMPORTS}/ImportKey", {"name": job["name"], "wrapped_key": wrapped}))
    session.hint("keys", "tree", tenant.partition("/")[2])


def schedule_destruction(
    session: Session,
    name: Name,
    *,
    after: Annotated[
        timedelta | None,
        typer.Option(
            metavar="SPAN", parser=arguments.time_span, help="How long it can be restored: 1d to 30d; 7d if not said."
        ),
    ] = None,
    etag: arguments.Etag = "",
    validate_only: arguments.ValidateOnly = False,
) -> None:
    """Have a key destroyed after a while; it is not used from now on. What it sealed is lost then."""
    request = {
        "name": name,
        "waiting_period": arguments.duration(after),
        "etag": etag,
        "validate_only": validate_only,
    }
    session.show(session.call(f"{_SERVICE}/ScheduleKeyDestruction", request))
    session.hint("keys", "restore", name)


def restore_key(session: Session, name: Name, *, etag: arguments.Etag = "") -> None:
    """Take a destruction back that has not happened yet."""
    session.show(session.call(f"{_SERVICE}/RestoreKey", {"name": name, "etag": etag}))
