"""What there is for Envoy at one moment, and what differs between two. Pure.

Almost nothing of it is held. Which scopes and which routes there are is what the index says; their bytes are made when
an Envoy is sent them. So a tenant that no Envoy serves costs nothing here.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NewType, Protocol

from bulkhead.envoy.v3 import routes_pb2
from ext_authz.policies.model import Index, TenantPolicy

TypeUrl = NewType("TypeUrl", str)
Version = NewType("Version", str)

_PREFIX: Final = "type.googleapis.com/envoy."
CLUSTER: Final = TypeUrl(f"{_PREFIX}config.cluster.v3.Cluster")
SECRET: Final = TypeUrl(f"{_PREFIX}extensions.transport_sockets.tls.v3.Secret")
LISTENER: Final = TypeUrl(f"{_PREFIX}config.listener.v3.Listener")
SCOPE: Final = TypeUrl(f"{_PREFIX}config.route.v3.ScopedRouteConfiguration")
ROUTES: Final = TypeUrl(f"{_PREFIX}config.route.v3.RouteConfiguration")
STATIC_TYPES: Final = (CLUSTER, SECRET, LISTENER)
TENANT_TYPES: Final = (SCOPE, ROUTES)
# What refers comes after what it refers to.
ORDER: Final = (*STATIC_TYPES, *TENANT_TYPES)

# Several Envoys are told of a change at about the same time.
_MOST_RENDERED: Final = 1024


class ResourceSource(Protocol):
    """Makes the resources. Its methods MUST NOT block; their bytes are deterministic."""

    def statics(self) -> Mapping[str, Mapping[str, bytes]]:
        """Return all listeners, clusters and secrets: by type URL, then by name, each serialized.

        MUST name no type but those of `STATIC_TYPES`. Called again after `Hub.use_statics`; MAY return something else
        then, which MUST be valid as a whole: nothing is tried out here. MAY raise; then what was there before stays.
        """

    def scope(self, name: str, tenant_id: str) -> bytes:
        """Return the serialized scope of that name, which leads to the routes `tenant:{tenant_id}`.

        MUST be the same bytes for the same arguments as long as the source lives. Costs microseconds: it is called for
        each scope when an Envoy connects. MAY raise as `routes` may.
        """

    def routes(self, policy: TenantPolicy) -> bytes:
        """Return the serialized routes named `tenant:{policy.tenant_id}`.

        MUST depend on the policy alone. MAY raise whatever it likes: then this tenant keeps the routes that it has,
        and all others are served.
        """


@dataclass(frozen=True, slots=True)
class Resource:
    """What an Envoy can be sent."""

    body: bytes = field(repr=False)
    version: Version

    @classmethod
    def of(cls, body: bytes) -> "Resource":
        """Return it with the version that these bytes have everywhere, in every process, for ever."""
        return cls(body, Version(hashlib.sha256(body).hexdigest()[:16]))


@dataclass(frozen=True, slots=True)
class Unrenderable:
    """What there should be, and cannot be made."""

    error: str


class Renderer:
    """Makes resources from the source, and remembers the last routes that it made."""

    def __init__(self, source: ResourceSource) -> None:
        self._source = source
        self._routes: OrderedDict[str, tuple[TenantPolicy, Resource | Unrenderable]] = OrderedDict()

    def statics(self) -> dict[str, dict[str, Resource]]:
        """Return the statics as they are now.

        Raises:
            Exception: whatever the source raises.
        """
        made = self._source.statics()
        return {url: {name: Resource.of(body) for name, body in made.get(url, {}).items()} for url in STATIC_TYPES}

    def scope(self, name: str, tenant_id: str) -> Resource | Unrenderable:
        """Return a scope, or why there is none."""
        return _made(lambda: self._source.scope(name, tenant_id))

    def routes(self, policy: TenantPolicy) -> Resource | Unrenderable:
        """Return a tenant's routes, or why there are none."""
        known, made = self._routes.get(policy.tenant_id, (None, None))
        if known is policy and made is not None:
            return made
        made = _made(lambda: self._source.routes(policy))
        self._routes[policy.tenant_id] = policy, made
        self._routes.move_to_end(policy.tenant_id)
        if len(self._routes) > _MOST_RENDERED:
            self._routes.popitem(last=False)
        return made


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All resources at one moment."""

    renderer: Renderer
    statics: Mapping[str, Mapping[str, Resource]]
    # None until the first one: then nothing is known of tenants, which is not the same as that there are none.
    index: Index | None = None

    @property
    def revision(self) -> int:
        """Return the index's revision, 0 without one."""
        return self.index.revision if self.index else 0

    def knows(self, url: str) -> bool:
        """Tell whether it can be said what there is of this type."""
        return self.index is not None or url not in TENANT_TYPES

    def names(self, url: str) -> Iterator[str]:
        """Return the names of all resources of this type."""
        if url == SCOPE and self.index:
            yield from (f"id:{tenant}" for tenant in self.index.by_id)
            yield from (f"host:{host}" for host in self.index.by_host)
        elif url == ROUTES and self.index:
            yield from map(routes_name, self.index.by_id)
        else:
            yield from self.statics.get(url, ())

    def find(self, url: str, name: str) -> Resource | Unrenderable | None:
        """Return the resource of that name; None when there is none."""
        if url == SCOPE:
            owner = _owner(self.index, name)
            return None if owner is None else self.renderer.scope(name, owner)
        if url == ROUTES:
            policy = _tenant(self.index, name)
            return None if policy is None else self.renderer.routes(policy)
        return self.statics.get(url, {}).get(name)

    def stand_in(self, url: str, name: str) -> Resource | None:
        """Return what is told to whoever asks for this name when there is no such resource, or none that can be used.

        None stands for its absence. But Envoy holds the requests that wait for a tenant's routes until it has some, for
        ever if need be, and does not take their absence for an answer. So it is given routes that match nothing, which
        is a stranger's answer.
        """
        if url != ROUTES:
            return None
        return Resource.of(routes_pb2.RouteConfiguration(name=name).SerializeToString(deterministic=True))


