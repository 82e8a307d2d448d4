"""Key policies and approvals as protobuf says them."""

import json
from collections.abc import Sequence
from typing import Final, Protocol

from bulkhead.v1 import key_policies_pb2, key_use_approvals_pb2, key_uses_pb2
from control_plane.errors import Violations
from control_plane.ids import uuid_of
from control_plane.key_policies.approvals import Approval
from control_plane.key_policies.compare import loosenings
from control_plane.key_policies.model import Day, KeyUse, Operation, ReasonCode, Rule, Terms, Window
from control_plane.key_policies.policy import Policy, Proposal
from control_plane.key_policies.written import write_rules
from control_plane.serving.call import Call

# Each change has all of it in its audit entry.
_MOST_BYTES: Final = 32_768
_Use = key_uses_pb2.KeyUse
_Policy = key_policies_pb2.KeyPolicy
# By number, without the one that stands for nothing.
_OPERATIONS: Final = {number: Operation(name) for name, number in _Use.Operation.items() if number}
_REASON_CODES: Final = {number: ReasonCode(name) for name, number in _Use.ReasonCode.items() if number}
_DAYS: Final = {number: Day(name) for name, number in _Policy.TimeWindow.Day.items() if number}


class Asked(Protocol):
    """What every request has that uses a key."""

    @property
    def reason(self) -> str:
        """Why, in words."""

    @property
    def reason_code(self) -> key_uses_pb2.KeyUse.ReasonCode.ValueType:
        """Why, as a code."""


def read_use(request: Asked, key: str, operation: Operation, *, call: Call, violations: Violations) -> KeyUse:
    """Read for what a request wants to use a key, and note a reason code that there is not."""
    if request.reason_code not in _Use.ReasonCode.values():
        violations.add("reason_code", "is no reason code", reason="REASON_CODE")
    code = _REASON_CODES.get(request.reason_code)
    return KeyUse(
        key=key,
        operation=operation,
        principal=call.actor,
        reason_code=code,
        reason=request.reason,
        token_id=uuid_of(call.principal.token_id or "") if call.principal else None,
    )


def read_terms(
    message: key_policies_pb2.KeyPolicy, mask: Sequence[str], before: Terms, *, violations: Violations
) -> Terms:
    """Return the terms of before, with the fields of the mask from the message; note what is wrong with those."""
    rules = tuple(_read_rule(rule, f"key_policy.rules[{n}]", violations) for n, rule in enumerate(message.rules))
    asked = Terms(enforced=message.enforced, rules=rules, locked=message.locked)
    asked.check(violations, prefix="key_policy.")
    if len(json.dumps(write_rules(rules))) > _MOST_BYTES:
        violations.add("key_policy.rules", f"must be {_MOST_BYTES} bytes at most as JSON", reason="SIZE")
    return Terms(
        enforced=(asked if "enforced" in mask else before).enforced,
        rules=(asked if "rules" in mask else before).rules,
        locked=(asked if "locked" in mask else before).locked,
    )


def write_policy(policy: Policy, parent: str, *, proposal: Proposal | None) -> key_policies_pb2.KeyPolicy:
    """Show the policy of the tenant named `parent`, and the proposal that waits."""
    message = _Policy(
        name=f"{parent}/keyPolicy",
        enforced=policy.terms.enforced,
        rules=[_write_rule(rule) for rule in policy.terms.rules],
        locked=policy.terms.locked,
        etag=policy.etag,
    )
    if policy.update_time is not None:
        message.update_time.FromDatetime(policy.update_time)
    if proposal is not None:
        message.proposal.CopyFrom(
            _Policy.Proposal(
                id=str(proposal.id),
                proposer=proposal.proposer,
                enforced=proposal.terms.enforced,
                rules=[_write_rule(rule) for rule in proposal.terms.rules],
                locked=proposal.terms.locked,
                loosenings=loosenings(policy.terms, proposal.terms),
            )
        )
        message.proposal.create_time.FromDatetime(proposal.create_time)
        message.proposal.expire_time.FromDatetime(proposal.expire_time)
    return message


def write_approval(approval: Approval, parent: str) -> key_use_approvals_pb2.KeyUseApproval:
    """Show an approval of the tenant named `parent`."""
    message = key_use_approvals_pb2.KeyUseApproval(
        name=f"{parent}/keyUseApprovals/{approval.id}",
        use=_Use(
            principal=approval.principal,
            key=approval.key,
            operation=_Use.Operation.Value(approval.operation),
            reason_code=_Use.ReasonCode.Value(approval.reason_code or "REASON_CODE_UNSPECIFIED"),
        ),
        reason=approval.reason,
        state=key_use_approvals_pb2.KeyUseApproval.State.Value(approval.state),
        uses_left=approval.uses_left,
        decider=approval.decider,
        etag=approval.etag,
    )
    message.create_time.FromDatetime(approval.create_time)
    message.expire_time.FromDatetime(approval.expire_time)
    if approval.decide_time is not None:
        message.decide_time.FromDatetime(approval.decide_time)
    return message


def _read_rule(message: key_policies_pb2.KeyPolicy.Rule, path: str, violations: Violations) -> Rule:
    operations = [_OPERATIONS.get(number) for number in message.operations]
    if None in operations:
        violations.add(f"{path}.operations", "must name operations that there are", reason="OPERATION")
    codes = [_REASON_CODES.get(number) for number in message.reason_codes]
    if None in codes:
        # Left out, it would turn the rule into one that forbids, or allow less than it says.
        violations.add(f"{path}.reason_codes", "must name codes that there are", reason="REASON_CODE")
    return Rule(
        keys=frozenset(message.keys),
        operations=frozenset(operation for operation in operations if operation),
        principals=frozenset(message.principals),
        reason_codes=frozenset(code for code in codes if code),
        windows=tuple(
            _read_window(window, f"{path}.time_windows[{n}]", violations)
            for n, window in enumerate(message.time_windows)
        ),
        dual_control=message.dual_control,
    )


def _read_window(message: key_policies_pb2.KeyPolicy.TimeWindow, path: str, violations: Violations) -> Window:
    if not set(message.days) <= _DAYS.keys():
        violations.add(f"{path}.days", "must name days that there are", reason="TIME_WINDOW")
    return Window(
        days=frozenset(_DAYS[number] for number in message.days if number in _DAYS),
        start=message.start or "00:00",
        end=message.end or "24:00",
        zone=message.time_zone or "UTC",
    )


def _write_rule(rule: Rule) -> key_policies_pb2.KeyPolicy.Rule:
    return _Policy.Rule(
        keys=sorted(rule.keys),
        operations=sorted(_Use.Operation.Value(operation) for operation in rule.operations),
        principals=sorted(rule.principals),
        reason_codes=sorted(_Use.ReasonCode.Value(code) for code in rule.reason_codes),
        time_windows=[
            _Policy.TimeWindow(
                days=sorted(_Policy.TimeWindow.Day.Value(day) for day in window.days),
                start=window.start,
                end=window.end,
                time_zone=window.zone,
            )
            for window in rule.windows
        ],
        dual_control=rule.dual_control,
    )
