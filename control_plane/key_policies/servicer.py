"""KeyPolicyService over gRPC."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from typing_extensions import override

from bulkhead.v1 import key_policies_pb2, key_policies_pb2_grpc, key_use_approvals_pb2
from control_plane.errors import FieldViolation, InvalidArgumentError, NotFoundError, Violations
from control_plane.ids import uuid_of
from control_plane.key_policies import service, store
from control_plane.key_policies.approvals import DEFAULT_LIFETIME, DEFAULT_USES, LONGEST_LIFETIME, Wish, check_consent
from control_plane.key_policies.messages import read_terms, write_approval, write_policy
from control_plane.key_policies.model import UNSET, Terms
from control_plane.key_policies.policy import Policy
from control_plane.serving import names
from control_plane.serving.call import Call, current_call
from control_plane.serving.fields import check_mask
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens

UPDATABLE: Final = ("enforced", "rules", "locked")
_ChangeRequest = key_policies_pb2.UpdateKeyPolicyRequest | key_policies_pb2.ProposeKeyPolicyChangeRequest


class KeyPolicyServicer(key_policies_pb2_grpc.KeyPolicyServiceServicer):
    """See key_policies.proto."""

    def __init__(self, page_tokens: PageTokens) -> None:
        """Page with `page_tokens`."""
        self._page_tokens = page_tokens

    @override
    async def GetKeyPolicy(
        self, request: key_policies_pb2.GetKeyPolicyRequest, context: Context
    ) -> key_policies_pb2.KeyPolicy:
        call = current_call()
        return _shown(await call.tenant().run(store.find_policy), call)

    @override
    async def UpdateKeyPolicy(
        self, request: key_policies_pb2.UpdateKeyPolicyRequest, context: Context
    ) -> key_policies_pb2.KeyPolicy:
        call = current_call()
        policy = await service.update_policy(call.tenant(), _change(request, call), system=call.database.system())
        return _shown(policy, call)

    @override
    async def ProposeKeyPolicyChange(
        self, request: key_policies_pb2.ProposeKeyPolicyChangeRequest, context: Context
    ) -> key_policies_pb2.KeyPolicy:
        call = current_call()
        return _shown(await service.propose_change(call.tenant(), _change(request, call)), call)

    @override
    async def ApproveKeyPolicyChange(
        self, request: key_policies_pb2.ApproveKeyPolicyChangeRequest, context: Context
    ) -> key_policies_pb2.KeyPolicy:
        call = current_call()
        policy = await service.approve_change(
            call.tenant(),
            _proposal_id(request.change),
            principal=call.require_principal(),
            system=call.database.system(),
            now=datetime.now(UTC),
        )
        return _shown(policy, call)

    @override
    async def RejectKeyPolicyChange(
        self, request: key_policies_pb2.RejectKeyPolicyChangeRequest, context: Context
    ) -> key_policies_pb2.KeyPolicy:
        call = current_call()
        proposal_id = _proposal_id(request.change)
        return _shown(await service.reject_change(call.tenant(), proposal_id, now=datetime.now(UTC)), call)

    @override
    async def GetKeyUseApproval(
        self, request: key_use_approvals_pb2.GetKeyUseApprovalRequest, context: Context
    ) -> key_use_approvals_pb2.KeyUseApproval:
        call, approval_id = current_call(), _approval_id(request.name)
        approval = await call.tenant().run(lambda tx: service.existing(tx, approval_id))
        return write_approval(approval, call.tenant_name)

    @override
    async def ListKeyUseApprovals(
        self, request: key_use_approvals_pb2.ListKeyUseApprovalsRequest, context: Context
    ) -> key_use_approvals_pb2.ListKeyUseApprovalsResponse:
        call = current_call()
        page = self._page_tokens.page(request, method=call.method, parent=call.tenant_name, now=datetime.now(UTC))
        found = await call.tenant().run(lambda tx: store.list_approvals(tx, before=page.before, limit=page.limit))
        shown, next_page_token = page.cut(found, lambda approval: approval.id)
        return key_use_approvals_pb2.ListKeyUseApprovalsResponse(
            key_use_approvals=[write_approval(approval, call.tenant_name) for approval in shown],
            next_page_token=next_page_token,
        )

    @override
    async def ApproveKeyUse(
        self, request: key_use_approvals_pb2.ApproveKeyUseRequest, context: Context
    ) -> key_use_approvals_pb2.KeyUseApproval:
        call, approval_id = current_call(), _approval_id(request.name)
        violations = Violations()
        uses = request.uses or DEFAULT_USES
        lifetime = _lifetime(request.ttl) if request.HasField("ttl") else DEFAULT_LIFETIME
        check_consent(uses, lifetime, violations)
        violations.check()
        wish = Wish(uses=uses, lifetime=lifetime, now=datetime.now(UTC))
        approval = await service.approve_use(
            call.tenant(), approval_id, principal=call.require_principal(), wish=wish, etag=request.etag
        )
        return write_approval(approval, call.tenant_name)

    @override
    async def DenyKeyUse(
        self, request: key_use_approvals_pb2.DenyKeyUseRequest, context: Context
    ) -> key_use_approvals_pb2.KeyUseApproval:
        call, approval_id = current_call(), _approval_id(request.name)
        approval = await service.deny_use(
            call.tenant(), approval_id, principal=call.require_principal(), now=datetime.now(UTC), etag=request.etag
        )
        return write_approval(approval, call.tenant_name)


def _change(request: _ChangeRequest, call: Call) -> service.Change:
    """Read a change; raise InvalidArgumentError listing all that is wrong with it, before anything is looked up."""
    asked, violations = request.key_policy, Violations()
    mask = tuple(request.update_mask.paths)
    check_mask(request.update_mask, UPDATABLE, violations)
    read_terms(asked, mask, UNSET, violations=violations)
    violations.check()

    def terms(before: Policy) -> Terms:
        before.check_etag(asked.name, asked.etag)
        return read_terms(asked, mask, before.terms, violations=Violations())

    return service.Change(
        terms=terms, principal=call.require_principal(), now=datetime.now(UTC), validate_only=request.validate_only
    )


def _proposal_id(text: str) -> UUID:
    proposal_id = uuid_of(text)
    if proposal_id is None:
        raise InvalidArgumentError(FieldViolation(field="change", description="must be the id of a proposal"))
    return proposal_id


def _approval_id(name: str) -> UUID:
    approval_id = uuid_of(names.parse(names.KEY_USE_APPROVAL, name)["approval"])
    if approval_id is None:
        raise NotFoundError(name)
    return approval_id


def _lifetime(ttl: Duration) -> timedelta:
    # A Duration holds more than Python's: whatever is far too long is too long by a second.
    longest = LONGEST_LIFETIME + timedelta(seconds=1)
    seconds = max(-1, min(ttl.seconds, longest // timedelta(seconds=1)))
    return timedelta(seconds=seconds, microseconds=ttl.nanos // 1000)


def _shown(policy: Policy, call: Call) -> key_policies_pb2.KeyPolicy:
    return write_policy(policy, call.tenant_name, proposal=policy.waiting(datetime.now(UTC)))
