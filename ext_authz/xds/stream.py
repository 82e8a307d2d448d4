"""One Envoy's stream: its subscriptions, and in which order they have their turns."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage

from bulkhead.envoy.v3 import discovery_pb2
from ext_authz.xds.snapshot import ORDER, STATIC_TYPES, Snapshot
from ext_authz.xds.subscription import REMOVED_LAST, Batch, Subscription

_MOST_OF_A_NAME: Final = 200


class Stream:
    """Turns what an Envoy says into what it is to be told, from one snapshot to the next.

    What refers to a resource is sent after it, and what nothing refers to any more is removed last: at no moment do
    routes lead to a cluster that is not there.
    """

    def __init__(self, snapshot: Snapshot, *, generation: int, nonces: Callable[[], str], now: datetime) -> None:
        """Begin without a subscription."""
        self._snapshot = snapshot
        self._generation = generation
        self._nonces = nonces
        self._subscriptions: dict[str, Subscription] = {}
        self._woken = asyncio.Event()
        self.connect_time = now
        # Empty until its first request.
        self.node = ""
        self.version = ""

    @property
    def snapshot(self) -> Snapshot:
        """Return what it is being told."""
        return self._snapshot

    @property
    def subscriptions(self) -> list[Subscription]:
        """Return what it has asked for: one for each type, in the order of their turns."""
        urls = [*ORDER, *(url for url in self._subscriptions if url not in ORDER)]
        return [self._subscriptions[url] for url in urls if url in self._subscriptions]

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        """Take note of what the Envoy says."""
        if not self.node:
            self._introduce(request.node)
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            subscription = self._subscriptions[request.type_url] = Subscription(request.type_url, node=self.node)
        if request.response_nonce:
            refused = request.error_detail.message or "refused" if request.HasField("error_detail") else None
            subscription.answer(request.response_nonce, refused)
        subscription.ask(
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
            held=request.initial_resource_versions,
            snapshot=self._snapshot,
            generation=self._generation,
        )
        self._woken.set()

    def advance(self, snapshot: Snapshot, generation: int, touched: Mapping[str, Iterable[str]]) -> None:
        """Go on with the next snapshot, which differs by what is touched."""
        before, self._snapshot, self._generation = self._snapshot, snapshot, generation
        for url, subscription in self._subscriptions.items():
            subscription.settle(before.revision)
            subscription.touch(touched.get(url, ()), generation)
        self._woken.set()

    def turns(self) -> Iterator[discovery_pb2.DeltaDiscoveryResponse | None]:
        """Return what is to be sent now, one after another, until the Envoy or the hub is heard again.

        None stands for a thousand names about which nothing is to be said: others may have a turn.
        """
        while (subscription := self._ready()) is not None:
            nonce = self._nonces()
            batch = subscription.next(self._snapshot, nonce)
            yield (
                _response(subscription.url, batch, nonce=nonce, snapshot=self._snapshot) if batch is not None else None
            )

    def wake(self) -> None:
        """End the waiting of whoever waits for something to be heard."""
        self._woken.set()

    async def woken(self) -> None:
        """Return when something was heard since the last time."""
        await self._woken.wait()
        self._woken.clear()

    def asks_for(self, url: str) -> bool:
        """Tell whether it has said what it has, or wants, of this type."""
        return url in self._subscriptions

    def is_behind(self, generation: int) -> bool:
        """Tell whether an answer of the Envoy is outstanding that concerns this generation or one before."""
        since = [subscription.oldest() for subscription in self._subscriptions.values()]
        return any(oldest is not None and oldest <= generation for oldest in since)

    def _introduce(self, node: discovery_pb2.Node) -> None:
        self.node = node.id[:_MOST_OF_A_NAME] or "unnamed"
        built = node.user_agent_build_version.version
        self.version = f"{built.major_number}.{built.minor_number}.{built.patch}"

    def _ready(self) -> Subscription | None:
        """Return the subscription whose turn it is."""
        subscriptions = self.subscriptions
        for subscription in subscriptions:
            if subscription.is_ready(self._snapshot):
                return subscription
            if subscription.url in STATIC_TYPES and subscription.is_unsent:
                # It waits for an answer first. What refers to it waits too.
                return None
        held_back = [one for one in map(self._subscriptions.get, REMOVED_LAST) if one]
        if not any(one.is_pending for one in subscriptions if one not in held_back):
            for one in held_back:
                one.release()
            return next((one for one in held_back if one.is_ready(self._snapshot)), None)
        return None


def _response(url: str, batch: Batch, *, nonce: str, snapshot: Snapshot) -> discovery_pb2.DeltaDiscoveryResponse:
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=str(snapshot.revision),
        type_url=url,
        nonce=nonce,
        resources=(
            discovery_pb2.Resource(
                name=name, version=resource.version, resource=AnyMessage(type_url=url, value=resource.body)
            )
            for name, resource in batch.resources.items()
        ),
        removed_resources=batch.removed,
    )
