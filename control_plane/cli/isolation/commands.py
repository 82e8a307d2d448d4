"""Verify tenants and the cell; read attestations, and check them without the platform; list breaches."""

from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, output
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.message import Message
from control_plane.cli.calls.values import read_text
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Isolation: verify it, and show the proof.")

_SERVICE: Final = "bulkhead.v1.IsolationService"
_ATTESTATIONS: Final = ("name", "passed", "create_time", "duration", "hsm_backed")
_PROBES: Final = ("name", "outcome", "duration", "detail")
_BREACHES: Final = ("name", "owner", "finder", "channel", "method", "count", "update_time")
_KEYS: Final = ("key_id", "create_time", "hsm_backed")
# What the table of probes, or the envelope, says better.
_LEFT_OUT: Final = ("probes", "payload", "payload_type", "signature")
_PUBLIC: Final = 0o644
# Longer than a cell of 100,000 tenants takes.
_TIMEOUT_S: Final = 60.0

Attestation = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/attestations/ATTESTATION")]
EnvelopeFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it as a DSSE envelope.")]


@command(app, "verify")
def verify_tenant(session: Session, tenant: arguments.Tenant, *, out: EnvelopeFile = None) -> None:
    """Probe every wall around a tenant, now. Fails where one does not hold. --out writes the attestation."""
    answer = session.call(f"{_SERVICE}/VerifyIsolation", {"name": tenant}, timeout_s=_TIMEOUT_S)
    _show(session, answer, out)
    _check(answer, tenant)


@command(app, "verify-cell")
def verify_cell(
    session: Session,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="cells/CELL")] = "cells/local",
    *,
    out: EnvelopeFile = None,
) -> None:
    """Prove by the catalogues that all tenants of a cell are apart. Fails where they are not."""
    answer = session.call(f"{_SERVICE}/VerifyCell", {"cell": cell}, timeout_s=_TIMEOUT_S)
    _show(session, answer, out)
    _check(answer, cell)


@command(app, "attestations")
def list_attestations(session: Session, tenant: arguments.Tenant, *, paging: arguments.Paging) -> None:
    """List a tenant's attestations, newest first. One is made each day."""
    session.show_list(f"{_SERVICE}/ListAttestations", {"parent": tenant}, columns=_ATTESTATIONS, paging=paging)


@command(app, "get")
def get_attestation(session: Session, name: Attestation, *, out: EnvelopeFile = None) -> None:
    """Show one attestation. --out writes it."""
    _show(session, session.call(f"{_SERVICE}/GetAttestation", {"name": name}), out)


@command(app, "keys")
def list_keys(session: Session, *, out: arguments.OutFile = None) -> None:
    """List the keys that sign attestations. --out writes them in PEM."""
    answer = session.call(f"{_SERVICE}/ListAttestationKeys", {})
    if out:
        session.deliver("".join(key["public_key_pem"] for key in answer["attestation_keys"]), out, mode=_PUBLIC)
    elif session.as_json:
        output.put_json(answer)
    else:
        output.put_table(answer["attestation_keys"], _KEYS)


@command(app, "check")
def check_attestation(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An attestation that --out wrote.")],
    *,
    keys: Annotated[Path, typer.Option(metavar="FILE", help="The keys that `isolation keys --out` wrote.")],
) -> None:
    """Check an attestation against the keys. Needs no stack. Fails where it is forged, or says that a wall is down."""
    from control_plane.cli.isolation import envelope  # noqa: PLC0415 only who checks waits for cryptography

    try:
        said = envelope.read(read_text(file), read_text(keys))
    except envelope.EnvelopeError as error:
        raise failed(
            "FAILED_PRECONDITION",
            f"{file}: {error}",
            hint="compare it with `{bulkhead} isolation get NAME`, and the keys with `{bulkhead} isolation keys`",
            reason="ATTESTATION_FORGED",
        ) from error
    answer = dict(said)
    if session.as_json:
        output.put_json(answer)
    else:
        output.put_details(answer, leave_out=["probes"])
        output.put_table(answer["probes"], ("name", "outcome", "duration_ms", "detail"))
    _check(answer, str(file))


@command(app, "breaches")
def list_breaches(session: Session, *, paging: arguments.Paging) -> None:
    """List what of one tenant's was about to reach another and was held back, newest first."""
    session.show_list(f"{_SERVICE}/ListBreaches", {}, columns=_BREACHES, paging=paging)


def _show(session: Session, attestation: Message, out: Path | None) -> None:
    if out:
        from control_plane.cli.isolation import envelope  # noqa: PLC0415 the same

        session.deliver(envelope.write(attestation), out, mode=_PUBLIC)
    if out == Path("-"):
        return
    session.show(attestation, leave_out=_LEFT_OUT)
    if not session.as_json:
        output.put_table(attestation["probes"], _PROBES)


def _check(attestation: Message, subject: str) -> None:
    """Fail the command where not everything passed."""
    if attestation["passed"]:
        return
    amiss = [probe["name"] for probe in attestation["probes"] if probe["outcome"] != "PASSED"]
    raise failed(
        "FAILED_PRECONDITION",
        f"the isolation of {subject} is not proven: {', '.join(amiss)}",
        hint="the detail of each probe says what was seen, and the control plane's log the rest",
        reason="ISOLATION_NOT_PROVEN",
    )
