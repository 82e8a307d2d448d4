"""`bulkhead tokens`: what a tenant's callers show."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.calls.failures import CallFailedError, with_hint
from control_plane.cli.calls.grpcurl import Secret
from control_plane.cli.calls.message import Message
from control_plane.cli.command import command
from control_plane.cli.edge import applied
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Tokens: issue, revoke, enrol.")

_SERVICE: Final = "bulkhead.v1.TokenService"
_COLUMNS: Final = ("name", "subject", "role", "scopes", "expire_time", "revoke_time")
_STDIN: Final = Path("/dev/stdin")
_PRIVATE: Final = 0o600


class Role(StrEnum):
    """What the bearer of a token can be."""

    TENANT_ADMIN = "tenant-admin"
    TENANT_MEMBER = "tenant-member"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueOptions:
    """What a new token is good for."""

    subject: Annotated[str, typer.Option(metavar="NAME", help="Whom it stands for.")]
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope", metavar="SCOPE", help="What its bearer may do, such as certificates.write; again for more."
        ),
    ] = field(default_factory=list)
    role: Annotated[Role, typer.Option(help="What its bearer is.")] = Role.TENANT_MEMBER
    ttl: Annotated[
        timedelta | None,
        typer.Option(
            metavar="SPAN", parser=arguments.time_span, help="How long it is good: 1h if not said, 24h at most."
        ),
    ] = None
    out: arguments.OutFile = None
    request_id: arguments.RequestId = ""
    validate_only: arguments.ValidateOnly = False


@command(app, "issue")
def issue_token(session: Session, tenant: arguments.Tenant, *, options: IssueOptions) -> None:
    """Issue a token and print it: this is the only time that it is shown.

    With --out it goes into a file that only you can read.
    """
    request = {
        "parent": tenant,
        "subject": options.subject,
        "role": f"ROLE_{options.role.name}",
        "scopes": options.scope,
        "ttl": arguments.duration(options.ttl),
        "request_id": session.request_id(options.request_id),
        "validate_only": options.validate_only,
    }
    answer = session.call(f"{_SERVICE}/IssueToken", request)
    if options.validate_only:
        session.say("valid; nothing was issued")
        session.show(answer)
    else:
        _show_issued(session, answer, options.out)
        session.hint("tokens", "revoke", answer["metadata"]["name"])


@command(app, "get")
def get_token(session: Session, name: arguments.Token) -> None:
    """Show what is known of a token, without the token itself."""
    session.show(session.call(f"{_SERVICE}/GetToken", {"name": name}))


@command(app, "list")
def list_tokens(session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging) -> None:
    """List a tenant's tokens, newest first."""
    session.show_list(f"{_SERVICE}/ListTokens", {"parent": tenant}, columns=_COLUMNS, paging=paging)


@command(app, "revoke")
def revoke_token(session: Session, name: arguments.Token, *, wait: applied.Wait = False) -> None:
    """Revoke a token for ever. Every process refuses it within a second."""
    revoked = session.call(f"{_SERVICE}/RevokeToken", {"name": name})
    session.show(revoked)
    if wait:
        applied.wait_for_change(session, revoked)
    session.hint("tokens", "list", "/".join(name.split("/")[:2]))


@command(app, "enrolment")
def get_enrolment_token(session: Session, tenant: arguments.Tenant, *, out: arguments.OutFile = None) -> None:
    """Print the one-time token with which a new tenant's administrator enrols."""
    answer = session.call(f"{_SERVICE}/GetEnrolmentToken", {"name": f"{tenant}/enrolment"})
    _hand_over(session, answer, "enrolment_token", out=out)
    session.say(f"good once, until {output.moment(answer['expire_time'])}")
    session.hint("tokens", "redeem", tenant, "--file", _named(out))


@command(app, "redeem")
def redeem_enrolment_token(
    session: Session,
    tenant: arguments.Tenant,
    *,
    file: Annotated[
        Path, typer.Option(metavar="FILE", help="What holds the enrolment token; stdin if none is named.")
    ] = _STDIN,
    out: arguments.OutFile = None,
) -> None:
    """Trade an enrolment token for an administrator's token, and print that.

    Works once, and needs no other credential.
    """
    secret = Secret(field="enrolment_token", file=file)
    try:
        answer = session.call_anonymously(
            f"{_SERVICE}/RedeemEnrolmentToken", {"name": f"{tenant}/enrolment"}, secret=secret
        )
    except CallFailedError as error:
        if error.failure.code != "PERMISSION_DENIED":
            raise
        hint = f"it is wrong, used or expired: `{{bulkhead}} tokens enrolment {tenant}` prints one that is not"
        raise with_hint(error, hint) from error
    _show_issued(session, answer, out)
    session.hint("tokens", "list", tenant, "--token-file", _named(out))


def _show_issued(session: Session, answer: Message, out: Path | None) -> None:
    known = answer["metadata"]
    _hand_over(session, answer, "token", out=out)
    session.say(f"{known['name']} for {known['subject']}, until {output.moment(known['expire_time'])}")


def _hand_over(session: Session, answer: Message, secret: str, *, out: Path | None) -> None:
    """Give the secret field of an answer to the caller, once: in the file, in the JSON, or on stdout."""
    if out or not session.as_json:
        session.deliver(answer.pop(secret), out, mode=_PRIVATE)
    if session.as_json:
        session.show(answer)


def _named(out: Path | None) -> str:
    return "FILE" if out is None or str(out) == "-" else str(out)
