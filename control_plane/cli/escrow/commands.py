"""Enable and disable an escrow, recover keys from it, and do a recipient's part without a stack."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.grpcurl import Secret
from control_plane.cli.calls.message import Message
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Escrow of a tenant's keys, k of n; off unless it is enabled."
)
recipient_keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="A recipient's own key pair.")
app.add_typer(recipient_keys, name="recipient-key")

_SERVICE: Final = "bulkhead.v1.EscrowService"
_LEFT_OUT: Final = ("session_public_key", "shares")
_PRIVATE: Final = 0o600
_PUBLIC: Final = 0o644

Recovery = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/keyRecoveries/RECOVERY")]


def escrow_of(tenant: str) -> str:
    """Name a tenant's escrow."""
    return f"{tenant}/escrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableOptions:
    """What the escrow is to be."""

    recipient: Annotated[
        list[str],
        typer.Option(
            "--recipient",
            metavar="NAME=FILE",
            help="Who has a share, and the file with their public key; again for each.",
        ),
    ] = field(default_factory=list)
    threshold: Annotated[int, typer.Option(metavar="K", help="How many of them it takes: 2 at least.")] = 2
    platform_may_begin: Annotated[
        bool,
        typer.Option(
            "--platform-may-begin",
            help="Let the platform's administrator begin a recovery, too: after a day without the KEK nobody else can.",
        ),
    ] = False
    etag: arguments.Etag = ""
    validate_only: arguments.ValidateOnly = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginOptions:
    """What the recovery is for."""

    reason: Annotated[str, typer.Option(help="Why, for the recipients and for the tenant's audit log.")]
    then_disable: Annotated[
        bool, typer.Option("--then-disable", help="End the escrow afterwards; else it is made anew.")
    ] = False
    out: arguments.OutFile = None
    validate_only: arguments.ValidateOnly = False


@command(app, "show")
def show_escrow(session: Session, tenant: arguments.Tenant) -> None:
    """Say whether a tenant's keys are in escrow, with whom, and what is proposed."""
    session.show(session.call(f"{_SERVICE}/GetEscrow", {"name": escrow_of(tenant)}))


@command(app, "enable")
def enable_escrow(session: Session, tenant: arguments.Tenant, *, options: EnableOptions) -> None:
    """Propose an escrow. Another administrator of the tenant confirms it, with the digest that you tell them."""
    request = {
        "name": escrow_of(tenant),
        "recipients": [_recipient(pair) for pair in options.recipient],
        "threshold": options.threshold,
        "platform_may_begin": options.platform_may_begin,
        "etag": options.etag,
        "validate_only": options.validate_only,
    }
    escrow = session.call(f"{_SERVICE}/EnableEscrow", request)
    session.show(escrow)
    if options.validate_only:
        session.say("valid; nothing was proposed")
        return
    digest = escrow["proposal"]["digest"]
    session.say("compare each fingerprint with its recipient, and tell another administrator the digest yourself")
    session.hint("keys", "escrow", "confirm", tenant, "--digest", digest)


@command(app, "confirm")
def confirm_escrow(
    session: Session,
    tenant: arguments.Tenant,
    *,
    digest: Annotated[str, typer.Option(metavar="DIGEST", help="As whoever proposed it told you.")],
) -> None:
    """Confirm an escrow that another administrator has proposed: all keys are copied for it."""
    session.show(session.call(f"{_SERVICE}/ConfirmEscrow", {"name": escrow_of(tenant), "digest": digest}))


@command(app, "disable")
def disable_escrow(session: Session, tenant: arguments.Tenant, *, etag: arguments.Etag = "") -> None:
    """End an escrow at once: its copies and shares are deleted."""
    session.show(session.call(f"{_SERVICE}/DisableEscrow", {"name": escrow_of(tenant), "etag": etag}))


@command(app, "begin")
def begin_recovery(session: Session, tenant: arguments.Tenant, *, options: BeginOptions) -> None:
    """Begin to have a tenant's keys back under a new KEK. --out writes what recipients need.

    Tell the recipients the session's fingerprint yourself: they seal their shares to nothing else.
    """
    request = {
        "parent": tenant,
        "reason": options.reason,
        "afterwards": "DISABLE" if options.then_disable else "REKEY",
        "validate_only": options.validate_only,
    }
    recovery = session.call(f"{_SERVICE}/BeginRecovery", request)
    if options.validate_only:
        session.say("valid; nothing was begun")
    else:
        _show_recovery(session, recovery, options.out)
        session.hint("keys", "escrow", "recovery", recovery["name"], "--out", "FILE")


