"""A tenant's life: it is suspended and served again, sealed, and deleted."""

import sys
from datetime import timedelta
from typing import Annotated, Final

import typer

from control_plane.cli import arguments
from control_plane.cli.calls.message import Message, without_blanks
from control_plane.cli.edge import applied
from control_plane.cli.session import Session

_SERVICE: Final = "bulkhead.v1.TenantService"


def suspend_tenant(
    session: Session,
    tenant: arguments.Tenant,
    *,
    reason: Annotated[str, typer.Option(help="Why; its administrators and the audit log are told.")] = "",
    etag: arguments.Etag = "",
    wait: applied.Wait = False,
) -> None:
    """Suspend a tenant: its callers are refused until it is reactivated. Its data stays."""
    suspended = session.call(f"{_SERVICE}/SuspendTenant", {"name": tenant, "reason": reason, "etag": etag})
    show_changed(session, suspended, wait=wait)
    session.hint("tenants", "reactivate", tenant)


def reactivate_tenant(
    session: Session, tenant: arguments.Tenant, *, etag: arguments.Etag = "", wait: applied.Wait = False
) -> None:
    """Serve a suspended tenant, or one that is read-only, as before."""
    show_changed(session, session.call(f"{_SERVICE}/ReactivateTenant", {"name": tenant, "etag": etag}), wait=wait)
    session.hint("tenants", "get", tenant)


def seal_tenant(
    session: Session,
    tenant: arguments.Tenant,
    *,
    reason: Annotated[str, typer.Option(help="Why; the tenant's audit log is told.")],
    etag: arguments.Etag = "",
    wait: applied.Wait = False,
) -> None:
    """Seal a tenant: none of its keys and nothing of its data is opened for anybody until it is unsealed.

    Ends when nothing that was under way can succeed any more.
    """
    sealed = session.call(f"{_SERVICE}/SealTenant", {"name": tenant, "reason": reason, "etag": etag})
    show_changed(session, sealed, wait=wait)
    session.hint("tenants", "unseal", tenant, "--reason", "REASON")


def unseal_tenant(
    session: Session,
    tenant: arguments.Tenant,
    *,
    reason: Annotated[str, typer.Option(help="Why; the tenant's audit log is told.")],
    etag: arguments.Etag = "",
    wait: applied.Wait = False,
) -> None:
    """Break a tenant's seal. It is suspended then, until it is reactivated."""
    unsealed = session.call(f"{_SERVICE}/UnsealTenant", {"name": tenant, "reason": reason, "etag": etag})
    show_changed(session, unsealed, wait=wait)
    session.hint("tenants", "reactivate", tenant)


def delete_tenant(
    session: Session,
    tenant: arguments.Tenant,
    *,
    reason: Annotated[str, typer.Option(help="Why; the tenant's audit log is told.")],
    confirm: Annotated[
        str, typer.Option(metavar="ID", help="The tenant's id once more; at a terminal it is asked for.")
    ] = "",
    waiting_period: Annotated[
        timedelta | None,
        typer.Option(
            metavar="SPAN",
            parser=arguments.time_span,
            help="How long it can be taken back: 1h to 90d.",
            show_default="30d",
        ),
    ] = None,
    etag: arguments.Etag = "",
    wait: applied.Wait = False,
) -> None:
    """Delete a tenant: it is sealed now, and destroyed when the waiting period is over.

    Until then `bulkhead tenants undelete` takes it back. Its audit log stays, and so does the receipt that its keys are
    destroyed: `bulkhead keys receipts`.
    """
    if not confirm and not sys.stdin.isatty():
        raise typer.BadParameter("type the tenant's id once more, with --confirm ID")
    request = {
        "name": tenant,
        "confirmation": confirm or typer.prompt(f"Type the id of {tenant} to delete it", err=True),
        "reason": reason,
        "etag": etag,
        **without_blanks({"waiting_period": arguments.duration(waiting_period)}),
    }
    show_changed(session, session.call(f"{_SERVICE}/DeleteTenant", request), wait=wait)
    session.hint("tenants", "undelete", tenant, "--reason", "REASON")


def undelete_tenant(
    session: Session,
    tenant: arguments.Tenant,
    *,
    reason: Annotated[str, typer.Option(help="Why; the tenant's audit log is told.")],
    etag: arguments.Etag = "",
    wait: applied.Wait = False,
) -> None:
    """Take a deletion back. The tenant is sealed then, whatever it was before."""
    undeleted = session.call(f"{_SERVICE}/UndeleteTenant", {"name": tenant, "reason": reason, "etag": etag})
    show_changed(session, undeleted, wait=wait)
    session.hint("tenants", "unseal", tenant, "--reason", "REASON")


def show_changed(session: Session, tenant: Message, *, wait: bool) -> None:
    """Show a tenant as it is by now; with `wait`, once every edge has applied that."""
    session.show(tenant)
    if wait:
        applied.wait_for_change(session, tenant)
