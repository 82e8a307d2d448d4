"""How each Envoy is, connected or not."""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from bulkhead.edge.v1 import policies_pb2
from ext_authz.xds.stream import Stream

_State = policies_pb2.ResourceTypeStatus.State
_REMEMBERED: Final = timedelta(hours=1)
_MOST_REMEMBERED: Final = 100


def proxy_status(stream: Stream) -> policies_pb2.ProxyStatus:
    """Return how a connected Envoy is."""
    connect_time = Timestamp()
    connect_time.FromDatetime(stream.connect_time)
    types = (
        policies_pb2.ResourceTypeStatus(
            type_url=subscription.url,
            state=_State.Value(subscription.progress(stream.snapshot)),
            resources=subscription.resources,
            revision=subscription.revision(stream.snapshot),
            error=subscription.error(),
        )
        for subscription in stream.subscriptions
    )
    return policies_pb2.ProxyStatus(node=stream.node, version=stream.version, types=types, connect_time=connect_time)


class Departed:
    """The last hundred Envoys that went within the last hour, so that somebody notices."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Begin with none."""
        self._clock_s = clock_s
        self._left: OrderedDict[str, tuple[float, policies_pb2.ProxyStatus]] = OrderedDict()

    def add(self, stream: Stream) -> None:
        """Remember how an Envoy was when it went."""
        status = proxy_status(stream)
        status.ClearField("connect_time")
        for one in status.types:
            one.state = _State.STALE
        self._left[status.node] = self._clock_s(), status
        self._left.move_to_end(status.node)
        if len(self._left) > _MOST_REMEMBERED:
            self._left.popitem(last=False)

    def statuses(self) -> dict[str, policies_pb2.ProxyStatus]:
        """Return by node those that are still remembered."""
        oldest_s = self._clock_s() - _REMEMBERED.total_seconds()
        while self._left and next(iter(self._left.values()))[0] <= oldest_s:
            self._left.popitem(last=False)
        return {node: status for node, (_, status) in self._left.items()}
