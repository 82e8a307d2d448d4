"""EscrowService over gRPC."""

from datetime import UTC, datetime
from uuid import UUID

from typing_extensions import override

from bulkhead.v1 import escrows_pb2, escrows_pb2_grpc, recoveries_pb2
from control_plane.errors import NotFoundError, Violations
from control_plane.escrows import service
from control_plane.escrows.model import Afterwards, Approval, Overview, Recipient, Terms, check_reason
from control_plane.escrows.recoveries import Beginning, HandIn, Recoveries, Shown, recovery_name
from control_plane.ids import uuid_of
from control_plane.keys.wrapping import Wrapping
from control_plane.operations.plan import DeferJob
from control_plane.postgres.placement import Placement
from control_plane.recipients import ceremony, hpke
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context
from control_plane.serving.principal import TENANT_BOUND

_AFTERWARDS = {
    recoveries_pb2.KeyRecovery.AFTERWARDS_UNSPECIFIED: Afterwards.REKEY,
    recoveries_pb2.KeyRecovery.REKEY: Afterwards.REKEY,
    recoveries_pb2.KeyRecovery.DISABLE: Afterwards.DISABLE,
}


class EscrowServicer(escrows_pb2_grpc.EscrowServiceServicer):
    """See escrows.proto."""

    def __init__(self, wrapping: Wrapping, *, defer: DeferJob) -> None:
        """Copy keys by `wrapping`; defer the jobs of recoveries with `defer`."""
        self._wrapping = wrapping
        self._recoveries = Recoveries(wrapping)
        self._defer = defer

    @override
    async def GetEscrow(self, request: escrows_pb2.GetEscrowRequest, context: Context) -> escrows_pb2.Escrow:
        placement, now = current_call().require_placement(), datetime.now(UTC)
        found = await current_call().system().run(lambda tx: service.overview(tx, placement, now=now))
        return escrow_to_proto(found)

    @override
    async def EnableEscrow(self, request: escrows_pb2.EnableEscrowRequest, context: Context) -> escrows_pb2.Escrow:
        call = current_call()
        wish = service.Wish(
            placement=call.require_placement(),
            terms=_terms(request),
            actor=call.actor,
            behind=await service.who_stands_behind(call.tenant(), call.require_principal()),
            etag=request.etag,
            validate_only=request.validate_only,
        )
        return escrow_to_proto(await service.propose(call.system(), wish, now=datetime.now(UTC)))

    @override
    async def ConfirmEscrow(self, request: escrows_pb2.ConfirmEscrowRequest, context: Context) -> escrows_pb2.Escrow:
        call = current_call()
        found = await service.confirm(
            call.system(),
            call.require_placement(),
            digest=request.digest,
            behind=await service.who_stands_behind(call.tenant(), call.require_principal()),
            wrapping=self._wrapping,
            now=datetime.now(UTC),
        )
        return escrow_to_proto(found)

    @override
    async def DisableEscrow(self, request: escrows_pb2.DisableEscrowRequest, context: Context) -> escrows_pb2.Escrow:
        call = current_call()
        found = await service.disable(call.system(), call.require_placement(), etag=request.etag, now=datetime.now(UTC))
        return escrow_to_proto(found)

    @override
    async def BeginRecovery(
        self, request: recoveries_pb2.BeginRecoveryRequest, context: Context
    ) -> recoveries_pb2.KeyRecovery:
        call = current_call()
        violations = Violations()
        check_reason(request.reason, violations)
        if request.afterwards not in _AFTERWARDS:
            violations.add("afterwards", "must be REKEY or DISABLE", reason="AFTERWARDS")
        violations.check()
        placement = call.require_placement()
        asked = Beginning(
            placement=placement,
            actor=call.actor,
            reason=request.reason,
            afterwards=_AFTERWARDS[request.afterwards],
            by_platform=call.principal is None or call.principal.role not in TENANT_BOUND,
        )
        if request.validate_only:
            await self._recoveries.check(call.system(), asked)
            return recoveries_pb2.KeyRecovery()
        return recovery_to_proto(await self._recoveries.begin(call.system(), asked, now=datetime.now(UTC)), placement)

    @override
    async def GetRecovery(
        self, request: recoveries_pb2.GetRecoveryRequest, context: Context
    ) -> recoveries_pb2.KeyRecovery:
        placement = current_call().require_placement()
        found = await self._recoveries.get(current_call().system(), placement, _recovery_id(request.name))
        return recovery_to_proto(found, placement)

    @override
    async def ApproveRecovery(
        self, request: recoveries_pb2.ApproveRecoveryRequest, context: Context
    ) -> recoveries_pb2.KeyRecovery:
        call, now = current_call(), datetime.now(UTC)
        placement = call.require_placement()
        given = HandIn(
            placement=placement,
            recovery_id=_recovery_id(request.name),
            approval=Approval(recipient=request.recipient, sealed=request.approval, create_time=now),
            actor=call.actor,
            call_request_id=call.request_id,
        )
        found = await self._recoveries.approve(call.system(), given, defer=self._defer, now=now)
        return recovery_to_proto(found, placement)

    @override
    async def CancelRecovery(
        self, request: recoveries_pb2.CancelRecoveryRequest, context: Context
    ) -> recoveries_pb2.KeyRecovery:
        call = current_call()
        placement = call.require_placement()
        found = await self._recoveries.cancel(
            call.system(), placement, _recovery_id(request.name), now=datetime.now(UTC)
        )
        return recovery_to_proto(found, placement)


