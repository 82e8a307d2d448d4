"""Reports as they are sent, written from tallies and added to them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Final
from uuid import UUID

from bulkhead.edge.v1 import policies_pb2
from control_plane.ids import TenantId
from control_plane.tally import Kind, Tally
from ext_authz.reports.tally import AccessKind, Taken, Tallies, UsageKind, Used

# Of each sort: fewer than a server takes.
_KINDS_OF_A_REPORT: Final = 500


def reports_of(
    taken: Taken, *, reporter: str, sequence: int, most: int = _KINDS_OF_A_REPORT
) -> Iterator[policies_pb2.ReportDecisionsRequest]:
    """Write what was taken as reports, of which the first has that sequence; as none where nothing was.

    A report has at most so many kinds of denials, of usage, and of accesses.
    """
    denials = [_denial_to(tally) for tally in taken.denials]
    usage = [_usage_to(kind, used) for kind, used in taken.usage.items()]
    accesses = [_access_to(kind, admitted) for kind, admitted in taken.accesses.items()]
    starts = range(0, max(len(denials), len(usage), len(accesses)), most)
    for number, start in zip(count(sequence), starts, strict=False):
        part = slice(start, start + most)
        yield policies_pb2.ReportDecisionsRequest(
            reporter=reporter, sequence=number, denials=denials[part], usage=usage[part], accesses=accesses[part]
        )


def add_report(tallies: Tallies, report: policies_pb2.ReportDecisionsRequest, now: datetime) -> None:
    """Add a report's counts to the tallies.

    Raises:
        ValueError: when a tenant's uid or a credential is none; then nothing of the report is added.
    """
    usage = [(_usage_kind(used), used) for used in report.usage]
    accesses = [(_access_kind(access), access.admitted) for access in report.accesses]
    denials = [_tally(denial) for denial in report.denials]
    for tally in denials:
        tallies.add_denied(tally, now)
    for usage_kind, used in usage:
        more = Used(admitted=used.admitted, limited=used.limited, cost=used.cost, leased=used.leased)
        tallies.add_used(usage_kind, more)
    for access_kind, admitted in accesses:
        tallies.add_access(access_kind, admitted)


def _usage_kind(tally: policies_pb2.UsageTally) -> UsageKind:
    return UsageKind(UUID(tally.tenant_uid), tally.method, tally.minute.ToDatetime(tzinfo=UTC))


def _access_kind(access: policies_pb2.AccessTally) -> AccessKind:
    minute = access.minute.ToDatetime(tzinfo=UTC)
    return AccessKind(UUID(access.tenant_uid), UUID(access.credential), access.lease_class, minute)


def _tally(denial: policies_pb2.DenialTally) -> Tally:
    return Tally(
        kind=Kind(
            tenant=TenantId(denial.tenant_id) if denial.tenant_id else None,
            actor=denial.actor,
            method=denial.method,
            resource=denial.resource,
            reason=denial.reason,
            peer=denial.peer,
        ),
        count=denial.count,
        first_time=denial.first_time.ToDatetime(tzinfo=UTC),
        last_time=denial.last_time.ToDatetime(tzinfo=UTC),
        request_id=denial.request_id,
    )


def _denial_to(tally: Tally) -> policies_pb2.DenialTally:
    message = policies_pb2.DenialTally(
        tenant_id=tally.kind.tenant or "",
        actor=tally.kind.actor,
        method=tally.kind.method,
        resource=tally.kind.resource,
        reason=tally.kind.reason,
        peer=tally.kind.peer,
        count=tally.count,
        request_id=tally.request_id,
    )
    message.first_time.FromDatetime(tally.first_time)
    message.last_time.FromDatetime(tally.last_time)
    return message


def _usage_to(kind: UsageKind, used: Used) -> policies_pb2.UsageTally:
    message = policies_pb2.UsageTally(
        tenant_uid=str(kind.tenant_uid),
        method=kind.method,
        admitted=used.admitted,
        limited=used.limited,
        cost=used.cost,
        leased=used.leased,
    )
    message.minute.FromDatetime(kind.minute)
    return message


def _access_to(kind: AccessKind, admitted: int) -> policies_pb2.AccessTally:
    message = policies_pb2.AccessTally(
        tenant_uid=str(kind.tenant_uid),
        credential=str(kind.credential),
        lease_class=kind.lease_class,
        admitted=admitted,
    )
    message.minute.FromDatetime(kind.minute)
    return message
