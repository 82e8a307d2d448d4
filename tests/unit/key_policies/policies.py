"""Policies, uses and moments as hypothesis draws them: few of each kind, so that they meet."""

from datetime import UTC, datetime, timedelta
from typing import Final

from hypothesis import strategies as st

from control_plane.key_policies.model import Day, KeyUse, Operation, ReasonCode, Rule, Terms, Window

OPERATIONS: Final = (Operation.ENCRYPT, Operation.DECRYPT, Operation.READ_SECRET)
CODES: Final = (ReasonCode.CUSTOMER_INITIATED, ReasonCode.BACKUP)
KEYS: Final = ("services", "storage")
PEOPLE: Final = ("tenant-member:alice", "tenant-member:bob", "service:crm/alice", "tenant-admin:carol")
# A day on which the clocks of Berlin go back, and one on which they do not.
_FIRST: Final = datetime(2026, 10, 24, tzinfo=UTC)

moments = st.integers(0, 2 * 24 * 60).map(lambda minutes: _FIRST + timedelta(minutes=minutes))
windows = st.builds(
    Window,
    days=st.frozensets(st.sampled_from([Day.SATURDAY, Day.SUNDAY])),
    start=st.sampled_from(["00:00", "02:30", "08:00"]),
    end=st.sampled_from(["09:00", "17:30", "24:00"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin"]),
)
rules = st.builds(
    Rule,
    keys=st.frozensets(st.sampled_from([*KEYS, "*"]), min_size=1),
    operations=st.frozensets(st.sampled_from(OPERATIONS), min_size=1),
    principals=st.frozensets(st.sampled_from([*PEOPLE, "tenant-member", "service"]), min_size=1),
    reason_codes=st.frozensets(st.sampled_from(CODES)),
    windows=st.lists(windows, max_size=2).map(tuple),
    dual_control=st.booleans(),
)
terms = st.builds(
    Terms,
    enforced=st.integers(0, 9).map(bool),
    rules=st.lists(rules, max_size=4).map(tuple),
    locked=st.booleans(),
)
uses = st.builds(
    KeyUse,
    key=st.sampled_from(KEYS),
    operation=st.sampled_from(OPERATIONS),
    principal=st.sampled_from(PEOPLE),
    reason_code=st.sampled_from([None, *CODES]),
)


@st.composite
def likely_tighter(draw: st.DrawFn, before: Terms) -> Terms:
    """Draw a policy that is made of `before`: most changes of it are tighter, and some are not."""
    changed = [draw(_changed(rule)) for rule in before.rules if draw(st.integers(0, 4))]
    more = draw(st.lists(rules, max_size=1))
    return Terms(
        enforced=before.enforced or draw(st.booleans()),
        rules=(*changed, *more),
        locked=before.locked or draw(st.booleans()),
    )


@st.composite
def _changed(draw: st.DrawFn, rule: Rule) -> Rule:
    def fewer(values: frozenset[str], more: str) -> frozenset[str]:
        kept = frozenset(value for value in sorted(values) if draw(st.integers(0, 4)))
        return (kept or values) | (frozenset({more}) if draw(st.integers(0, 9)) == 0 else frozenset())

    other = draw(rules)
    return Rule(
        keys=fewer(rule.keys, "*"),
        operations=other.operations if draw(st.integers(0, 9)) == 0 else rule.operations,
        principals=fewer(rule.principals, "tenant-member"),
        reason_codes=draw(st.sampled_from([rule.reason_codes, other.reason_codes & rule.reason_codes])),
        windows=draw(st.sampled_from([rule.windows, other.windows])),
        dual_control=draw(st.booleans()),
    )
