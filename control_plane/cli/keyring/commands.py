"""List keys and their versions, show what they rest on, and rotate them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID, uuid4

import typer

from control_plane.cli import arguments, operations, output
from control_plane.cli.calls.failures import failed, partially
from control_plane.cli.calls.message import Message
from control_plane.cli.calls.values import read_text
from control_plane.cli.command import command
from control_plane.cli.keyring import policy, tree
from control_plane.cli.keyring.campaign import Progress, run
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keys: what they rest on, and their rotation.")
app.add_typer(policy.app, name="policy")

_SERVICE: Final = "bulkhead.v1.KeyService"
_RECEIPTS: Final = ("name", "key_version", "destroy_time", "key_id")
_LEFT_OUT: Final = ("payload", "payload_type", "signature")
_PUBLIC: Final = 0o644
_KEYS: Final = ("name", "algorithm", "primary_version", "version_count", "create_time", "rotation")
_VERSIONS: Final = ("name", "state", "primary", "algorithm", "kek_version", "create_time", "destroy_time", "kid")

Receipt = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/destructionReceipts/RECEIPT")]
Key = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="tenants/TENANT/keys/KEY; KEY is kek, storage, services, tokens, authority, enrolment, or one of its own.",
    ),
]

Version = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/keys/KEY/versions/VERSION")]


@command(app, "list")
def list_keys(session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging) -> None:
    """List a tenant's keys. No command shows a key itself."""
    session.show_list(f"{_SERVICE}/ListKeys", {"parent": tenant}, columns=_KEYS, paging=paging)


@command(app, "get")
def get_key(session: Session, name: Key) -> None:
    """Show one key: its primary version, and what it rests on."""
    session.show(session.call(f"{_SERVICE}/GetKey", {"name": name}))


@command(app, "versions")
def list_versions(session: Session, name: Key, *, paging: arguments.Paging) -> None:
    """List the versions of a key, newest first. --json has public keys and certificates, too."""
    session.show_list(f"{_SERVICE}/ListKeyVersions", {"parent": name}, columns=_VERSIONS, paging=paging)


@command(app, "tree")
def show_tree(session: Session, tenant: arguments.Tenant) -> None:
    """Show what a tenant's keys rest on: the root of trust, the KEK, and what it wraps, each version with its age."""
    pages = session.pages(f"{_SERVICE}/ListKeys", {"parent": tenant}, follow=lambda _: True)
    keys = [key for page in pages for key in page["keys"]]
    versions = {key["name"]: _versions_of(session, key["name"]) for key in keys}
    if session.as_json:
        output.put_json({"keys": [{**key, "key_versions": versions[key["name"]]} for key in keys]})
    else:
        output.put("\n".join(tree.drawn(tenant, keys, versions, now=datetime.now(UTC))))


@command(app, "rotate")
def rotate_key(
    session: Session,
    name: Key,
    *,
    etag: arguments.Etag = "",
    request_id: arguments.RequestId = "",
    validate_only: arguments.ValidateOnly = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
    timeout: operations.Timeout = operations.TIMEOUT,
) -> None:
    """Replace a key by a new version, while everything is served: any that a tenant has, but for imported ones.

    What else becomes of the old version, and when, depends on the key: see docs/vault.md.
    """
    request = {
        "name": name,
        "etag": etag,
        "request_id": session.request_id(request_id),
        "validate_only": validate_only,
    }
    operation = session.call_once(f"{_SERVICE}/RotateKey", request)
    if validate_only:
        session.say("valid; nothing was rotated")
        if session.as_json:
            session.show(operation)
    elif wait:
        session.show(operations.result(operations.follow(session, operation, timeout=timeout)))
        session.hint("keys", "tree", name.split("/")[1])
    else:
        session.show(operation, leave_out=["metadata", "response"])
        session.hint("operations", "watch", operation["name"])


