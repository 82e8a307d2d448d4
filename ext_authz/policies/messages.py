"""Policies as they are sent, read into the model and written from it.

What comes in is trusted to come from the control plane, and still checked: its names end up in routes and in headers.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from bulkhead.edge.v1 import policies_pb2
from control_plane.serving.time_zones import DEFAULT_ZONE, names
from control_plane.token_keys import read_token_key, write_token_key
from ext_authz.policies.model import Change, Period, RateLimit, State, TenantPolicy, TenantToken

_TENANT_ID: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_LABEL: Final = re.compile(_LABEL)
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LONGEST_HOST: Final = 253
_STATES: Final = {
    policies_pb2.TenantPolicy.State.ACTIVE: State.ACTIVE,
    policies_pb2.TenantPolicy.State.SUSPENDED: State.SUSPENDED,
}

_PERIODS: Final = {policies_pb2.RateLimit.Window.Value(period.name): period for period in Period}
_LAST_DAY: Final = 31

_log: Final = structlog.get_logger("policies")


class MalformedError(Exception):
    """A message that cannot be what it says it is."""


class Parts:
    """Gathers the parts of a change, and reads each as it comes, so that a large one never holds the loop for long."""

    def __init__(self) -> None:
        self._feed = ""
        self._snapshot = False
        self._tenants: list[TenantPolicy] = []
        self._purged: list[str] = []
        self._revocations: dict[TenantToken, datetime] = {}

    def add(self, message: policies_pb2.FollowPoliciesResponse) -> Change | None:
        """Return the change when this was its last part. A server that has nothing yet itself sends no feed: None.

        A tenant or a revocation that cannot be read is left out, loudly: one must not keep the others from theirs.

        Raises:
            MalformedError: when the parts do not belong together, or one does not say of when it is.
        """
        if self._feed and message.feed != self._feed:
            raise MalformedError(f"a change of feed {self._feed!r} goes on in feed {message.feed!r}")
        if not message.feed:
            return None
        self._feed = message.feed
        self._snapshot |= message.snapshot
        self._tenants += _policies(message)
        self._purged += message.purged_tenants
        self._revocations.update(_revocations(message))
        if message.continues:
            return None
        if not message.HasField("as_of_time"):
            raise MalformedError("a change does not say of when it is")
        change = Change(
            feed=message.feed,
            revision=message.revision,
            snapshot=self._snapshot,
            tenants=tuple(self._tenants),
            revocations=self._revocations,
            as_of=message.as_of_time.ToDatetime(tzinfo=UTC),
            purged=tuple(self._purged),
        )
        self.__init__()  # type: ignore[misc]  # begins anew, as a new one would
        return change


def policy_from(message: policies_pb2.TenantPolicy) -> TenantPolicy:
    """Read one tenant's policy.

    Raises:
        MalformedError: when it cannot be enforced as it stands.
    """
    _demand(message.state in _STATES, "its state is unknown")
    _demand(_TENANT_ID.fullmatch(message.tenant_id), "its id is none")
    _demand(_DNS_LABEL.fullmatch(message.dns_label), "its DNS label is none")
    _demand(message.HasField("max_policy_age"), "it may grow old without end")
    windows = [limit.window for limit in message.rate_limits]
    _demand(
        len(windows) == len(set(windows)) and _PERIODS.keys() >= set(windows), "its windows are none, or there twice"
    )
    _demand(all(limit.units > 0 for limit in message.rate_limits), "one of its windows has no units")
    _demand(message.billing_day <= _LAST_DAY, "its billing day is none")
    _demand(not message.time_zone or message.time_zone in names(), "its time zone is unknown")
    for domain in message.domains:
        _demand(len(domain) <= _LONGEST_HOST and _HOST.fullmatch(domain), "one of its domains is no lower-case host")
    try:
        return TenantPolicy(
            tenant_id=message.tenant_id,
            uid=UUID(message.uid),
            revision=message.revision,
            state=_STATES[message.state],
            tier=message.tier,
            isolation_level=message.isolation_level,
            dns_label=message.dns_label,
            domains=tuple(message.domains),
            requests_per_minute=message.requests_per_minute,
            token_keys={UUID(key.kid): read_token_key(key.public_key) for key in message.token_keys},
            max_age=message.max_policy_age.ToTimedelta(),
            rate_limits=tuple(
                RateLimit(period=_PERIODS[limit.window], units=limit.units) for limit in message.rate_limits
            ),
            billing_day=message.billing_day or 1,
            time_zone=message.time_zone or DEFAULT_ZONE,
        )
    except ValueError as error:
        raise MalformedError(str(error)) from error


def policy_to(policy: TenantPolicy) -> policies_pb2.TenantPolicy:
    """Write one tenant's policy."""
    message = policies_pb2.TenantPolicy(
        tenant_id=policy.tenant_id,
        uid=str(policy.uid),
        revision=policy.revision,
        state=policies_pb2.TenantPolicy.State.Value(policy.state.value),
        tier=policy.tier,
        isolation_level=policy.isolation_level,
        dns_label=policy.dns_label,
        domains=policy.domains,
        requests_per_minute=policy.requests_per_minute,
        token_keys=[
            policies_pb2.TokenKey(kid=str(kid), public_key=write_token_key(key))
            for kid, key in policy.token_keys.items()
        ],
    )
    message.max_policy_age.FromTimedelta(policy.max_age)
    windows = {period: window for window, period in _PERIODS.items()}
    for limit in policy.rate_limits:
        message.rate_limits.add(window=windows[limit.period], units=limit.units)
    message.billing_day, message.time_zone = policy.billing_day, policy.time_zone
    return message


def revocation_to(token: TenantToken, until: datetime) -> policies_pb2.TokenRevocation:
    """Write a revocation."""
    message = policies_pb2.TokenRevocation(token_id=str(token.token_id), tenant_uid=str(token.tenant_uid))
    message.expire_time.FromDatetime(until)
    return message


def _policies(message: policies_pb2.FollowPoliciesResponse) -> Iterator[TenantPolicy]:
    for tenant in message.tenants:
        try:
            yield policy_from(tenant)
        except MalformedError as error:
            _log.error("policy_refused", tenant=tenant.tenant_id, revision=tenant.revision, reason=str(error))


def _revocations(message: policies_pb2.FollowPoliciesResponse) -> Iterator[tuple[TenantToken, datetime]]:
    for revocation in message.revocations:
        try:
            token = TenantToken(UUID(revocation.tenant_uid), UUID(revocation.token_id))
            yield token, revocation.expire_time.ToDatetime(tzinfo=UTC)
        except ValueError:
            _log.exception("revocation_refused", tenant_uid=revocation.tenant_uid, revision=message.revision)


def _demand(fact: object, otherwise: str) -> None:
    if not fact:
        raise MalformedError(otherwise)
