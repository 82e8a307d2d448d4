"""AuditService over gRPC."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from typing_extensions import override

from bulkhead.v1 import audit_pb2, audit_pb2_grpc
from control_plane.audit import service, store
from control_plane.audit.model import SealedEntry, Verification, canonical
from control_plane.audit.publication import Publication
from control_plane.errors import FieldViolation, InvalidArgumentError
from control_plane.keys.model import Purpose
from control_plane.proofs.audit_log import CHECKPOINT_TYPE, KEY_TYPE, PublishedKey
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens, page_size


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """See audit.proto."""

    def __init__(self, page_tokens: PageTokens, publication: Publication) -> None:
        """Make page tokens with `page_tokens`; believe the keys of `publication`."""
        self._page_tokens = page_tokens
        self._publication = publication

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
        call = current_call()
        placement = call.require_placement()
        keys = await self._publication.log_keys(placement)
        found = await call.tenant().run(partial(service.verify_log, keys=keys))
        # Not known before, but by now: a key that was published meanwhile.
        if found.first_forged_checkpoint and (newer := await self._publication.log_keys(placement)) != keys:
            found = await call.tenant().run(partial(service.verify_log, keys=newer))
        return _verification_to_proto(found, call.tenant_name)

    @override
    async def ExportAuditLog(
        self, request: audit_pb2.ExportAuditLogRequest, context: Context
    ) -> audit_pb2.ExportAuditLogResponse:
        call, limit = current_call(), min(page_size(request.page_size), service.LARGEST_PART)
        if request.after_sequence < 0:
            raise InvalidArgumentError(FieldViolation(field="after_sequence", description="must not be negative"))
        part = await call.tenant().run(lambda tx: service.read_part(tx, request.after_sequence, limit=limit))
        uid = call.require_placement().uid
        return audit_pb2.ExportAuditLogResponse(
            sealed_entries=[
                audit_pb2.SealedAuditEntry(
                    sequence=seal.sequence,
                    canonical=b"" if record is None else canonical(record, uid, sequence=seal.sequence),
                    hash=seal.hash,
                )
                for seal, record in part.entries
            ],
            checkpoints=[
                audit_pb2.AuditCheckpoint(
                    sequence=signed.sequence,
                    payload_type=CHECKPOINT_TYPE,
                    payload=signed.payload,
                    signature=signed.signature,
                    key_id=signed.key_id,
                )
                for signed in part.checkpoints
            ],
            last_sequence=0 if part.is_last else part.entries[-1][0].sequence,
        )

    @override
    async def ListAuditKeys(
        self, request: audit_pb2.ListAuditKeysRequest, context: Context
    ) -> audit_pb2.ListAuditKeysResponse:
        call = current_call()
        uid = call.require_placement().uid
        page = self._page_tokens.page(request, method=call.method, parent=call.tenant_name, now=datetime.now(UTC))
        published = await call.system().run(lambda tx: store.published_keys(tx, uid))
        listed = list(enumerate(_keys_to_proto(published, call.tenant_name)))
        before = int(page.after) if page.after else len(listed)
        shown, next_page_token = page.cut(listed[:before][::-1][: page.limit], lambda numbered: numbered[0])
        return audit_pb2.ListAuditKeysResponse(audit_keys=[key for _, key in shown], next_page_token=next_page_token)


def _verification_to_proto(found: Verification, parent: str) -> audit_pb2.VerifyAuditLogResponse:
    message = audit_pb2.VerifyAuditLogResponse(
        sealed_entries=found.sealed,
        unsealed_entries=found.unsealed,
        head=found.head,
        first_broken_sequence=found.first_broken,
        first_forged_checkpoint=found.first_forged_checkpoint,
        first_forged_key_version=_version_name(parent, found.first_forged_key) if found.first_forged_key else "",
    )
    if found.last_signed is not None:
        message.signed_entries = found.last_signed.sequence
        message.sign_time.FromDatetime(found.last_signed.time)
        message.key_version = _version_name(parent, found.last_signed.key_version)
    return message


def _keys_to_proto(published: Sequence[PublishedKey], parent: str) -> Iterator[audit_pb2.AuditKey]:
    """Show published keys, the oldest first, believed or not; of what is no key only what is stored."""
    keys = [each.maybe_read() for each in published]
    for number, (one, key) in enumerate(zip(published, keys, strict=True), start=1):
        following = keys[number] if number < len(keys) else None
        message = audit_pb2.AuditKey(
            payload_type=KEY_TYPE,
            payload=one.payload,
            signatures=[
                audit_pb2.AuditKeySignature(key_id=str(each.key_id), signature=each.signature)
                for each in one.signatures
            ],
        )
        if key is not None:
            message.key_version, message.key_id = _version_name(parent, key.version), str(key.key_id)
            message.public_key_pem = key.public_pem
            message.start_time.FromDatetime(key.start_time)
            if following is not None:
                message.end_time.FromDatetime(following.previous_end_time)
        yield message


def _version_name(parent: str, version: int) -> str:
    return f"{parent}/keys/{Purpose.AUDIT}/versions/{version}"


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
