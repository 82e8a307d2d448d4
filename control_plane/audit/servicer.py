"""AuditService over gRPC."""

from datetime import UTC, datetime

from typing_extensions import override

from bulkhead.v1 import audit_pb2, audit_pb2_grpc
from control_plane.audit import service, store
from control_plane.audit.model import SealedEntry
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """See audit.proto."""

    def __init__(self, page_tokens: PageTokens) -> None:
        """Make page tokens with `page_tokens`."""
        self._page_tokens = page_tokens

    @override
    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: Context
    ) -> audit_pb2.ListAuditEntriesResponse:
        call = current_call()
        parent = call.tenant_name
        page = self._page_tokens.page(request, method=call.method, parent=parent, now=datetime.now(UTC))
        entries = await call.tenant().run(lambda tx: store.list_page(tx, page.before, limit=page.limit))
        shown, next_page_token = page.cut(entries, lambda sealed: sealed.entry.id)
        return audit_pb2.ListAuditEntriesResponse(
            audit_entries=[to_proto(entry, parent) for entry in shown], next_page_token=next_page_token
        )

    @override
    async def VerifyAuditLog(
        self, request: audit_pb2.VerifyAuditLogRequest, context: Context
    ) -> audit_pb2.VerifyAuditLogResponse:
        found = await current_call().tenant().run(service.verify_log)
        return audit_pb2.VerifyAuditLogResponse(
            sealed_entries=found.sealed,
            unsealed_entries=found.unsealed,
            head=found.head,
            first_broken_sequence=found.first_broken,
        )


def to_proto(sealed: SealedEntry, parent: str) -> audit_pb2.AuditEntry:
    """Show an entry of the tenant named `parent`."""
    entry = sealed.entry
    message = audit_pb2.AuditEntry(
        name=f"{parent}/auditEntries/{entry.id}",
        actor=entry.actor,
        method=entry.method,
        resource=entry.resource,
        outcome=audit_pb2.AuditEntry.Outcome.Value(entry.outcome.value),
        reason=entry.reason,
        request_id=entry.request_id,
        count=entry.count,
        sequence=sealed.sequence,
        hash=sealed.hash,
    )
    message.create_time.FromDatetime(entry.create_time)
    message.details.update(entry.details)
    return message
