"""What every connected Envoy is told: the newest snapshot, as far as it asked for it.

A change is noted at once and sent when the Envoy is ready. What an Envoy refuses stays behind alone: a tenant whose new
routes are refused is served by its old ones, and decided about by its newest policy. That is safe: whoever has the old
routes is still asked about by every Check, and the answer for a suspended tenant is no.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Final

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.model import Index
from ext_authz.xds.snapshot import SCOPE, Renderer, ResourceSource, Snapshot, difference
from ext_authz.xds.status import Departed, proxy_status
from ext_authz.xds.stream import Stream

# Whoever asks whether a revision is applied asks about one of the last.
_REMEMBERED_REVISIONS: Final = 256
# An Envoy that runs asks again within a second (`resources.bootstrap`). One that has not by then serves nobody.
_RETURNS_WITHIN_S: Final = 3.0


class Hub:
    """Holds the snapshot and the streams. For one event loop; nothing in it waits but `applied`."""

    def __init__(
        self,
        resources: ResourceSource,
        *,
        expected: Iterable[str] = (),
        now: Callable[[], datetime] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve the statics from the beginning; of tenants nothing is said before the first index.

        The nodes that are `expected` may be serving by what another hub told them.

        Raises:
            Exception: whatever the source raises for the statics.
        """
        self._renderer = Renderer(resources)
        self._snapshot = Snapshot(self._renderer, self._renderer.statics())
        self._now = now or (lambda: datetime.now(UTC))
        # Counts changes, whatever their revision is: another feed may begin anew.
        self._generation = 0
        self._used: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED_REVISIONS)
        self._streams: dict[Stream, None] = {}
        self._departed = Departed()
        self._clock_s = clock_s
        # Those that may be serving and are not connected, and until when they are waited for.
        self._missing: dict[str, float] = {}
        for node in expected:
            self._miss(node)
        self._answered = asyncio.Event()
        # Nonces of another process or hub are never taken for ours.
        boot = secrets.token_hex(4)
        numbers = count(1)
        self._nonces = lambda: f"{boot}:{next(numbers)}"

    def use(self, index: Index) -> None:
        """Go on with this index: each Envoy is sent what differs, of what it asked for."""
        before = self._snapshot
        if before.index is not None and before.index.feed != index.feed:
            self._used.clear()
        self._advance(replace(before, index=index))
        self._used.append((index.revision, self._generation))

    def use_statics(self) -> None:
        """Ask the source for the statics once more: a certificate was replaced.

        Raises:
            Exception: whatever the source raises; then everything stays as it is.
        """
        self._advance(replace(self._snapshot, statics=self._renderer.statics()))

    async def applied(self, revision: int) -> None:
        """Wait until every Envoy that serves has answered for all that it was due up to this revision.

        A refusal is an answer: it is told by `statuses`, and keeps no other tenant back. An Envoy that goes may serve
        on, and is waited for as long as one takes to come back. One that is connected and hangs keeps this waiting: how
        long is for the caller to say.
        """
        generation = next((used for other, used in self._used if other >= revision), self._generation)
        while True:
            missing_s = self._missing_s()
            if missing_s is None and not any(stream.is_behind(generation) for stream in self._streams):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(missing_s):
                    await self._answered.wait()

    def statuses(self) -> list[policies_pb2.ProxyStatus]:
        """Return how each Envoy is, by node: the connected ones, and those that went not long ago."""
        connected = {stream.node: proxy_status(stream) for stream in self._streams if stream.node}
        both = self._departed.statuses() | connected
        return [both[node] for node in sorted(both)]

    @contextmanager
    def connect(self) -> Iterator[Stream]:
        """Serve an Envoy as long as the context lasts."""
        stream = Stream(self._snapshot, generation=self._generation, nonces=self._nonces, now=self._now())
        self._streams[stream] = None
        try:
            yield stream
        finally:
            del self._streams[stream]
            if stream.node:
                self._departed.add(stream)
                self._miss(stream.node)
            self.note_answer()

    def note_answer(self) -> None:
        """Wake whoever waits for answers. To be called when a stream was heard, or found that it has nothing to say."""
        self._answered.set()
        self._answered.clear()

    def _miss(self, node: str) -> None:
        self._missing[node] = self._clock_s() + _RETURNS_WITHIN_S

    def _missing_s(self) -> float | None:
        """Say for how long the first of the missing ones is still waited for; None where none is missing."""
        now = self._clock_s()
        back = {stream.node for stream in self._streams if stream.asks_for(SCOPE)}
        self._missing = {node: until for node, until in self._missing.items() if until > now and node not in back}
        return min((until - now for until in self._missing.values()), default=None)

    def _advance(self, after: Snapshot) -> None:
        before, self._snapshot = self._snapshot, after
        self._generation += 1
        touched = difference(before, after)
        for stream in self._streams:
            stream.advance(after, self._generation, touched)
