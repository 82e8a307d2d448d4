"""`bulkhead keys policy`: who may use a tenant's keys. A policy is a JSON file; so are its changes."""

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.message import Message, without_blanks
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A tenant's policy of the use of its keys: show it, set it, lock it, and consent to changes and uses.",
)

_SERVICE: Final = "bulkhead.v1.KeyPolicyService"
_FIELDS: Final = ("enforced", "rules", "locked")
_APPROVALS: Final = (
    "name",
    "state",
    "use.principal",
    "use.key",
    "use.operation",
    "use.reason_code",
    "reason",
    "uses_left",
)

File = Annotated[
    Path,
    typer.Option(
        "--file",
        metavar="FILE",
        help='JSON with what is to be: {"enforced": true, "rules": […]}. What it does not name stays as it is.',
    ),
]
Change = Annotated[str, typer.Argument(metavar="CHANGE", help="The id of the proposal, as `keys policy show` has it.")]
Approval = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/keyUseApprovals/APPROVAL")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentOptions:
    """What is consented to."""

    uses: Annotated[int, typer.Option(metavar="N", help="How many uses: one if not said, 1,000 at most.")] = 0
    ttl: Annotated[
        timedelta | None,
        typer.Option(
            metavar="TIME", parser=arguments.time_span, help="For how long, such as 30m: 1h if not said, 8h at most."
        ),
    ] = None
    etag: arguments.Etag = ""


@command(app, "show")
def show_policy(session: Session, tenant: arguments.Tenant) -> None:
    """Show a tenant's policy, and the change of it that waits for a second administrator."""
    _show(session, session.call(f"{_SERVICE}/GetKeyPolicy", {"name": f"{tenant}/keyPolicy"}))


@command(app, "set")
def set_policy(
    session: Session,
    tenant: arguments.Tenant,
    *,
    file: File,
    etag: arguments.Etag = "",
    validate_only: arguments.ValidateOnly = False,
) -> None:
    """Change a tenant's policy, at once: no use that it denies goes on when this returns.

    A locked policy is only made tighter so; what is not provably tighter is proposed.
    """
    request = {**_change(tenant, _read(file), etag=etag), "validate_only": validate_only}
    _show(session, session.call(f"{_SERVICE}/UpdateKeyPolicy", request))


@command(app, "lock")
def lock_policy(session: Session, tenant: arguments.Tenant, *, etag: arguments.Etag = "") -> None:
    """Lock a tenant's policy, as its administrator: only its own change it from now on, and loosen it by two."""
    _show(session, session.call(f"{_SERVICE}/UpdateKeyPolicy", _change(tenant, {"locked": True}, etag=etag)))


@command(app, "propose")
def propose_change(
    session: Session,
    tenant: arguments.Tenant,
    *,
    file: File,
    etag: arguments.Etag = "",
    validate_only: arguments.ValidateOnly = False,
) -> None:
    """Propose any change of a locked policy, for another administrator to approve within a day."""
    request = {**_change(tenant, _read(file), etag=etag), "validate_only": validate_only}
    policy = session.call(f"{_SERVICE}/ProposeKeyPolicyChange", request)
    _show(session, policy)
    if policy.get("proposal"):
        session.hint("keys", "policy", "approve", tenant, policy["proposal"]["id"])


@command(app, "approve")
def approve_change(session: Session, tenant: arguments.Tenant, change: Change) -> None:
    """Approve what another administrator has proposed: it holds at once."""
    request = {"name": f"{tenant}/keyPolicy", "change": change}
    _show(session, session.call(f"{_SERVICE}/ApproveKeyPolicyChange", request))


@command(app, "reject")
def reject_change(session: Session, tenant: arguments.Tenant, change: Change) -> None:
    """Reject what was proposed, or take back one's own."""
    request = {"name": f"{tenant}/keyPolicy", "change": change}
    _show(session, session.call(f"{_SERVICE}/RejectKeyPolicyChange", request))


@command(app, "approvals")
def list_approvals(session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging) -> None:
    """List the uses of keys that wait for somebody's consent, or have it, newest first."""
    session.show_list(f"{_SERVICE}/ListKeyUseApprovals", {"parent": tenant}, columns=_APPROVALS, paging=paging)


@command(app, "approval")
def get_approval(session: Session, name: Approval) -> None:
    """Show one of them."""
    session.show(session.call(f"{_SERVICE}/GetKeyUseApproval", {"name": name}))


@command(app, "approve-use")
def approve_use(session: Session, name: Approval, *, options: ConsentOptions) -> None:
    """Consent to uses of a key that wait for it."""
    request = {"name": name, "uses": options.uses, "ttl": arguments.duration(options.ttl), "etag": options.etag}
    session.show(session.call(f"{_SERVICE}/ApproveKeyUse", request))


@command(app, "deny-use")
def deny_use(session: Session, name: Approval, *, etag: arguments.Etag = "") -> None:
    """Deny uses that wait for consent, or take it back."""
    session.show(session.call(f"{_SERVICE}/DenyKeyUse", {"name": name, "etag": etag}))


def _change(tenant: str, said: Message, *, etag: str) -> Message:
    return {
        "key_policy": {"name": f"{tenant}/keyPolicy", **said, **without_blanks({"etag": etag})},
        "update_mask": ",".join(said),
    }


def _read(file: Path) -> Message:
    """Read a policy, or a part of one; what is in it is for the API to judge, but the form."""
    from google.protobuf import json_format  # noqa: PLC0415 `--help` need not wait for protobuf

    from bulkhead.v1 import key_policies_pb2  # noqa: PLC0415 the same

    try:
        said: Any = json.loads(file.read_text())
        json_format.ParseDict(said, key_policies_pb2.KeyPolicy())
    except OSError as error:
        raise failed("INVALID_ARGUMENT", f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError, json_format.ParseError) as error:
        raise failed("INVALID_ARGUMENT", f"{file} holds no policy: {error}") from error
    if not isinstance(said, dict) or not said or not said.keys() <= set(_FIELDS):
        text = f"{file} must hold an object with some of {', '.join(_FIELDS)}, and nothing else"
        raise failed("INVALID_ARGUMENT", text)
    return said


def _show(session: Session, policy: Message) -> None:
    session.show(policy, leave_out=("rules", "proposal"))
    if session.as_json:
        return
    for title, rules in (("rules", policy["rules"]), ("proposed", policy.get("proposal", {}).get("rules", []))):
        for number, rule in enumerate(rules):
            output.put(f"{title}[{number}]  {output.plain(json.dumps(without_blanks(rule), ensure_ascii=False))}")
    if proposal := policy.get("proposal"):
        said = f"{proposal['proposer']} proposes {proposal['id']}: {'; '.join(proposal['loosenings']) or 'tighter'}"
        output.put(output.plain(said))