def routes_name(tenant_id: str) -> str:
    """Return the name of a tenant's routes."""
    return f"tenant:{tenant_id}"


def scope_names(policy: TenantPolicy, domain: str) -> Iterator[str]:
    """Return the names of the scopes that lead to a tenant's routes."""
    yield f"id:{policy.tenant_id}"
    yield from (f"host:{host}" for host in policy.hosts(domain))


def difference(before: Snapshot, after: Snapshot) -> dict[str, list[str]]:
    """Return by type the names of what is new, different or gone in `after`.

    Between two indexes nothing is looked at but the policies that are not the same objects. The indexes themselves tell
    which these are: there is no list of changes that somebody could keep wrongly.
    """
    differs = {url: _static_difference(before.statics[url], after.statics[url]) for url in STATIC_TYPES}
    if after.index is not None and after.index is not before.index:
        scopes, routes = _tenant_difference(before.index or Index(domain=after.index.domain), after.index)
        differs |= {SCOPE: scopes, ROUTES: routes}
    return {url: names for url, names in differs.items() if names}


def _static_difference(before: Mapping[str, Resource], after: Mapping[str, Resource]) -> list[str]:
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _tenant_difference(before: Index, after: Index) -> tuple[list[str], list[str]]:
    # A whole new index, of policies that were read anew, is mostly equal to the one before.
    tenants = [one for one in after.by_id.differing(before.by_id) if not _is_equal(one, before, after)]
    old = [policy for policy in map(before.by_id.get, tenants) if policy]
    new = [policy for policy in map(after.by_id.get, tenants) if policy]
    names = dict.fromkeys(name for policy in old for name in scope_names(policy, before.domain))
    names |= dict.fromkeys(name for policy in new for name in scope_names(policy, after.domain))
    scopes = [name for name in names if _owner(before, name) != _owner(after, name)]
    routes = [routes_name(tenant) for tenant in tenants if before.by_id.get(tenant) != after.by_id.get(tenant)]
    return scopes, routes


def _is_equal(tenant: str, before: Index, after: Index) -> bool:
    """Tell whether the tenant has an equal policy and, should others claim its hosts, the same hosts."""
    old, new = before.by_id.get(tenant), after.by_id.get(tenant)
    if old is None or new is None or old != new:
        return False
    hosts = new.hosts(after.domain)
    return all(before.by_host.get(host) is old and after.by_host.get(host) is new for host in hosts)


def _made(body: Callable[[], bytes]) -> Resource | Unrenderable:
    try:
        return Resource.of(body())
    except Exception as error:  # noqa: BLE001 whatever is wrong with one tenant is told, and stops no other
        return Unrenderable(f"{type(error).__name__}: {error}")


def _owner(index: Index | None, scope: str) -> str | None:
    """Return the id of the tenant that the scope of this name leads to."""
    if index is None:
        return None
    kind, _, key = scope.partition(":")
    policies = {"id": index.by_id, "host": index.by_host}.get(kind)
    policy = policies.get(key) if policies else None
    return None if policy is None else policy.tenant_id


def _tenant(index: Index | None, routes: str) -> TenantPolicy | None:
    kind, _, tenant = routes.partition(":")
    return index.by_id.get(tenant) if index and kind == "tenant" else None
