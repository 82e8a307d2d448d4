"""The policies of all tenants at one revision. Pure: a change makes a new index; whoever holds one sees no other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, TypeVar
from uuid import UUID

from control_plane.serving.time_zones import DEFAULT_ZONE
from control_plane.token_keys import TokenPublicKey
from ext_authz.policies.pieces import Draft, Pieces

Key = TypeVar("Key")


class State(StrEnum):
    """Whether a tenant's requests are served."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


class Period(StrEnum):
    """How long a window is, from the shortest on. Days and months are the tenant's own."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How many units are admitted in each window of a period. What a request costs is a part of its RPC's rule."""

    period: Period
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """What is enforced for one tenant."""

    tenant_id: str
    uid: UUID
    # The epoch of its routes.
    revision: int
    state: State
    tier: str
    isolation_level: str
    dns_label: str
    # In lower case.
    domains: tuple[str, ...]
    requests_per_minute: int
    # By the `kid` of the tokens that they verify.
    token_keys: Mapping[UUID, TokenPublicKey] = field(repr=False)
    # For how long it is served without news.
    max_age: timedelta
    # At most one for each period, beside the requests of a minute.
    rate_limits: tuple[RateLimit, ...] = ()
    # On which its months begin; in a month that is shorter, on its last day.
    billing_day: int = 1
    # Where it is midnight when its days begin; the name of one that there is.
    time_zone: str = DEFAULT_ZONE

    def hosts(self, domain: str) -> tuple[str, ...]:
        """Its own host names under the platform's `domain` and elsewhere, in lower case."""
        return (f"{self.dns_label}.{domain}", *self.domains)


class TenantToken(NamedTuple):
    """A token as its tenant has it. Ids are told by tenants' databases: one must not speak for another's tokens."""

    tenant_uid: UUID
    # Its `jti`.
    token_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What leads from one index to the next, or to the first."""

    feed: str
    revision: int
    # Whether what was there before is forgotten.
    snapshot: bool
    tenants: tuple[TenantPolicy, ...]
    # When each revoked token expires by itself.
    revocations: Mapping[TenantToken, datetime]
    as_of: datetime
    # Those that are no more; forgotten before the others are taken.
    purged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """All policies. Never changed: `after` makes another one, at a cost by what is changed and not by what there is."""

    domain: str
    feed: str = ""
    revision: int = 0
    # When the control plane last vouched that there was nothing newer; None before the first news.
    as_of: datetime | None = None
    by_id: Pieces[str, TenantPolicy] = field(default_factory=Pieces, repr=False)
    by_host: Pieces[str, TenantPolicy] = field(default_factory=Pieces, repr=False)
    by_kid: Pieces[UUID, TenantPolicy] = field(default_factory=Pieces, repr=False)
    revoked: Pieces[TenantToken, datetime] = field(default_factory=Pieces, repr=False)

    def after(self, change: Change) -> "Index":
        """Return the index with the change applied.

        Revocations that have expired by themselves are dropped as others come.
        """
        if not (change.snapshot or change.tenants or change.purged or change.revocations):
            return replace(self, feed=change.feed, revision=change.revision, as_of=change.as_of)
        before = Index(domain=self.domain) if change.snapshot else self
        by_id, by_host, by_kid = before.by_id.draft(), before.by_host.draft(), before.by_kid.draft()
        # One after the other: a change may hold a tenant twice, and a host may have moved between two of its tenants.

        def forget(tenant_id: str) -> bool:
            gone = by_id.get(tenant_id)
            if gone is not None:
                _remove(gone, gone.hosts(self.domain), by_host)
                _remove(gone, gone.token_keys, by_kid)
            return gone is not None

        for tenant_id in change.purged:
            if forget(tenant_id):
                by_id.drop(tenant_id)
        for policy in change.tenants:
            forget(policy.tenant_id)
            by_id.put(policy.tenant_id, policy)
            _put(policy, policy.hosts(self.domain), by_host)
            _put(policy, policy.token_keys, by_kid)
        revoked = before.revoked.draft(keep=lambda until: until > change.as_of)
        for token, until in change.revocations.items():
            revoked.put(token, until)
        return Index(
            domain=self.domain,
            feed=change.feed,
            revision=change.revision,
            as_of=change.as_of,
            by_id=by_id.done(),
            by_host=by_host.done(),
            by_kid=by_kid.done(),
            revoked=revoked.done(),
        )

    def refusal(self, change: Change) -> str | None:
        """Say why the change must not be applied, or return None where it may: no history is ever walked backwards."""
        if not change.feed:
            return "it belongs to no feed"
        if change.feed != self.feed:
            return None if change.snapshot else "it continues a feed that is not held"
        if change.revision < self.revision:
            return f"it goes back from revision {self.revision} to {change.revision}"
        return None


def _put(policy: TenantPolicy, keys: Iterable[Key], index: Draft[Key, TenantPolicy]) -> None:
    for key in keys:
        index.put(key, policy)


def _remove(policy: TenantPolicy, keys: Iterable[Key], index: Draft[Key, TenantPolicy]) -> None:
    """Drop the keys that still lead to this policy: one that moved may lead to its new tenant already."""
    for key in keys:
        if index.get(key) is policy:
            index.drop(key)
