"""The signed contexts of admitted requests: made once a second for each credential and policy, not once a request."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from control_plane.ids import TenantId
from control_plane.serving.context import Quota, TenantContext, encode
from control_plane.serving.principal import SCOPED
from ext_authz.authz.decide import Proceed

_LIFETIME: Final = timedelta(seconds=60)
# How old the quota's figure may be that a context says. It bounds a context's age as well.
_FRESH: Final = timedelta(seconds=1)
_MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    value: str
    revision: int
    make_time: datetime


class Contexts:
    """Makes signed contexts, and hands one out again while its quota is fresh and its policy the current one."""

    def __init__(self, key: bytes, *, every_scope: frozenset[str]) -> None:
        """Sign with `key`. Whoever needs no scopes is given `every_scope`, since services go by scopes alone."""
        self._key = key
        self._every_scope = every_scope
        self._made: OrderedDict[bytes, _Made] = OrderedDict()

    def signed(self, admitted: Proceed, *, remaining: int, now: datetime) -> str:
        """Return the context of an admitted request; `remaining` is what its tenant's rate has left."""
        digest = admitted.credential.digest
        made = self._made.get(digest)
        is_current = made is not None and made.revision == admitted.policy.revision
        if made is None or not is_current or not timedelta(0) <= now - made.make_time < _FRESH:
            context = self._context(admitted, Quota(remaining=remaining, as_of=now), now=now)
            made = _Made(value=encode(context, self._key), revision=admitted.policy.revision, make_time=now)
            self._made[digest] = made
            self._made.move_to_end(digest)
            if len(self._made) > _MOST_REMEMBERED:
                self._made.popitem(last=False)
        return made.value

    def _context(self, admitted: Proceed, quota: Quota, *, now: datetime) -> TenantContext:
        credential, policy = admitted.credential, admitted.policy
        return TenantContext(
            tenant=TenantId(policy.tenant_id),
            tier=policy.tier,
            isolation_level=policy.isolation_level,
            subject=credential.claims.subject,
            role=credential.role,
            scopes=credential.scopes if credential.role in SCOPED else self._every_scope,
            session=str(credential.claims.token_id),
            expire_time=min(now + _LIFETIME, credential.claims.expire_time),
            quota=quota,
        )
