"""Whether a policy lets a key be used. Pure: what the policy says, the use, and the time.

A use is denied unless a rule allows it. Of several rules that match, the strictest counts: one without reason codes
denies, one with dual control wants an approval, and only then one that merely allows does.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final

from control_plane.key_policies.model import ANY_KEY, KeyUse, Rule, Terms


class Verdict(IntEnum):
    """What becomes of a use; the less, the stricter."""

    DENIED = 0
    NEEDS_APPROVAL = 1
    ALLOWED = 2


class Unmatched(StrEnum):
    """What of a use no rule was for. The caller is told this, and nothing else of the rules."""

    KEY = "KEY"
    OPERATION = "OPERATION"
    PRINCIPAL = "PRINCIPAL"
    TIME = "TIME"
    REASON_CODE = "REASON_CODE"
    """Or there was none."""
    FORBIDDEN = "FORBIDDEN"
    """A rule without reason codes denies it."""
    APPROVAL = "APPROVAL"
    """An administrator has looked at it, and said no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, and why where it is no."""

    verdict: Verdict
    unmatched: Unmatched | None = None


_ALLOWED: Final = Decision(verdict=Verdict.ALLOWED)
_NEEDS_APPROVAL: Final = Decision(verdict=Verdict.NEEDS_APPROVAL)
# In this order a rule is compared; what is told is what the rule that came farthest stopped at.
_ORDER: Final = tuple(Unmatched)


def decide(terms: Terms, use: KeyUse, now: datetime) -> Decision:
    """Decide over one use. Costs some microseconds a rule.

    Raises:
        ValueError: the policy says what nobody could have asked for, such as a zone that there is not.
    """
    if not terms.enforced:
        return _ALLOWED
    stopped = [(rule, _stops_at(rule, use, now)) for rule in terms.rules]
    matching = [rule for rule, at in stopped if at is None]
    if any(rule.forbids for rule in matching):
        return Decision(verdict=Verdict.DENIED, unmatched=Unmatched.FORBIDDEN)
    if not matching:
        farthest = max((_ORDER.index(at) for rule, at in stopped if at and not rule.forbids), default=0)
        return Decision(verdict=Verdict.DENIED, unmatched=_ORDER[farthest])
    return _NEEDS_APPROVAL if any(rule.dual_control for rule in matching) else _ALLOWED


def _stops_at(rule: Rule, use: KeyUse, now: datetime) -> Unmatched | None:
    """Say at what the rule stops being about the use; None where it is about it."""
    if ANY_KEY not in rule.keys and use.key not in rule.keys:
        return Unmatched.KEY
    if use.operation not in rule.operations:
        return Unmatched.OPERATION
    if not {use.principal, use.role} & rule.principals:
        return Unmatched.PRINCIPAL
    if rule.windows and not any(window.contains(now) for window in rule.windows):
        return Unmatched.TIME
    if not rule.forbids and use.reason_code not in rule.reason_codes:
        return Unmatched.REASON_CODE
    return None
