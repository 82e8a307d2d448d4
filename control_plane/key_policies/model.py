"""What a policy says, who uses a key for what, and what is wrong with either. Pure."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import Violations
from control_plane.serving.time_zones import UnknownTimeZoneError, time_zone
from control_plane.tokens.model import subject_violation

ANY_KEY: Final = "*"
MOST_RULES: Final = 50
MOST_OF_A_RULE: Final = 32
"""Keys, principals or windows."""

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_END_OF_DAY: Final = "24:00"
_MINUTES: Final = 24 * 60
# Who can use a key at all; nobody else's call gets so far.
ROLES: Final = frozenset({"tenant-admin", "tenant-member", "service"})


class Operation(StrEnum):
    """What a key is used for; `KeyUse.Operation` in key_uses.proto."""

    GENERATE_DATA_KEY = "GENERATE_DATA_KEY"
    ENCRYPT = "ENCRYPT"
    DECRYPT = "DECRYPT"
    REWRAP = "REWRAP"
    SIGN = "SIGN"
    VERIFY = "VERIFY"
    READ_SECRET = "READ_SECRET"  # noqa: S105 the name of an operation


class ReasonCode(StrEnum):
    """Why a key is used; `KeyUse.ReasonCode` in key_uses.proto."""

    CUSTOMER_INITIATED = "CUSTOMER_INITIATED"
    SERVICE_OPERATION = "SERVICE_OPERATION"
    SUPPORT = "SUPPORT"
    INCIDENT_RESPONSE = "INCIDENT_RESPONSE"
    SECURITY_REVIEW = "SECURITY_REVIEW"
    LEGAL_DEMAND = "LEGAL_DEMAND"
    BACKUP = "BACKUP"
    MIGRATION = "MIGRATION"
    BREAK_GLASS = "BREAK_GLASS"


class Day(StrEnum):
    """A day of the week, in the order in which Python counts them."""

    MONDAY = "MONDAY"
    TUESDAY = "TUESDAY"
    WEDNESDAY = "WEDNESDAY"
    THURSDAY = "THURSDAY"
    FRIDAY = "FRIDAY"
    SATURDAY = "SATURDAY"
    SUNDAY = "SUNDAY"


_DAYS: Final = tuple(Day)
EVERY_DAY: Final = frozenset(Day)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of some days, by the clocks of a place: from `start` on, and before `end`. It does not pass midnight."""

    days: frozenset[Day] = frozenset()
    """Empty is every day."""
    start: str = "00:00"
    end: str = _END_OF_DAY
    zone: str = "UTC"

    @property
    def minutes(self) -> range:
        """The minutes of the day that it takes in. Raises ValueError for what `violation` objects to."""
        return range(_minute(self.start), _minute(self.end))

    def contains(self, now: datetime) -> bool:
        """Say whether it is then, there. An hour that comes twice counts twice, one that is skipped never is.

        Raises:
            ValueError: no such time or zone, which `violation` would have said.
        """
        there = now.astimezone(time_zone(self.zone))
        return _DAYS[there.weekday()] in (self.days or EVERY_DAY) and there.hour * 60 + there.minute in self.minutes

    def violation(self) -> str | None:
        """Say why there is no such window."""
        try:
            time_zone(self.zone)
            is_empty = not self.minutes
        except UnknownTimeZoneError as error:
            return f"its time_zone {error}"
        except ValueError:
            return "its start and end must be like 08:30, and the end of a day is 24:00"
        return "its end must be after its start; two windows pass midnight" if is_empty else None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """One use of a key, as whoever asks for it says it."""

    key: str
    """`services` of `tenants/…/keys/services`."""
    operation: Operation
    principal: str
    """As the audit log names it: `tenant-member:alice`."""
    reason_code: ReasonCode | None = None
    reason: str = ""
    """In words; nothing is decided by it."""
    token_id: UUID | None = None
    """Of the token that the principal shows; nothing is decided by it but who may consent."""

    @property
    def role(self) -> str:
        """What the principal is. No role has a colon."""
        return self.principal.partition(":")[0]

    @property
    def person(self) -> str:
        """On whose behalf it is: for a service, the one whom it acts for."""
        return person_of(self.principal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What some may use some keys for. Without reason codes it forbids, whatever other rules allow."""

    keys: frozenset[str]
    operations: frozenset[Operation]
    principals: frozenset[str]
    reason_codes: frozenset[ReasonCode] = frozenset()
    windows: tuple[Window, ...] = ()
    """None is always."""
    dual_control: bool = False
    """Whether an administrator has to approve each use."""

    @property
    def forbids(self) -> bool:
        """Whether it is there to forbid."""
        return not self.reason_codes

    def check(self, path: str, violations: Violations) -> None:
        """Note everything that is wrong with it."""
        _check_set(f"{path}.keys", self.keys, violations, violation=_key_violation)
        _check_set(f"{path}.principals", self.principals, violations, violation=principal_violation)
        if not self.operations:
            violations.add(f"{path}.operations", "must name at least one", reason="KEY_POLICY_RULE")
        if len(self.windows) > MOST_OF_A_RULE:
            violations.add(f"{path}.time_windows", f"must be {MOST_OF_A_RULE} at most", reason="KEY_POLICY_RULE")
        for number, window in enumerate(self.windows[:MOST_OF_A_RULE]):
            violations.add(f"{path}.time_windows[{number}]", window.violation(), reason="TIME_WINDOW")
        if self.dual_control and self.forbids:
            text = "is of no use without reason_codes: such a rule denies all that it matches"
            violations.add(f"{path}.dual_control", text, reason="KEY_POLICY_RULE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a policy says: all of it that can be asked for."""

    enforced: bool = False
    """While it is not, uses are not looked at: so it is for whoever has never set a policy."""
    rules: tuple[Rule, ...] = ()
    locked: bool = False

    def check(self, violations: Violations, *, prefix: str) -> None:
        """Note everything that is wrong with them."""
        if len(self.rules) > MOST_RULES:
            violations.add(f"{prefix}rules", f"must be {MOST_RULES} at most", reason="KEY_POLICY_RULE")
        for number, rule in enumerate(self.rules[:MOST_RULES]):
            rule.check(f"{prefix}rules[{number}]", violations)


UNSET: Final = Terms()


def person_of(principal: str) -> str:
    """Say who stands behind a principal, whichever role or credential it comes with.

    A service comes as `service:NAME/SUBJECT`, on behalf of the subject.
    """
    role, _, subject = principal.partition(":")
    return subject.partition("/")[2] if role == "service" else subject


def principal_violation(text: str) -> str | None:
    """Say why this names no principal: it is a role, or a role and a subject as the audit log writes them."""
    role, colon, subject = text.partition(":")
    if role not in ROLES:
        return f"must be a role, or ROLE:SUBJECT, where the role is {', '.join(sorted(ROLES))}"
    if not colon:
        return None
    name, slash, of_service = subject.partition("/")
    if role == "service" and not (name and slash):
        return "must be like service:NAME/SUBJECT"
    # What nobody can be called would forbid nobody, unseen.
    violation = subject_violation(of_service if role == "service" else subject)
    return None if violation is None else f"has a subject that {violation}"


def _key_violation(text: str) -> str | None:
    if text == ANY_KEY or _KEY.fullmatch(text):
        return None
    return f"must be {ANY_KEY}, or a key's id: 1 to 63 characters of a-z, 0-9 and -"


def _check_set(
    path: str, texts: Collection[str], violations: Violations, *, violation: Callable[[str], str | None]
) -> None:
    if not 0 < len(texts) <= MOST_OF_A_RULE:
        violations.add(path, f"must be 1 to {MOST_OF_A_RULE}", reason="KEY_POLICY_RULE")
        return
    for text in sorted(texts):
        said = violation(text)
        violations.add(path, None if said is None else f"{text[:80]!r} {said}", reason="KEY_POLICY_RULE")


def _minute(text: str) -> int:
    if text == _END_OF_DAY:
        return _MINUTES
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * 60 + int(found[2])
