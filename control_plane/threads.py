"""Work beside the event loop that goes on to its end, such as the disk's."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def run_to_end(work: Callable[[], T]) -> T:
    """Run `work`, which blocks, in a thread and return what it returns.

    A thread cannot be stopped. So a caller that is cancelled is let go only once the work is over, or it would clean up
    after something that is yet to happen: an object written after its removal, a key made after its destruction.
    """
    return await wait_to_end(asyncio.get_running_loop().run_in_executor(None, work))


async def wait_to_end(work: Awaitable[T]) -> T:
    """Return what `work` returns; a caller that is cancelled is let go only once the work is over, as it is then."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
