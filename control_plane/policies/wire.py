"""Policies, edges and reports as messages. What comes from an edge is checked whole, and its texts made harmless."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from bulkhead.edge.v1 import policies_pb2
from bulkhead.v1 import edges_pb2
from control_plane.audit.model import neutral
from control_plane.errors import Violations
from control_plane.ids import TenantId
from control_plane.policies.model import (
    Access,
    Changes,
    Edge,
    Position,
    Report,
    Revocation,
    Standing,
    TenantPolicy,
    Usage,
    denial_id,
)
from control_plane.policies.traffic import WINDOW, Present, Requests
from control_plane.tally import Kind, Tally

# Of one message. Tenants with the longest of everything still fit into the 4 MiB that receivers take by default.
_TENANTS: Final = 500
_REVOCATIONS: Final = 5_000
_MOST_DENIALS: Final = 2_000
_MOST_USAGES: Final = 20_000
_MOST_PROXIES: Final = 100
_MOST_TYPES: Final = 32
# So that no sum of them is too large for the database.
_LARGEST_COUNT: Final = 10**12
_LONGEST_TEXT: Final = 300
_LONGEST_FEED: Final = 64
# The end of the year 9999, which is as far as a message and the database agree.
_LAST_SECOND: Final = 253_402_300_799
# What an edge is told, where it knows no such state. Whether a call would change anything, the services know; and a
# sealed tenant is shut out as a suspended one is.
_EDGE_STATES: Final = {"READ_ONLY": "ACTIVE", "SEALED": "SUSPENDED"}
_NANOS: Final = 1_000_000_000
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)

Entry = TypeVar("Entry")


def to_responses(changes: Changes) -> Iterator[policies_pb2.FollowPoliciesResponse]:
    """Cut the changes into messages; all but the last say that they go on."""
    tenants = list(_cut(changes.policies, _TENANTS))
    revocations = list(_cut(changes.revocations, _REVOCATIONS))
    last = max(len(tenants), len(revocations), 1)
    for number in range(1, last + 1):
        message = policies_pb2.FollowPoliciesResponse(
            feed=changes.head.feed,
            revision=changes.head.revision,
            snapshot=changes.is_snapshot and number == 1,
            continues=number < last,
            tenants=[_policy(policy) for part in tenants[number - 1 : number] for policy in part],
            purged_tenants=[tenant.tenant_id for tenant in changes.purged] if number == 1 else (),
            revocations=[_revocation(revoked) for part in revocations[number - 1 : number] for revoked in part],
        )
        message.as_of_time.FromDatetime(changes.as_of)
        yield message


def position_of(request: policies_pb2.FollowPoliciesRequest | policies_pb2.AcknowledgePoliciesRequest) -> Position:
    """Read where an edge is.

    Raises:
        InvalidArgumentError: that is nowhere.
    """
    violations = Violations()
    if len(request.feed) > _LONGEST_FEED or not request.feed.isascii() or "\0" in request.feed:
        violations.add("feed", "is none that this server has named")
    if request.revision < 0:
        violations.add("revision", "must not be negative")
    violations.check()
    return Position(feed=request.feed, revision=request.revision)


def proxies_of(request: policies_pb2.AcknowledgePoliciesRequest) -> bytes:
    """Read how an edge's proxies are, as the store keeps it.

    Raises:
        InvalidArgumentError: there are too many to keep.
    """
    violations = Violations()
    if len(request.proxies) > _MOST_PROXIES:
        violations.add("proxies", f"must have at most {_MOST_PROXIES} entries")
    if any(len(proxy.types) > _MOST_TYPES for proxy in request.proxies):
        violations.add("proxies.types", f"must have at most {_MOST_TYPES} entries")
    violations.check()
    return edges_pb2.Edge(proxies=[_proxy(proxy) for proxy in request.proxies]).SerializeToString()


def to_edge(edge: Edge, standing: Standing) -> edges_pb2.Edge:
    """Render the edge."""
    message = edges_pb2.Edge.FromString(edge.proxies)
    message.name = edge_name(edge.name)
    message.revision = standing.applied(edge)
    message.live = edge.is_live
    message.last_seen_time.FromDatetime(edge.last_seen)
    return message


def to_traffic(present: Present, *, most: int) -> edges_pb2.ListTenantTrafficResponse:
    """Render the traffic of so many tenants, and of all."""
    tenants = [_rates(requests, tenant=f"tenants/{tenant}") for tenant, requests in present.by_tenant.items() if tenant]
    message = edges_pb2.ListTenantTrafficResponse(
        tenants=tenants[:most], total=_rates(present.total), live_tenants=len(tenants)
    )
    message.window.FromTimedelta(WINDOW)
    return message


def edge_name(edge: str) -> str:
    """Return the edge's resource name."""
    return f"edges/{edge}"


def report_of(request: policies_pb2.ReportDecisionsRequest, *, now: datetime) -> Report:
    """Read a report.

    Raises:
        InvalidArgumentError: it can never be counted, and says why.
    """
    violations = Violations()
    reporter = _uuid(request.reporter, "reporter", violations)
    if request.sequence < 1:
        violations.add("sequence", "must be 1 or more")
    for field, entries, most in (
        ("denials", request.denials, _MOST_DENIALS),
        ("usage", request.usage, _MOST_USAGES),
        ("accesses", request.accesses, _MOST_USAGES),
    ):
        if len(entries) > most:
            violations.add(field, f"must have at most {most} entries")
    violations.check()
    denials = [_denial(denial, violations, now) for denial in request.denials]
    usage = [_usage(one, violations) for one in request.usage]
    accesses = [_access(one, violations) for one in request.accesses]
    violations.check()
    return Report(
        reporter=reporter,
        sequence=request.sequence,
        denials={
            denial_id(reporter, request.sequence, index, moment=tally.first_time): tally
            for index, tally in enumerate(denials)
        },
        usage=usage,
        accesses=accesses,
    )


