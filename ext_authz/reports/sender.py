"""Hands in reports, each until it is known to be counted, and takes in those of others."""

import asyncio
from collections import OrderedDict
from typing import Final
from uuid import uuid4

import structlog

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import AwayError, Feed, RefusedError
from ext_authz.reports.messages import add_report, report_of
from ext_authz.reports.tally import Tallies

_EVERY_S: Final = 1.0
_KINDS_OF_A_REPORT: Final = 500
# Starts of workers that are remembered, so that a report of theirs is not counted twice.
_REPORTERS: Final = 1024

_log: Final = structlog.get_logger("reports")


class Sender:
    """Hands in what is tallied, once a second.

    One report is under way at a time, and the same one until the server has it; meanwhile the tallies, which are
    bounded, take in what comes. The server counts a report once, by the reporter and its sequence.
    """

    def __init__(self, tallies: Tallies, feed: Feed) -> None:
        """Hand `tallies` in to the server of `feed`, as a reporter that was never there before."""
        self._tallies = tallies
        self._feed = feed
        self._reporter = str(uuid4())
        self._sequence = 0
        self._unanswered: policies_pb2.ReportDecisionsRequest | None = None
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Send each second, until cancelled; then call `flush` for the rest."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush()

    async def flush(self) -> bool:
        """Send everything there is; return whether the server has it all."""
        async with self._sending:
            while report := self._next():
                try:
                    await self._feed.report(report)
                except AwayError:
                    return False
                except RefusedError as error:
                    # Better lost, and told, than in the way of all that are to come.
                    _log.critical("report_lost", sequence=report.sequence, reason=str(error))
                self._unanswered = None
            return True

    def _next(self) -> policies_pb2.ReportDecisionsRequest | None:
        if self._unanswered is None and len(self._tallies):
            self._sequence += 1
            taken = self._tallies.take(_KINDS_OF_A_REPORT)
            self._unanswered = report_of(taken, reporter=self._reporter, sequence=self._sequence)
        return self._unanswered


class Receiver:
    """Adds reports of others to tallies, each once."""

    def __init__(self, tallies: Tallies) -> None:
        """Add to `tallies`."""
        self._tallies = tallies
        self._sequences: OrderedDict[str, int] = OrderedDict()

    def take(self, report: policies_pb2.ReportDecisionsRequest) -> None:
        """Add a report, unless it was added before."""
        if report.sequence <= self._sequences.get(report.reporter, 0):
            return
        try:
            add_report(self._tallies, report)
        except ValueError:
            # Sent again it would be the same: better without it than stuck at it.
            _log.exception("report_refused", reporter=report.reporter, sequence=report.sequence)
        self._sequences[report.reporter] = report.sequence
        self._sequences.move_to_end(report.reporter)
        if len(self._sequences) > _REPORTERS:
            self._sequences.popitem(last=False)