def _recovery_id(name: str) -> UUID:
    found = uuid_of(names.parse(names.KEY_RECOVERY, name)["recovery"])
    if found is None:
        raise NotFoundError(name)
    return found


def _terms(request: escrows_pb2.EnableEscrowRequest) -> Terms:
    violations = Violations()
    recipients = []
    for index, one in enumerate(request.recipients):
        public = one.public_key
        try:
            public = ceremony.read_public(public)
            hpke.check_public(public)
        except hpke.PublicKeyError as error:
            violations.add(f"recipients[{index}].public_key", str(error), reason="PUBLIC_KEY")
        recipients.append(Recipient(name=one.name, public=public))
    terms = Terms(
        recipients=tuple(recipients), threshold=request.threshold, platform_may_begin=request.platform_may_begin
    )
    terms.check(violations)
    violations.check()
    return terms


def _recipients(terms: Terms) -> list[escrows_pb2.EscrowRecipient]:
    return [
        escrows_pb2.EscrowRecipient(name=one.name, fingerprint=hpke.fingerprint(one.public)) for one in terms.recipients
    ]


def escrow_to_proto(found: Overview) -> escrows_pb2.Escrow:
    """Show an escrow, or that there is none."""
    message = escrows_pb2.Escrow(
        name=found.name,
        state=escrows_pb2.Escrow.OFF if found.escrow is None else escrows_pb2.Escrow.ON,
        key_versions=found.key_versions,
        recovery=f"{found.name.removesuffix('/escrow')}/keyRecoveries/{found.recovery}" if found.recovery else "",
        etag=found.etag,
    )
    if found.escrow is not None:
        escrow = found.escrow
        message.escrow_id = str(escrow.id)
        message.recipients.extend(_recipients(escrow.terms))
        message.threshold = escrow.threshold
        message.platform_may_begin = escrow.platform_may_begin
        message.suite = hpke.SUITE
        message.create_time.FromDatetime(escrow.create_time)
    if found.proposal is not None:
        proposal = found.proposal
        message.proposal.MergeFrom(
            escrows_pb2.EscrowProposal(
                recipients=_recipients(proposal.terms),
                threshold=proposal.terms.threshold,
                platform_may_begin=proposal.terms.platform_may_begin,
                proposer=proposal.proposer,
                digest=proposal.digest,
            )
        )
        message.proposal.create_time.FromDatetime(proposal.create_time)
        message.proposal.expire_time.FromDatetime(proposal.expire_time)
    return message


def recovery_to_proto(shown: Shown, placement: Placement) -> recoveries_pb2.KeyRecovery:
    """Show a recovery; shares only while it has not ended."""
    recovery, escrow = shown.recovery, shown.escrow if shown.public else None
    message = recoveries_pb2.KeyRecovery(
        name=recovery_name(placement, recovery.id),
        state=recoveries_pb2.KeyRecovery.State.Value(recovery.state),
        tenant_uid=str(recovery.tenant_uid),
        escrow_id=str(recovery.escrow_id),
        session_public_key=shown.public,
        session_fingerprint=hpke.fingerprint(shown.public) if shown.public else "",
        threshold=0 if escrow is None else escrow.threshold,
        beginner=recovery.beginner,
        reason=recovery.reason,
        afterwards=recoveries_pb2.KeyRecovery.Afterwards.Value(recovery.afterwards),
        operation=f"operations/{recovery.operation_id}" if recovery.operation_id else "",
    )
    approved = {one.recipient: one.create_time for one in recovery.approvals}
    for share in () if escrow is None else escrow.shares:
        one = message.shares.add(
            recipient=share.recipient, fingerprint=hpke.fingerprint(share.public), sealed_share=share.sealed
        )
        if share.recipient in approved:
            one.approve_time.FromDatetime(approved[share.recipient])
    message.create_time.FromDatetime(recovery.create_time)
    message.expire_time.FromDatetime(recovery.expire_time)
    if recovery.end_time is not None:
        message.end_time.FromDatetime(recovery.end_time)
    return message