def _rates(requests: Requests, *, tenant: str = "") -> edges_pb2.TenantTraffic:
    seconds = WINDOW.total_seconds()
    return edges_pb2.TenantTraffic(
        tenant=tenant,
        admitted_per_second=requests.admitted / seconds,
        limited_per_second=requests.limited / seconds,
        denied_per_second=requests.denied / seconds,
        leased_per_second=requests.leased / seconds,
    )


def _cut(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))


def _policy(policy: TenantPolicy) -> policies_pb2.TenantPolicy:
    message = policies_pb2.TenantPolicy(
        tenant_id=policy.tenant_id,
        uid=str(policy.uid),
        revision=policy.revision,
        state=policies_pb2.TenantPolicy.State.Value(_EDGE_STATES.get(policy.state, policy.state)),
        tier=policy.tier,
        isolation_level=policy.isolation_level,
        dns_label=policy.dns_label,
        domains=policy.domains,
        requests_per_minute=policy.requests_per_minute,
        token_keys=[policies_pb2.TokenKey(kid=str(kid), public_key=key) for kid, key in policy.token_keys.items()],
        rate_limits=[
            policies_pb2.RateLimit(window=policies_pb2.RateLimit.Window.Value(limit.window), units=limit.units)
            for limit in policy.rate_limits
        ],
        billing_day=policy.billing_day,
        time_zone=policy.time_zone,
    )
    message.max_policy_age.FromTimedelta(policy.max_policy_age)
    return message


def _revocation(revocation: Revocation) -> policies_pb2.TokenRevocation:
    message = policies_pb2.TokenRevocation(token_id=str(revocation.token_id), tenant_uid=str(revocation.tenant_uid))
    message.expire_time.FromDatetime(revocation.expire_time)
    return message


def _proxy(proxy: policies_pb2.ProxyStatus) -> edges_pb2.Edge.Proxy:
    # The same fields under the same numbers: what edges say is what people are shown.
    kept = edges_pb2.Edge.Proxy.FromString(proxy.SerializeToString())
    kept.DiscardUnknownFields()
    kept.node, kept.version = _text(kept.node), _text(kept.version)
    for one in kept.types:
        one.type_url, one.error = _text(one.type_url), _text(one.error)
    return kept


def _denial(denial: policies_pb2.DenialTally, violations: Violations, now: datetime) -> Tally:
    _check_count(denial.count, "denials.count", violations, least=1)
    # A clock that is ahead must not put an entry before all that are to come.
    first = min(_moment(denial.first_time, "denials.first_time", violations, otherwise=now), now)
    last = min(_moment(denial.last_time, "denials.last_time", violations, otherwise=now), now)
    return Tally(
        kind=Kind(
            tenant=TenantId(denial.tenant_id) if denial.tenant_id else None,
            actor=_text(denial.actor),
            method=_text(denial.method),
            resource=_text(denial.resource),
            reason=_text(denial.reason),
            peer=_text(denial.peer),
        ),
        count=denial.count,
        first_time=first,
        last_time=last,
        request_id=_text(denial.request_id),
    )


def _usage(usage: policies_pb2.UsageTally, violations: Violations) -> Usage:
    for field in ("admitted", "limited", "cost", "leased"):
        _check_count(getattr(usage, field), f"usage.{field}", violations, least=0)
    minute = _moment(usage.minute, "usage.minute", violations, otherwise=_NEVER)
    return Usage(
        tenant_uid=_uuid(usage.tenant_uid, "usage.tenant_uid", violations),
        method=_text(usage.method),
        minute=minute.replace(second=0, microsecond=0),
        admitted=usage.admitted,
        limited=usage.limited,
        cost=usage.cost,
        leased=usage.leased,
    )


def _access(access: policies_pb2.AccessTally, violations: Violations) -> Access:
    _check_count(access.admitted, "accesses.admitted", violations, least=1)
    minute = _moment(access.minute, "accesses.minute", violations, otherwise=_NEVER)
    return Access(
        tenant_uid=_uuid(access.tenant_uid, "accesses.tenant_uid", violations),
        credential=_uuid(access.credential, "accesses.credential", violations),
        lease_class=_text(access.lease_class),
        minute=minute.replace(second=0, microsecond=0),
        admitted=access.admitted,
    )


def _text(text: str) -> str:
    return neutral(text[:_LONGEST_TEXT])


def _uuid(text: str, field: str, violations: Violations) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        violations.add(field, "must be a UUID")
        return UUID(int=0)


def _check_count(count: int, field: str, violations: Violations, *, least: int) -> None:
    if not least <= count <= _LARGEST_COUNT:
        violations.add(field, f"must be {least} to {_LARGEST_COUNT}")


def _moment(stamp: Timestamp, field: str, violations: Violations, *, otherwise: datetime) -> datetime:
    if not 0 < stamp.seconds <= _LAST_SECOND or not 0 <= stamp.nanos < _NANOS:
        violations.add(field, "must be a time since 1970")
        return otherwise
    return stamp.ToDatetime(tzinfo=UTC)
