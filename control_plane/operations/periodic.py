"""Work that comes again and again, for as long as a process runs."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from control_plane.errors import DomainError


async def run_every(period: timedelta, work: Callable[[], Awaitable[None]], *, log: Any, postponed: str) -> None:
    """Do the work, and again that long after it has ended, until cancelled.

    What raises DomainError, since something is away, is logged as the event `postponed`, and done the next time.
    """
    while True:
        try:
            await work()
        except DomainError as error:
            log.warning(postponed, reason=error.code)
        await asyncio.sleep(period.total_seconds())
