"""Make and describe secrets, add values to them, read those, and have them gone."""

import base64
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.grpcurl import Secret
from control_plane.cli.calls.message import Message, without_blanks
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Secrets: a tenant's own values, in versions; read by scope."
)

_SERVICE: Final = "bulkhead.v1.SecretService"
_COLUMNS: Final = ("name", "latest_version", "description", "labels", "update_time")
_VERSIONS: Final = ("name", "state", "create_time", "destroy_time")
_STDIN: Final = Path("/dev/stdin")
_PRIVATE: Final = 0o600


def version_name(text: str) -> str:
    """Return the resource name of a version: of a secret that is named alone, the latest."""
    return text if "/versions/" in text else f"{text}/versions/latest"


Name = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/secrets/SECRET")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="tenants/TENANT/secrets/SECRET/versions/NUMBER")]
Read = Annotated[
    str,
    typer.Argument(
        metavar="VERSION",
        parser=version_name,
        help="tenants/TENANT/secrets/SECRET, with /versions/NUMBER for an old one.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """What a new secret is."""

    description: Annotated[str, typer.Option(help="What it is for. Not sealed.")] = ""
    label: Annotated[
        list[str], typer.Option("--label", metavar="KEY=VALUE", help="A label; may be given again. Not sealed.")
    ] = field(default_factory=list)
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What holds its first value; /dev/stdin is stdin. None if not said."),
    ] = None
    request_id: arguments.RequestId = ""
    validate_only: arguments.ValidateOnly = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    """What to change; what is not named stays."""

    description: Annotated[str | None, typer.Option(help="What it is for. Not sealed.")] = None
    label: Annotated[
        list[str], typer.Option("--label", metavar="KEY=VALUE", help="All its labels from now on; may be given again.")
    ] = field(default_factory=list)
    clear_labels: Annotated[bool, typer.Option("--clear-labels", help="Remove all labels.")] = False
    etag: arguments.Etag = ""
    validate_only: arguments.ValidateOnly = False


@command(app, "create")
def create_secret(
    session: Session,
    tenant: arguments.Tenant,
    secret: Annotated[str, typer.Argument(metavar="SECRET", help="What it is called: a-z, 0-9 and -.")],
    *,
    options: CreateOptions,
) -> None:
    """Create a secret. --file gives its first value, byte for byte."""
    request = {
        "parent": tenant,
        "secret_id": secret,
        "secret": without_blanks({"description": options.description, "labels": arguments.labels(options.label)}),
        "request_id": session.request_id(options.request_id),
        "validate_only": options.validate_only,
    }
    session.show(session.call(f"{_SERVICE}/CreateSecret", request, secret=_payload(options.file)))
    session.hint("secrets", "add", f"{tenant}/secrets/{secret}", "--file", "FILE")


@command(app, "get")
def get_secret(session: Session, name: Name) -> None:
    """Show what is known of a secret, without its values."""
    session.show(session.call(f"{_SERVICE}/GetSecret", {"name": name}))


@command(app, "list")
def list_secrets(session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging) -> None:
    """List a tenant's secrets, newest first."""
    session.show_list(f"{_SERVICE}/ListSecrets", {"parent": tenant}, columns=_COLUMNS, paging=paging)


@command(app, "update")
def update_secret(session: Session, name: Name, *, options: UpdateOptions) -> None:
    """Change what a secret is described by: what the options name, and nothing else."""
    changes: Message = {}
    if options.description is not None:
        changes["description"] = options.description
    if options.label or options.clear_labels:
        changes["labels"] = arguments.labels(options.label)
    if not changes:
        raise typer.BadParameter("name at least one thing to change, such as --description")
    request = {
        "secret": {"name": name, **changes, **without_blanks({"etag": options.etag})},
        "update_mask": ",".join(changes),
        "validate_only": options.validate_only,
    }
    session.show(session.call(f"{_SERVICE}/UpdateSecret", request))


@command(app, "delete")
def delete_secret(session: Session, name: Name, *, etag: arguments.Etag = "") -> None:
    """Delete a secret with all its versions, for good."""
    session.call(f"{_SERVICE}/DeleteSecret", {"name": name, "etag": etag})
    session.say(f"{name} is gone, with all its versions")


@command(app, "add")
def add_version(
    session: Session,
    name: Name,
    *,
    file: Annotated[Path, typer.Option(metavar="FILE", help="What holds the value; stdin if none is named.")] = _STDIN,
    request_id: arguments.RequestId = "",
    validate_only: arguments.ValidateOnly = False,
) -> None:
    """Add a version with another value, byte for byte: 64 KiB at most."""
    request = {"parent": name, "request_id": session.request_id(request_id), "validate_only": validate_only}
    version = session.call(f"{_SERVICE}/AddSecretVersion", request, secret=_payload(file))
    session.show(version)
    session.hint("secrets", "access", version["name"], "--out", "FILE")


@command(app, "versions")
def list_versions(session: Session, name: Name, *, paging: arguments.Paging) -> None:
    """List a secret's versions, newest first, without their values."""
    session.show_list(f"{_SERVICE}/ListSecretVersions", {"parent": name}, columns=_VERSIONS, paging=paging)


@command(app, "access")
def access_version(
    session: Session,
    name: Read,
    *,
    out: arguments.OutFile = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    reason_code: arguments.ReasonCode = "",
) -> None:
    """Read a value, the latest if no version is named. It needs a token with the scope secrets.access.

    With --out it goes, byte for byte, into a file that only you can read. Each reading is in the tenant's audit log.
    """
    asked = {"name": name, "reason": reason, "reason_code": reason_code}
    answer = session.call(f"{_SERVICE}/AccessSecretVersion", asked)
    payload = base64.b64decode(answer["payload"])
    if hashlib.sha256(payload).digest() != base64.b64decode(answer["payload_sha256"]):
        raise failed("DATA_LOSS", "what came is not the value that was sent")
    if session.as_json and out is None:
        session.show(answer)
    elif out is None and sys.stdout.isatty():
        output.put("\n".join(output.plain(line) for line in payload.decode(errors="backslashreplace").splitlines()))
    else:
        session.deliver(payload, out, mode=_PRIVATE)
    session.say(f"{answer['name']}, {len(payload)} bytes")


@command(app, "disable")
def disable_version(session: Session, name: Version, *, etag: arguments.Etag = "") -> None:
    """Keep a version's value from being read, until it is enabled."""
    session.show(session.call(f"{_SERVICE}/DisableSecretVersion", {"name": name, "etag": etag}))
    session.hint("secrets", "enable", name)


@command(app, "enable")
def enable_version(session: Session, name: Version, *, etag: arguments.Etag = "") -> None:
    """Let a disabled version's value be read again."""
    session.show(session.call(f"{_SERVICE}/EnableSecretVersion", {"name": name, "etag": etag}))


@command(app, "destroy")
def destroy_version(session: Session, name: Version, *, etag: arguments.Etag = "") -> None:
    """Remove a version's value for good."""
    session.show(session.call(f"{_SERVICE}/DestroySecretVersion", {"name": name, "etag": etag}))


def _payload(file: Path | None) -> Secret | None:
    return None if file is None else Secret(field="payload", file=file, is_bytes=True)
