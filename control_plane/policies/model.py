"""What edges are told, and what they tell. Pure."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.serving.time_zones import DEFAULT_ZONE
from control_plane.tally import Tally
from control_plane.tenants.model import DEFAULT_BILLING_DAY
from control_plane.tenants.rates import RateLimit

_TAIL_BITS: Final = 80
_VERSION_AND_VARIANT: Final = (0b0111 << 76) | (0b10 << 62)
_FREE_BITS: Final = ((1 << 76) - 1) ^ (0b11 << 62)
_MILLISECONDS: Final = (1 << 48) - 1
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """What is enforced for one tenant."""

    tenant_id: str
    uid: UUID
    revision: int
    state: str
    tier: str
    isolation_level: str
    dns_label: str
    domains: tuple[str, ...]
    requests_per_minute: int
    # Public keys, by the `kid` of the tokens that they verify.
    token_keys: Mapping[UUID, bytes] = field(repr=False)
    max_policy_age: timedelta
    rate_limits: tuple[RateLimit, ...] = ()
    billing_day: int = DEFAULT_BILLING_DAY
    time_zone: str = DEFAULT_ZONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A token that is refused although it has not expired."""

    token_id: UUID
    tenant_uid: UUID
    expire_time: datetime
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """A tenant that is no more."""

    tenant_id: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A moment in a feed's history."""

    feed: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What leads from an earlier position to `head`, or to it from nothing."""

    head: Position
    # Whether it is everything, and what was known before is to be forgotten.
    is_snapshot: bool
    policies: Sequence[TenantPolicy]
    revocations: Sequence[Revocation]
    # When there was nothing newer.
    as_of: datetime
    # Tenants that are no more; none in a snapshot.
    purged: Sequence[Purged] = ()

    @property
    def is_empty(self) -> bool:
        """Say whether it tells the time and nothing else."""
        return not (self.is_snapshot or self.policies or self.purged or self.revocations)

    def beyond(self, revision: int, *, not_before: datetime) -> "Changes":
        """Leave out what whoever is at `revision` has, and was told `not_before`."""
        return replace(
            self,
            policies=[policy for policy in self.policies if policy.revision > revision],
            purged=[tenant for tenant in self.purged if tenant.revision > revision],
            revocations=[revocation for revocation in self.revocations if revocation.revision > revision],
            as_of=max(self.as_of, not_before),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """An edge, as it was last heard of."""

    name: str
    position: Position
    is_live: bool
    last_seen: datetime
    # As the servicer wrote them.
    proxies: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far all edges are, at one moment."""

    head: Position
    edges: Sequence[Edge]

    @property
    def live_edges(self) -> int:
        """Count those that are waited for."""
        return sum(edge.is_live for edge in self.edges)

    def applied(self, edge: Edge) -> int:
        """Return the revision that the edge has applied; 0 where it follows another history."""
        return edge.position.revision if edge.position.feed == self.head.feed else 0

    def lagging(self, revision: int, *, expected: Collection[str] = ()) -> list[str]:
        """Name the edges that have not applied the revision: of those that are live, and of those that are expected."""
        waited_for = (edge for edge in self.edges if edge.is_live or edge.name in expected)
        return [edge.name for edge in waited_for if self.applied(edge) < revision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a tenant has used in one minute, by one method."""

    tenant_uid: UUID
    method: str
    minute: datetime
    admitted: int
    limited: int
    cost: int
    # Of those admitted, how many no Check was made for.
    leased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How often a credential was let through in one minute, for RPCs of one class."""

    tenant_uid: UUID
    # Zero: all that are not told apart.
    credential: UUID
    lease_class: str
    minute: datetime
    admitted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a reporter counted since its report before. Reporters send one after the other, each until it is taken."""

    reporter: UUID
    sequence: int
    # By ids that are the same when the report comes again.
    denials: Mapping[UUID, Tally]
    usage: Sequence[Usage]
    accesses: Sequence[Access] = ()


def denial_id(reporter: UUID, sequence: int, index: int, *, moment: datetime) -> UUID:
    """Give an id to a report's denial: the same each time, and in the order of time as all ids of an audit log."""
    digest = hashlib.sha256(f"{reporter}/{sequence}/{index}".encode()).digest()
    tail = int.from_bytes(digest[: _TAIL_BITS // 8], "big") & _FREE_BITS
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1) & _MILLISECONDS
    return UUID(int=milliseconds << _TAIL_BITS | _VERSION_AND_VARIANT | tail)