@command(app, "retire")
def retire_version(session: Session, name: Version, *, etag: arguments.Etag = "") -> None:
    """Retire an old version of services, authority or enrolment: what it sealed, signed or derived counts no more.

    Until the version is enabled again.
    """
    session.show(session.call_once(f"{_SERVICE}/RetireKeyVersion", {"name": name, "etag": etag}))
    session.hint("keys", "enable", name)


@command(app, "enable")
def enable_version(session: Session, name: Version, *, etag: arguments.Etag = "") -> None:
    """Enable a version of services, storage, authority or enrolment that was retired. It is for nothing new."""
    session.show(session.call_once(f"{_SERVICE}/EnableKeyVersion", {"name": name, "etag": etag}))


@command(app, "rotate-keks")
def rotate_keks(
    session: Session,
    *,
    campaign: Annotated[
        str,
        typer.Option(metavar="UUID", help="Go on with a campaign that was interrupted; a new one, if none is named."),
    ] = "",
    timeout: operations.Timeout = operations.TIMEOUT,
) -> None:
    """Give every tenant a new KEK and destroy the old ones, as after a suspicion. No data is sealed anew.

    It can be interrupted at any time: with the same --campaign it goes on, and rotates nobody twice. --timeout is for
    one tenant.
    """
    progress = Progress(campaign=_campaign(campaign))
    session.say(f"campaign {progress.campaign}")
    run(session, progress, timeout=timeout)
    if session.as_json:
        output.put_json({"campaign": progress.campaign, "rotated": progress.rotated, "failed": progress.failed})
    elif progress.failed:
        output.put_table(progress.failed, ("tenant", "reason", "message"))
    if progress.failed:
        text = f"{len(progress.failed)} tenants have the KEK that they had; {progress.rotated} have a new one"
        hint = "mend what is said of each, then `{bulkhead} keys rotate TENANT/keys/kek` for each"
        raise partially(failed("FAILED_PRECONDITION", text, hint=hint))


def _campaign(given: str) -> str:
    try:
        return str(UUID(given)) if given else str(uuid4())
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no UUID") from None


@command(app, "receipts")
def list_receipts(session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging) -> None:
    """List what of a tenant's keys was destroyed, newest first: a signed receipt for each KEK."""
    session.show_list(f"{_SERVICE}/ListDestructionReceipts", {"parent": tenant}, columns=_RECEIPTS, paging=paging)


@command(app, "receipt")
def get_receipt(session: Session, name: Receipt, *, out: arguments.OutFile = None) -> None:
    """Show one receipt. --out writes it as a DSSE envelope."""
    receipt = session.call(f"{_SERVICE}/GetDestructionReceipt", {"name": name})
    if out:
        from control_plane.cli.isolation import envelope  # noqa: PLC0415 only who writes waits for cryptography

        session.deliver(envelope.write(receipt), out, mode=_PUBLIC)
    if out != Path("-"):
        session.show(receipt, leave_out=_LEFT_OUT)


@command(app, "check")
def check_receipt(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A receipt that --out wrote.")],
    *,
    keys: Annotated[Path, typer.Option(metavar="FILE", help="The keys that `isolation keys --out` wrote.")],
) -> None:
    """Check a receipt against the platform's keys. Needs no stack. Fails where it is forged."""
    from control_plane.cli.isolation import envelope  # noqa: PLC0415 the same

    try:
        said = envelope.read(read_text(file), read_text(keys), kind=envelope.RECEIPT)
    except envelope.EnvelopeError as error:
        raise failed(
            "FAILED_PRECONDITION",
            f"{file}: {error}",
            hint="compare it with `{bulkhead} keys receipt NAME`, and the keys with `{bulkhead} isolation keys`",
            reason="RECEIPT_FORGED",
        ) from error
    session.show(dict(said))


def _versions_of(session: Session, name: str) -> list[Message]:
    pages = session.pages(f"{_SERVICE}/ListKeyVersions", {"parent": name}, follow=lambda _: True)
    return [version for page in pages for version in page["key_versions"]]
