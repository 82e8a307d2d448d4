"""`bulkhead certificates`: each tenant's certificates, from its own authority."""

import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.message import Message
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Certificates: issue, list, revoke.")

_SERVICE: Final = "bulkhead.v1.CertificateService"
_COLUMNS: Final = ("name", "state", "subject", "dns_names", "expire_time")
_PUBLIC: Final = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueOptions:
    """What is asked for."""

    csr: Annotated[Path, typer.Option(metavar="FILE", help="A PKCS#10 request in PEM; `-` is stdin.")]
    validity: Annotated[
        timedelta | None,
        typer.Option(metavar="SPAN", parser=arguments.time_span, help="How long it is valid: 90d if not said."),
    ] = None
    profile: Annotated[str, typer.Option(help="The profile; `private` if not said.")] = ""
    out: arguments.OutFile = None
    request_id: arguments.RequestId = ""
    validate_only: arguments.ValidateOnly = False


@command(app, "issue")
def issue_certificate(session: Session, tenant: arguments.Tenant, *, options: IssueOptions) -> None:
    """Issue a certificate from a signing request. --out writes it, and its authority's, in PEM."""
    request = {
        "parent": tenant,
        "csr_pem": _read(options.csr),
        "validity": arguments.duration(options.validity),
        "profile": options.profile,
        "request_id": session.request_id(options.request_id),
        "validate_only": options.validate_only,
    }
    certificate = session.call(f"{_SERVICE}/IssueCertificate", request)
    _show(session, certificate, options.out)
    if options.validate_only:
        session.say("valid; nothing was issued")
    else:
        session.hint("certificates", "get", certificate["name"])


@command(app, "get")
def get_certificate(session: Session, name: arguments.Certificate, *, out: arguments.OutFile = None) -> None:
    """Show one certificate. --out writes it, and its authority's, in PEM."""
    _show(session, session.call(f"{_SERVICE}/GetCertificate", {"name": name}), out)


@command(app, "list")
def list_certificates(session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging) -> None:
    """List a tenant's certificates, newest first."""
    session.show_list(f"{_SERVICE}/ListCertificates", {"parent": tenant}, columns=_COLUMNS, paging=paging)


@command(app, "revoke")
def revoke_certificate(
    session: Session,
    name: arguments.Certificate,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
) -> None:
    """Revoke a certificate for ever."""
    answer = session.call(f"{_SERVICE}/RevokeCertificate", {"name": name, "reason": reason})
    session.show(answer, leave_out=["pem_chain"])
    session.hint("certificates", "list", "/".join(name.split("/")[:2]))


@command(app, "authority")
def get_authority(session: Session, tenant: arguments.Tenant, *, out: arguments.OutFile = None) -> None:
    """Show a tenant's own authority. --out writes in PEM all that its certificates are verified against."""
    answer = session.call(f"{_SERVICE}/GetCertificateAuthority", {"name": f"{tenant}/certificateAuthority"})
    if out:
        session.deliver(answer["pem"], out, mode=_PUBLIC)
    if out != Path("-"):
        session.show(answer, leave_out=["pem"])


def _read(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        # What is no text at all is for the server to refuse, with all else that is wrong.
        return path.read_text(errors="replace")
    except OSError as error:
        raise failed("INVALID_ARGUMENT", f"--csr {path} cannot be read: {error.strerror}") from error


def _show(session: Session, certificate: Message, out: Path | None) -> None:
    if out and certificate["pem_chain"]:
        session.deliver(certificate["pem_chain"], out, mode=_PUBLIC)
    if out != Path("-"):
        session.show(certificate, leave_out=["pem_chain"])
