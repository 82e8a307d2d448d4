"""Hands in what the log of leases says: each request once, however often and wherever anybody is killed.

A part of the log is one report, whose reporter is the log, and whose sequence is how far it goes. The control plane
counts a report once. While it is away the log waits on disk: no tenant's requests are leased for longer than its
`max_policy_age` without news, and so nothing is added then.
"""

import asyncio
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Final

import structlog

from control_plane.threads import run_to_end
from ext_authz.leases.lines import Counted, Prices, count_lines
from ext_authz.leases.log import PART, LeaseLog, Part
from ext_authz.policies.feed import AwayError, Feed, RefusedError
from ext_authz.reports.messages import reports_of
from ext_authz.reports.tally import Taken

# Envoy writes twice a second, and what was used is to be known a second after the request.
_EVERY_S: Final = 0.25
_ADMIN_TIMEOUT_S: Final = 1.0
# Told once each time that so much waits.
_MUCH: Final = 1 << 30

_log: Final = structlog.get_logger("leases")


class ReopeningError(Exception):
    """Envoy was not asked to open its logs anew."""


class LeaseReader:
    """Reads one log, and hands it in."""

    def __init__(self, log: LeaseLog, feed: Feed, prices: Prices, *, reopen: Callable[[], None]) -> None:
        """Hand in to the server of `feed`. `reopen` has Envoy open its logs anew; it blocks, or fails as it says."""
        self._lines = log
        self._feed = feed
        self._prices = prices
        self._reopen = reopen
        self._reading = asyncio.Lock()
        self._unreadable = 0
        self._is_much = False
        # By event: the same cause is told once.
        self._told: dict[str, str] = {}

    async def open(self) -> None:
        """Find out how far the log is counted. To be called once, before Envoy begins to write.

        Raises:
            OSError: nothing can be kept beside the log.
        """
        await run_to_end(self._lines.open)

    async def run(self) -> None:
        """Hand in what is new, until cancelled; then call `flush` for the rest."""
        while True:
            await self.flush()
            await asyncio.sleep(_EVERY_S)

    async def flush(self) -> bool:
        """Hand in all that is in the log; return whether the server has it."""
        async with self._reading:
            try:
                await self._turn_over()
                await self._hand_in()
            except (AwayError, OSError) as error:
                # Of the disk's, too: the log is as it was, and read again.
                self._tell("lease_report_put_off", error)
                return False
            self._told.pop("lease_report_put_off", None)
            return True

    async def _hand_in(self) -> None:
        while part := await run_to_end(self._lines.next_part):
            await self._report(part)
            self._lines.counted()

    async def _report(self, part: Part) -> None:
        counted = await asyncio.to_thread(count_lines, part.content, self._prices)
        self._tell_unreadable(part, counted)
        taken = Taken(denials=[], usage=dict(counted.usage), accesses=dict(counted.accesses))
        # One report, however much there is in a part: it comes again as a whole.
        for report in reports_of(taken, reporter=str(part.reporter), sequence=part.sequence, most=PART):
            try:
                await self._feed.report(report)
            except RefusedError as error:
                # Better lost, and told, than in the way of all that are to come.
                _log.critical("lease_report_lost", sequence=part.sequence, reason=str(error))

    async def _turn_over(self) -> None:
        """See to it that the log does not grow without end."""
        await run_to_end(self._lines.rename_large)
        waiting = await run_to_end(lambda: self._lines.waiting)
        if waiting > _MUCH and not self._is_much:
            _log.error("lease_log_waits", bytes=waiting)
        self._is_much = waiting > _MUCH
        if await run_to_end(lambda: self._lines.wants_reopening):
            try:
                await run_to_end(self._reopen)
            except ReopeningError as error:
                # It is asked again; meanwhile it writes on to where it is read.
                self._tell("lease_log_not_reopened", error)
            else:
                self._told.pop("lease_log_not_reopened", None)

    def _tell(self, event: str, error: Exception) -> None:
        if self._told.get(event) != str(error):
            _log.warning(event, reason=str(error))
        self._told[event] = str(error)

    def _tell_unreadable(self, part: Part, counted: Counted) -> None:
        if counted.unreadable and not self._unreadable:
            _log.error("lease_lines_unreadable", sequence=part.sequence, lines=counted.unreadable)
        self._unreadable += counted.unreadable


def reopen_logs(admin: str) -> None:
    """Have the Envoy whose administration listens there open its logs anew. It does so with its next line.

    Raises:
        ReopeningError: it did not say that it will.
    """
    host, _, port = admin.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=_ADMIN_TIMEOUT_S)
    try:
        connection.request("POST", "/reopen_logs")
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException) as error:
        raise ReopeningError(f"Envoy's administration at {admin} does not answer: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200:  # noqa: PLR2004 a name would say no more
        raise ReopeningError(f"Envoy's administration at {admin} answers {answer.status}")
