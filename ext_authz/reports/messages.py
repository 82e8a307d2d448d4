"""Reports as they are sent, written from tallies and added to them."""

from datetime import UTC
from uuid import UUID

from bulkhead.edge.v1 import policies_pb2
from ext_authz.reports.tally import DenialKind, Denied, Taken, Tallies, UsageKind, Used


def report_of(taken: Taken, *, reporter: str, sequence: int) -> policies_pb2.ReportDecisionsRequest:
    """Write a report."""
    return policies_pb2.ReportDecisionsRequest(
        reporter=reporter,
        sequence=sequence,
        denials=[_denial_to(kind, denied) for kind, denied in taken.denials.items()],
        usage=[_usage_to(kind, used) for kind, used in taken.usage.items()],
    )


def add_report(tallies: Tallies, report: policies_pb2.ReportDecisionsRequest) -> None:
    """Add a report's counts to the tallies.

    Raises:
        ValueError: when a tenant's uid is none; then nothing of the report is added.
    """
    usage = [(_usage_kind(tally), tally) for tally in report.usage]
    for tally in report.denials:
        kind = DenialKind(tally.tenant_id, tally.actor, tally.method, tally.resource, tally.reason, tally.peer)
        denied = Denied(
            count=tally.count,
            first_time=tally.first_time.ToDatetime(tzinfo=UTC),
            last_time=tally.last_time.ToDatetime(tzinfo=UTC),
            request_id=tally.request_id,
        )
        tallies.add_denied(kind, denied)
    for usage_kind, used in usage:
        tallies.add_used(usage_kind, Used(admitted=used.admitted, limited=used.limited, cost=used.cost))


def _usage_kind(tally: policies_pb2.UsageTally) -> UsageKind:
    return UsageKind(UUID(tally.tenant_uid), tally.method, tally.minute.ToDatetime(tzinfo=UTC))


def _denial_to(kind: DenialKind, denied: Denied) -> policies_pb2.DenialTally:
    message = policies_pb2.DenialTally(
        tenant_id=kind.tenant_id,
        actor=kind.actor,
        method=kind.method,
        resource=kind.resource,
        reason=kind.reason,
        peer=kind.peer,
        count=denied.count,
        request_id=denied.request_id,
    )
    message.first_time.FromDatetime(denied.first_time)
    message.last_time.FromDatetime(denied.last_time)
    return message


def _usage_to(kind: UsageKind, used: Used) -> policies_pb2.UsageTally:
    message = policies_pb2.UsageTally(
        tenant_uid=str(kind.tenant_uid),
        method=kind.method,
        admitted=used.admitted,
        limited=used.limited,
        cost=used.cost,
    )
    message.minute.FromDatetime(kind.minute)
    return message
