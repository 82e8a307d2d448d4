"""Says which revision is applied: at once when it is another one, and once a second."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import AwayError, Feed, RefusedError

_EVERY_S: Final = 1.0

_log: Final = structlog.get_logger("acknowledger")


class Acknowledger:
    """Tells one server. A server that is away misses it, and hears it in the next second."""

    def __init__(self, feed: Feed, state: Callable[[], policies_pb2.AcknowledgePoliciesRequest]) -> None:
        """Tell `feed` what `state` says at the moment of telling."""
        self._feed = feed
        self._state = state
        self._wanted = asyncio.Event()

    def wake(self) -> None:
        """Tell at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Tell, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._wanted.wait()
            self._wanted.clear()
            with suppress(AwayError):
                try:
                    await self._feed.acknowledge(self._state())
                except RefusedError as error:
                    _log.error("acknowledgement_refused", reason=str(error))
