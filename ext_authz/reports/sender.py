"""Hands in reports, each until it is known to be counted, and takes in those of others."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import structlog

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import AwayError, Feed, RefusedError
from ext_authz.reports.messages import add_report, reports_of
from ext_authz.reports.tally import Taken, Tallies

_EVERY_S: Final = 1.0
# Starts of workers that are remembered, so that a report of theirs is not counted twice.
_REPORTERS: Final = 1024

_log: Final = structlog.get_logger("reports")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Sender:
    """Hands in what is tallied, once a second.

    One report is under way at a time, and the same one until the server has it; meanwhile the tallies, which are
    bounded, take in what comes. The server counts a report once, by the reporter and its sequence.
    """

    def __init__(
        self,
        tallies: Tallies,
        feed: Feed,
        *,
        holds_back: bool = False,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """Hand `tallies` in to the server of `feed`, as a reporter that was never there before.

        One that `holds_back` hands in denials only when they are due, so that a flood makes few audit entries. Of those
        through which a count passes, the last one does: else its delays would add up.
        """
        self._tallies = tallies
        self._feed = feed
        self._holds_back = holds_back
        self._now = now
        self._reporter = str(uuid4())
        self._sequence = 0
        self._waiting: deque[policies_pb2.ReportDecisionsRequest] = deque()
        self._sending = asyncio.Lock()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Send the denials that are due now, not in the next second."""
        self._woken.set()

    async def run(self) -> None:
        """Send each second, until cancelled; then call `flush` for the rest."""
        clock = asyncio.get_running_loop().time
        due = clock() + _EVERY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._woken.wait()
            self._woken.clear()
            if clock() < due:
                await self._send(lambda: self._tallies.take_due_denials(self._now()))
                continue
            due = clock() + _EVERY_S
            await (self.send_due() if self._holds_back else self.flush())

    async def send_due(self) -> bool:
        """Send all usage and the denials that are due; return whether the server has them."""
        return await self._send(lambda: self._tallies.take_due(self._now()))

    async def flush(self) -> bool:
        """Send everything there is; return whether the server has it all."""
        return await self._send(self._tallies.take_all)

    async def _send(self, take: Callable[[], Taken]) -> bool:
        async with self._sending:
            # What is taken is counted no further, and takes memory of its own: nothing is while anything waits.
            if not await self._hand_in():
                return False
            self._waiting.extend(reports_of(take(), reporter=self._reporter, sequence=self._sequence + 1))
            self._sequence += len(self._waiting)
            return await self._hand_in()

    async def _hand_in(self) -> bool:
        while self._waiting:
            report = self._waiting[0]
            try:
                await self._feed.report(report)
            except AwayError:
                return False
            except RefusedError as error:
                # Better lost, and told, than in the way of all that are to come.
                _log.critical("report_lost", sequence=report.sequence, reason=str(error))
            self._waiting.popleft()
        return True


class Receiver:
    """Adds reports of others to tallies, each once."""

    def __init__(
        self, tallies: Tallies, *, denied: Callable[[], None] = lambda: None, now: Callable[[], datetime] = _utc_now
    ) -> None:
        """Add to `tallies`; call `denied` when a report has denials."""
        self._tallies = tallies
        self._denied = denied
        self._now = now
        self._sequences: OrderedDict[str, int] = OrderedDict()

    def take(self, report: policies_pb2.ReportDecisionsRequest) -> None:
        """Add a report, unless it was added before."""
        if report.sequence <= self._sequences.get(report.reporter, 0):
            return
        try:
            add_report(self._tallies, report, self._now())
        except ValueError:
            # Sent again it would be the same: better without it than stuck at it.
            _log.exception("report_refused", reporter=report.reporter, sequence=report.sequence)
        self._sequences[report.reporter] = report.sequence
        self._sequences.move_to_end(report.reporter)
        if len(self._sequences) > _REPORTERS:
            self._sequences.popitem(last=False)
        if report.denials:
            self._denied()