@command(app, "recovery")
def get_recovery(session: Session, name: Recovery, *, out: arguments.OutFile = None) -> None:
    """Show a recovery, and who has approved it. --out writes what recipients need."""
    _show_recovery(session, session.call(f"{_SERVICE}/GetRecovery", {"name": name}), out)


@command(app, "approve")
def approve_recovery(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The recovery, as `keys escrow recovery --out` wrote it.")
    ],
    *,
    key: Annotated[Path, typer.Option(metavar="FILE", help="Your private key. It stays where it is.")],
    fingerprint: Annotated[
        str, typer.Option("--session", metavar="FINGERPRINT", help="As whoever began the recovery told you.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the approval.")],
) -> None:
    """Approve a recovery as a recipient. Needs no stack and no network: what it writes is handed in by `submit`."""
    from control_plane.cli.escrow import recipient  # noqa: PLC0415 only recipients wait for cryptography

    try:
        approval = recipient.approve(_content(file).decode(errors="replace"), _content(key), session=fingerprint)
    except recipient.ApprovalError as error:
        raise failed("FAILED_PRECONDITION", f"{file}: {error}", hint="have the file written anew") from error
    session.deliver(approval.sealed, out, mode=_PRIVATE)
    session.show(
        {
            "recovery": approval.recovery,
            "recipient": approval.recipient,
            "beginner": approval.beginner,
            "reason": approval.reason,
        }
    )
    session.hint("keys", "escrow", "submit", approval.recovery, "--recipient", approval.recipient, "--file", str(out))


@command(app, "submit")
def submit_approval(
    session: Session,
    name: Recovery,
    *,
    recipient: Annotated[str, typer.Option(metavar="NAME", help="Whose approval it is.")],
    file: Annotated[Path, typer.Option(metavar="FILE", help="The approval, as `approve` wrote it.")],
) -> None:
    """Hand in a recipient's approval. With enough of them the keys are recovered."""
    secret = Secret(field="approval", file=file, is_bytes=True)
    request = {"name": name, "recipient": recipient}
    recovery = session.call(f"{_SERVICE}/ApproveRecovery", request, secret=secret)
    _show_recovery(session, recovery, None)
    session.hint("keys", "escrow", "recovery", name)


@command(app, "cancel")
def cancel_recovery(session: Session, name: Recovery) -> None:
    """End a recovery that has too few approvals. What recipients gave is forgotten."""
    _show_recovery(session, session.call(f"{_SERVICE}/CancelRecovery", {"name": name}), None)


@command(recipient_keys, "new")
def new_recipient_key(
    session: Session,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the private key goes; the public one into FILE.pub.")
    ],
) -> None:
    """Make a key pair, on the recipient's own machine. Needs no stack. The public half goes to the tenant."""
    from control_plane.cli.escrow import recipient  # noqa: PLC0415 the same

    if file.exists():
        raise failed("ALREADY_EXISTS", f"{file} is there already, and may be needed", hint="name another file")
    private, public, fingerprint = recipient.new_key()
    session.deliver(private, file, mode=_PRIVATE)
    session.deliver(public, Path(f"{file}.pub"), mode=_PUBLIC)
    session.show({"private_key": str(file), "public_key": f"{file}.pub", "fingerprint": fingerprint})


@command(recipient_keys, "fingerprint")
def show_fingerprint(
    session: Session, file: Annotated[Path, typer.Argument(metavar="FILE", help="A public key.")]
) -> None:
    """Name a public key, as the tenant and its recipient compare it. Needs no stack."""
    from control_plane.cli.escrow import recipient  # noqa: PLC0415 the same

    try:
        session.show({"fingerprint": recipient.fingerprint(_content(file))})
    except recipient.ApprovalError as error:
        raise failed("INVALID_ARGUMENT", f"{file}: {error}", hint="name the public key") from error


def _show_recovery(session: Session, recovery: Message, out: Path | None) -> None:
    if out:
        session.deliver(json.dumps(recovery, indent=2), out, mode=_PUBLIC)
    if out != Path("-"):
        shares = recovery.get("shares", [])
        approved = [one["recipient"] for one in shares if "approve_time" in one]
        shown = {**recovery, "recipients": [one["recipient"] for one in shares], "approved_by": approved}
        session.show(recovery if session.as_json else shown, leave_out=_LEFT_OUT)


def _recipient(pair: str) -> Message:
    name, _, file = pair.partition("=")
    if not file:
        raise typer.BadParameter(f"{pair!r} is no recipient like NAME=FILE")
    return {"name": name, "public_key": base64.b64encode(_content(Path(file))).decode()}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise failed("INVALID_ARGUMENT", f"{path} cannot be read") from error
