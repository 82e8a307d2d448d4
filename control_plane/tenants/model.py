"""What a tenant is, and what it may become. Pure."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import EtagMismatchError, PreconditionError, TenantSealedError, Violations
from control_plane.ids import TenantId, tenant_id_violation
from control_plane.keys.algorithms import CertificatePolicy
from control_plane.postgres.placement import DEFAULT_CACHE_BYTES, DEFAULT_POOLING, ConnectionPooling
from control_plane.serving.time_zones import DEFAULT_ZONE
from control_plane.tenants.rates import RateLimit, check_rates
from control_plane.token_keys import TokenAlgorithm


class State(StrEnum):
    """Where a tenant is in its life."""

    PROVISIONING = "PROVISIONING"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    READ_ONLY = "READ_ONLY"
    SEALED = "SEALED"
    # Sealed as well, in every respect: see `control_plane/purges`.
    PENDING_DELETION = "PENDING_DELETION"
    PURGING = "PURGING"
    PURGED = "PURGED"

    @property
    def is_sealed(self) -> bool:
        """Whether nothing of the tenant is opened for anybody."""
        return self in {State.SEALED, *DELETED}


DELETED: Final = frozenset({State.PENDING_DELETION, State.PURGING, State.PURGED})


class Action(Enum):
    """What takes a tenant from one state to another."""

    ACTIVATE = ({State.PROVISIONING}, State.ACTIVE)
    SUSPEND = ({State.ACTIVE, State.READ_ONLY}, State.SUSPENDED)
    REACTIVATE = ({State.SUSPENDED, State.READ_ONLY}, State.ACTIVE)
    RESTRICT = ({State.ACTIVE}, State.READ_ONLY)
    SEAL = ({State.ACTIVE, State.SUSPENDED, State.READ_ONLY}, State.SEALED)
    # To serve it again is a decision of its own: whoever breaks a seal wants to look first.
    UNSEAL = ({State.SEALED}, State.SUSPENDED)
    DELETE = ({State.ACTIVE, State.SUSPENDED, State.READ_ONLY, State.SEALED}, State.PENDING_DELETION)
    # Whoever had it sealed before has not been asked.
    UNDELETE = ({State.PENDING_DELETION}, State.SEALED)
    PURGE = ({State.PENDING_DELETION}, State.PURGING)
    END_PURGE = ({State.PURGING}, State.PURGED)

    def __init__(self, before: AbstractSet[State], after: State) -> None:
        self.before = before
        self.after = after


# What nobody asks for: it begins and ends by itself.
_OF_A_PURGE: Final = frozenset({Action.PURGE, Action.END_PURGE})

PLATFORM_DOMAIN: Final = "csm.example.com"
"""Every tenant has a host name under it; none has one as its own. An edge may be set up for another domain."""

# Requests per minute that the edge admits.
_RATES: Final = {"standard": 600, "business": 3_000, "enterprise": 12_000}
TIERS: Final = tuple(_RATES)
CELLS: Final = ("local",)
STRICT: Final = "STRICT"
ISOLATION_LEVELS: Final = ("POOLED", STRICT)
SHARED_HSM: Final = "SHARED"
DEDICATED_HSM: Final = "DEDICATED"
HSM_TIERS: Final = (SHARED_HSM, DEDICATED_HSM)
CERTIFICATE_POLICY_PATHS: Final = ("certificate_policy.key_algorithms", "certificate_policy.post_quantum")
UPDATABLE: Final = (
    "display_name", "tier", "labels", "admin_email", "requests_per_minute", "domains", "max_policy_age",
    "connection_pooling", "cache_bytes", "rate_limits", "billing_day", "time_zone", "token_algorithm",
    *CERTIFICATE_POLICY_PATHS,
)  # fmt: skip
DEFAULT_POLICY_AGE: Final = timedelta(minutes=15)
SHORTEST_POLICY_AGE: Final = timedelta(seconds=1)
DEFAULT_BILLING_DAY: Final = 1
DEFAULT_CERTIFICATE_POLICY: Final = CertificatePolicy()
LONGEST_POLICY_AGE: Final = timedelta(hours=24)
SHORTEST_WAITING: Final = timedelta(hours=1)
"""How long a deletion can be taken back, at least."""
LONGEST_WAITING: Final = timedelta(days=90)
DEFAULT_WAITING: Final = timedelta(days=30)

_LONGEST_NAME: Final = 200
_LONGEST_REASON: Final = 500
_MOST_LABELS: Final = 64
_LABEL_KEY: Final = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_LONGEST_LABEL_VALUE: Final = 255
# What mail systems agree on, and nothing that a header or a log could misread.
_EMAIL: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+", re.ASCII
)

_MOST_KEPT_CONNECTIONS: Final = 16
_MOST_CONNECTIONS: Final = 200
_LEAST_CACHE_BYTES: Final = 64 << 10
_MOST_CACHE_BYTES: Final = 1 << 30
_HIGHEST_RATE: Final = 1_000_000
_MOST_DOMAINS: Final = 16
_LONGEST_DOMAIN: Final = 253
# The last label begins with a letter, or the name could be read as an address: 192.0.2.1, and 0x7f.1 as well.
_DOMAIN: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RESERVED_DOMAINS: Final = (PLATFORM_DOMAIN, "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the caller decides about a tenant."""

    display_name: str = ""
    tier: str = "standard"
    isolation: str = "POOLED"
    cell: str = "local"
    hsm_tier: str = SHARED_HSM
    labels: Mapping[str, str] = field(default_factory=dict)
    admin_email: str = ""
    requests_per_minute: int = 0
    """0 is what the tier has."""
    domains: tuple[str, ...] = ()
    """Its own host names, beside the one under the platform's domain."""
    max_policy_age: timedelta = DEFAULT_POLICY_AGE
    """For how long the edge serves it without news from the control plane."""
    connection_pooling: ConnectionPooling = DEFAULT_POOLING
    cache_bytes: int = DEFAULT_CACHE_BYTES
    rate_limits: tuple[RateLimit, ...] = ()
    """What its calls may cost, beside how many there may be."""
    billing_day: int = DEFAULT_BILLING_DAY
    """With which its months begin; in a shorter month, the last day."""
    time_zone: str = DEFAULT_ZONE
    """Where its days begin at midnight."""
    certificate_policy: CertificatePolicy = DEFAULT_CERTIFICATE_POLICY
    """What it wants of them."""
    token_algorithm: str = TokenAlgorithm.EDDSA
    """Of the next key for its tokens: when it is made, or rotated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant, as it was at one moment."""

    id: TenantId
    uid: UUID
    state: State
    settings: Settings
    schema: str
    dns_label: str
    revision: int
    create_time: datetime
    update_time: datetime
    suspend_reason: str = ""
    edge_revision: int = 0
    """Of its last change that has an effect at the edge, given by the database; 0 while the edge does not know it."""
    delete_time: datetime | None = None
    """When it was deleted; None unless it is."""
    purge_time: datetime | None = None
    """When it is to be purged, at the earliest."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.id}"

    @property
    def etag(self) -> str:
        """Changes with every change of the tenant (AIP-154)."""
        return hashlib.sha256(f"{self.uid}/{self.revision}".encode()).hexdigest()[:16]

    def check_etag(self, etag: str) -> None:
        """Raise EtagMismatchError when the caller has seen another revision. An empty etag matches all."""
        if etag and etag != self.etag:
            raise EtagMismatchError(f"{self.name} was changed since it was read", etag=self.etag)

    def after(self, action: Action, now: datetime, *, reason: str = "") -> "Tenant":
        """Return the tenant after the action; itself when it is there already.

        Raises:
            PreconditionError: when the action does not begin in this state, naming the actions that do.
        """
        if self.state is action.after:
            return self
        if self.state not in action.before:
            possible = [each for each in Action if self.state in each.before and each not in _OF_A_PURGE]
            allowed = ", ".join(each.name.lower() for each in possible)
            raise PreconditionError(
                self.name,
                f"{self.name} is {self.state}; what can be done is: {allowed}",
                reason="ILLEGAL_TRANSITION",
                state=self.state,
                allowed=allowed,
            )
        after = replace(self, state=action.after, suspend_reason=reason, revision=self.revision + 1, update_time=now)
        return after if action.after in DELETED else replace(after, delete_time=None, purge_time=None)

    def deleted(self, now: datetime, *, reason: str, waiting: timedelta) -> "Tenant":
        """Return the tenant as it is to be purged later; itself when it is to be already. Raises like `after`."""
        after = self.after(Action.DELETE, now, reason=reason)
        return after if after is self else replace(after, delete_time=now, purge_time=now + waiting)

    def purged(self, now: datetime) -> "Tenant":
        """Return what is left of a tenant whose purge is done: nothing that a person has said. Raises like `after`."""
        settings = replace(self.settings, display_name="", admin_email="", labels={}, domains=())
        return replace(self.after(Action.END_PURGE, now), settings=settings)

    def updated(self, settings: Settings, now: datetime) -> "Tenant":
        """Return the tenant with other settings; itself when they are the same. Raises TenantSealedError."""
        if self.state.is_sealed:
            raise TenantSealedError(self.name)
        if settings == self.settings:
            return self
        return replace(self, settings=settings, revision=self.revision + 1, update_time=now)


def check_new(tenant_id: str, settings: Settings, violations: Violations) -> None:
    """Note everything that forbids such a tenant."""
    violations.add("tenant_id", tenant_id_violation(tenant_id), reason="TENANT_ID")
    check_settings(settings, violations, prefix="tenant.")


def check_settings(settings: Settings, violations: Violations, *, prefix: str) -> None:
    """Note everything that is wrong with the settings."""
    violations.add(f"{prefix}display_name", text_violation(settings.display_name, longest=_LONGEST_NAME))
    for name, value, known in (
        ("tier", settings.tier, TIERS),
        ("cell", settings.cell, CELLS),
        ("isolation_level", settings.isolation, ISOLATION_LEVELS),
        ("hsm_tier", settings.hsm_tier, HSM_TIERS),
        ("token_algorithm", settings.token_algorithm, tuple(TokenAlgorithm)),
    ):
        if value not in known:
            violations.add(f"{prefix}{name}", f"must be one of {', '.join(known)}", reason="UNKNOWN")
    if settings.admin_email and not _EMAIL.fullmatch(settings.admin_email):
        violations.add(f"{prefix}admin_email", "must be an e-mail address", reason="EMAIL")
    _check_edge_settings(settings, violations, prefix=prefix)
    _check_shares(settings, violations, prefix=prefix)
    for name, description in settings.certificate_policy.contradictions():
        violations.add(f"{prefix}certificate_policy.{name}", description, reason="CERTIFICATE_POLICY")
    check_labels(settings.labels, violations, prefix=prefix)


def check_labels(labels: Mapping[str, str], violations: Violations, *, prefix: str) -> None:
    """Note everything that is wrong with labels, of whatever they are."""
    if len(labels) > _MOST_LABELS:
        violations.add(f"{prefix}labels", f"must have at most {_MOST_LABELS} entries")
        return
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            violations.add(f"{prefix}labels", "keys must be 1 to 63 characters of a-z, 0-9, _ and -", reason="LABEL")
        violations.add(f"{prefix}labels", text_violation(value, longest=_LONGEST_LABEL_VALUE), reason="LABEL")


def _check_edge_settings(settings: Settings, violations: Violations, *, prefix: str) -> None:
    if not 0 <= settings.requests_per_minute <= _HIGHEST_RATE:
        rates = f"must be 1 to {_HIGHEST_RATE}, or 0 for what the tier has"
        violations.add(f"{prefix}requests_per_minute", rates, reason="RATE")
    if len(settings.domains) > _MOST_DOMAINS:
        violations.add(f"{prefix}domains", f"must be {_MOST_DOMAINS} at most", reason="DOMAIN")
    for index, domain in enumerate(settings.domains[:_MOST_DOMAINS]):
        description = "is there twice" if domain in settings.domains[:index] else domain_violation(domain)
        violations.add(f"{prefix}domains[{index}]", description, reason="DOMAIN")
    check_rates(
        settings.rate_limits,
        billing_day=settings.billing_day,
        zone=settings.time_zone,
        violations=violations,
        prefix=prefix,
    )
    if not SHORTEST_POLICY_AGE <= settings.max_policy_age <= LONGEST_POLICY_AGE:
        violations.add(f"{prefix}max_policy_age", "must be 1 second to 24 hours", reason="POLICY_AGE")


def _check_shares(settings: Settings, violations: Violations, *, prefix: str) -> None:
    lowest, highest = settings.connection_pooling.min_connections, settings.connection_pooling.max_connections
    pooling = f"{prefix}connection_pooling."
    if not 0 <= lowest <= _MOST_KEPT_CONNECTIONS:
        violations.add(f"{pooling}min_connections", f"must be 0 to {_MOST_KEPT_CONNECTIONS}", reason="CONNECTIONS")
    if not 1 <= highest <= _MOST_CONNECTIONS:
        violations.add(f"{pooling}max_connections", f"must be 1 to {_MOST_CONNECTIONS}", reason="CONNECTIONS")
    elif lowest > highest:
        violations.add(f"{pooling}max_connections", "must not be below min_connections", reason="CONNECTIONS")
    if not _LEAST_CACHE_BYTES <= settings.cache_bytes <= _MOST_CACHE_BYTES:
        sizes = f"must be {_LEAST_CACHE_BYTES} to {_MOST_CACHE_BYTES}, or 0 for {DEFAULT_CACHE_BYTES}"
        violations.add(f"{prefix}cache_bytes", sizes, reason="CACHE_BYTES")


def requests_per_minute(tier: str, override: int) -> int:
    """Say how many requests the edge admits in a minute: what the tenant has of its own, or else what its tier has."""
    return override or _RATES[tier]


def domain_violation(domain: str) -> str | None:
    """Say why no tenant can have `domain` as its own host name."""
    if len(domain) > _LONGEST_DOMAIN or not _DOMAIN.fullmatch(domain):
        return "must be a DNS name of two labels at least, in lower case, without a wildcard, a port or a final dot"
    if any(f".{domain}".endswith(f".{reserved}") for reserved in _RESERVED_DOMAINS):
        return "is the platform's own"
    return None


def check_deletion(tenant_id: str, violations: Violations, *, confirmation: str, waiting: timedelta) -> None:
    """Note everything that forbids to delete this tenant in this way."""
    if confirmation != tenant_id:
        violations.add("confirmation", "must be the id of the tenant once more", reason="CONFIRMATION")
    if not SHORTEST_WAITING <= waiting <= LONGEST_WAITING:
        violations.add("waiting_period", "must be 1 hour to 90 days", reason="WAITING_PERIOD")


def given_reason_violation(reason: str) -> str | None:
    """Say why `reason` cannot be kept where one has to be given."""
    return reason_violation(reason) if reason.strip() else "must say why"


def reason_violation(reason: str) -> str | None:
    """Say why `reason` cannot be kept."""
    return text_violation(reason, longest=_LONGEST_REASON)


def text_violation(text: str, *, longest: int) -> str | None:
    """Say why `text` cannot be shown to people.

    Control, format and surrogate characters are refused: they would turn a name's direction, hide parts of it, or
    break a line of a log.
    """
    if len(text) > longest:
        return f"must have at most {longest} characters"
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in text):
        return "must not contain control or formatting characters"
    return None
