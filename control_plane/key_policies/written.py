"""How a policy and a proposal are written into their rows: JSON that says the same for the same. Pure.

What cannot be read is no policy: whoever reads it gets ValueError or KeyError, and must not go on without.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from control_plane.key_policies.model import Day, Operation, ReasonCode, Rule, Terms, Window
from control_plane.key_policies.policy import Proposal


def write_rules(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Write rules, in their order."""
    return [
        {
            "keys": sorted(rule.keys),
            "operations": sorted(rule.operations),
            "principals": sorted(rule.principals),
            "reason_codes": sorted(rule.reason_codes),
            "windows": [
                {"days": sorted(window.days), "start": window.start, "end": window.end, "zone": window.zone}
                for window in rule.windows
            ],
            "dual_control": rule.dual_control,
        }
        for rule in rules
    ]


def read_rules(raw: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Read what `write_rules` has written."""
    return tuple(
        Rule(
            keys=frozenset(rule["keys"]),
            operations=frozenset(Operation(name) for name in rule["operations"]),
            principals=frozenset(rule["principals"]),
            reason_codes=frozenset(ReasonCode(name) for name in rule["reason_codes"]),
            windows=tuple(_window(window) for window in rule["windows"]),
            dual_control=bool(rule["dual_control"]),
        )
        for rule in raw
    )


def write_proposal(proposal: Proposal) -> dict[str, Any]:
    """Write a proposal."""
    return {
        "id": str(proposal.id),
        "enforced": proposal.terms.enforced,
        "rules": write_rules(proposal.terms.rules),
        "locked": proposal.terms.locked,
        "proposer": proposal.proposer,
        "behind": sorted(proposal.behind),
        "create_time": proposal.create_time.isoformat(),
        "expire_time": proposal.expire_time.isoformat(),
    }


def read_proposal(raw: Mapping[str, Any]) -> Proposal:
    """Read what `write_proposal` has written."""
    return Proposal(
        id=UUID(raw["id"]),
        terms=Terms(enforced=bool(raw["enforced"]), rules=read_rules(raw["rules"]), locked=bool(raw["locked"])),
        proposer=str(raw["proposer"]),
        behind=frozenset(raw["behind"]),
        create_time=datetime.fromisoformat(raw["create_time"]),
        expire_time=datetime.fromisoformat(raw["expire_time"]),
    )


def _window(raw: Mapping[str, Any]) -> Window:
    days = frozenset(Day(name) for name in raw["days"])
    return Window(days=days, start=raw["start"], end=raw["end"], zone=raw["zone"])
