"""An Envoy as far as discovery goes: what it asks for, what it takes over, and what it refuses.

Its words and the hub's are on the way until they are handed over, in their order. It takes over the resources of a
response one by one, up to the first bad one, and then refuses all: so what it has is not always what it says it has.
"""

from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack

from bulkhead.envoy.v3 import discovery_pb2, routes_pb2
from ext_authz.xds.hub import Hub
from ext_authz.xds.snapshot import CLUSTER, LISTENER, ROUTES, SCOPE
from ext_authz.xds.stream import Stream

WHOLE = (CLUSTER, LISTENER, SCOPE)


def is_poisoned(body: bytes) -> bool:
    """Tell whether it is what `PlainResources` makes of a poisoned tenant."""
    return len(routes_pb2.RouteConfiguration.FromString(body).virtual_hosts) > 1


class ModelEnvoy:
    def __init__(self, node: str = "edge-1") -> None:
        self.node = node
        self.asked: dict[str, set[str]] = {url: set() for url in WHOLE}
        self.everything: set[str] = set(WHOLE)
        # What it serves, and the versions that it would tell a hub.
        self.bodies: dict[str, dict[str, bytes]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        # Names that it was told of, whether they are there or not.
        self.told: dict[str, set[str]] = {}
        self.requests: deque[discovery_pb2.DeltaDiscoveryRequest] = deque()
        self.responses: deque[discovery_pb2.DeltaDiscoveryResponse] = deque()
        self.stream: Stream | None = None
        self._connection = ExitStack()

    def connect(self, hub: Hub) -> None:
        """Begin a new stream: ask again for everything, and say what is there."""
        self.disconnect()
        self.stream = self._connection.enter_context(hub.connect())
        self.told = {}
        for url in sorted({*self.asked}):
            names = sorted(self.asked[url])
            if url in self.everything and (names or url not in WHOLE):
                names.append("*")
            if url in self.everything or names:
                self._say(url, subscribe=names, held=self.versions.get(url, {}))

    def disconnect(self) -> None:
        self._connection.close()
        self.stream = None
        self.requests.clear()
        self.responses.clear()

    def subscribe(self, url: str, names: Iterable[str]) -> None:
        names = sorted(names)
        for name in names:
            self.asked.setdefault(url, set())
            if name == "*":
                self.everything.add(url)
            else:
                self.asked[url].add(name)
                self.told.get(url, set()).discard(name)
        self._say(url, subscribe=names)

    def unsubscribe(self, url: str, names: Iterable[str]) -> None:
        names = sorted(names)
        for name in names:
            if name == "*":
                self.everything.discard(url)
                kept = self.asked.get(url, set())
            else:
                self.asked.get(url, set()).discard(name)
                kept = {*self.bodies.get(url, {}), *self.versions.get(url, {})} - {name}
            for key in {*self.bodies.get(url, {}), *self.versions.get(url, {})} - kept:
                self.bodies.get(url, {}).pop(key, None)
                self.versions.get(url, {}).pop(key, None)
        self._say(url, unsubscribe=names)

    def wants(self, url: str, name: str) -> bool:
        return url in self.everything or name in self.asked.get(url, set())

    def hear(self) -> None:
        """Take the next response, and answer it."""
        response = self.responses.popleft()
        url, bodies = response.type_url, self.bodies.setdefault(response.type_url, {})
        wanted = [one for one in response.resources if self.wants(url, one.name)]
        for resource in wanted:
            if url == ROUTES and is_poisoned(resource.resource.value):
                self._say(url, nonce=response.nonce, error=f"{resource.name} is poisoned")
                return
            bodies[resource.name] = resource.resource.value
        versions = self.versions.setdefault(url, {})
        versions.update({one.name: one.version for one in wanted})
        for name in response.removed_resources:
            bodies.pop(name, None)
            versions.pop(name, None)
        self.told.setdefault(url, set()).update([one.name for one in wanted], response.removed_resources)
        self._say(url, nonce=response.nonce)

    def _say(
        self,
        url: str,
        *,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        held: dict[str, str] | None = None,
        nonce: str = "",
        error: str = "",
    ) -> None:
        if self.stream is None:
            return
        request = discovery_pb2.DeltaDiscoveryRequest(
            node=discovery_pb2.Node(id=self.node),
            type_url=url,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=held,
            response_nonce=nonce,
        )
        if error:
            request.error_detail.message = error
        self.requests.append(request)
