"""A worker: answers Envoy's Checks from memory, and follows its agent.

When the agent is away for a moment, it goes on deciding by what it has, until that is too old. When the agent's process
is gone, it goes too.
"""

import asyncio
import gc
import os
import signal
import threading
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import grpc
import structlog

from bulkhead.edge.v1 import policies_pb2
from control_plane import cell_key
from control_plane.telemetry import configure_logging
from ext_authz.policies.acknowledger import Acknowledger
from ext_authz.policies.feed import Feed, socket_channel
from ext_authz.policies.model import Change, Index
from ext_authz.reports.model import Denial, Usage
from ext_authz.reports.sender import Sender
from ext_authz.reports.tally import Tallies
from ext_authz.settings import EdgeSettings
from ext_authz.sockets import bind
from ext_authz.workers import worker_name

_GRACE_S: Final = 1.5
_LAST_REPORT_S: Final = 1.0
_IGNORANT_S: Final = 1.0
# A collection of all objects takes long with as many as policies have, and with those of the modules alone half as long
# as Envoy waits for an answer. It finds nothing: they have no cycles.
_FROZEN_FROM: Final = 1000

_log: Final = structlog.get_logger("worker")


class Checks(Protocol):
    """What answers Checks."""

    def use(self, index: Index) -> None:
        """MUST decide by this index whatever begins from now on."""

    async def settled(self) -> None:
        """MUST return when no Check that began under an index before the present one can still be answered by it."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve Check on that server."""


class Deciding:
    """What a worker decides by, and since when all its answers come from it."""

    def __init__(self, checks: Checks, *, name: str, domain: str) -> None:
        """Keep the index of `checks` current."""
        self._checks = checks
        self._name = name
        self._settled = self.index = Index(domain=domain)
        self._news = asyncio.Event()
        self._first = asyncio.Event()

    def take(self, change: Change) -> None:
        """Decide by what is changed."""
        self.index = self.index.after(change)
        self._checks.use(self.index)
        if len(change.tenants) >= _FROZEN_FROM or not self._first.is_set():
            gc.collect()
            gc.freeze()
        self._news.set()
        self._first.set()

    async def knows(self, *, within_s: float) -> None:
        """Return when it has anything to decide by, or when time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._first.wait()

    def state(self) -> policies_pb2.AcknowledgePoliciesRequest:
        """Say what is applied."""
        return policies_pb2.AcknowledgePoliciesRequest(
            agent=self._name, feed=self._settled.feed, revision=self._settled.revision
        )

    async def settle(self, acknowledger: Acknowledger) -> None:
        """Acknowledge an index when all answers come from it, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            index = self.index
            await self._checks.settled()
            changed = (index.feed, index.revision) != (self._settled.feed, self._settled.revision)
            self._settled = index
            if changed:
                acknowledger.wake()


def run(settings: EdgeSettings, number: int) -> None:
    """Work until told to stop, or until the agent is gone."""
    import uvloop  # noqa: PLC0415 only a worker that runs needs it

    configure_logging(f"agent-{worker_name(number)}")
    threading.Thread(target=_end_with_agent, daemon=True).start()
    uvloop.run(_work(settings, number))


async def _work(settings: EdgeSettings, number: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # A terminal sends it to all at once: the agent hears it too, and ends its workers in its own order.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    tallies = Tallies()
    async with AsyncExitStack() as stack:
        checks = await _open_checks(stack, settings, tallies)
        await _serve(checks, settings, number=number, tallies=tallies, stop=stop)


async def _open_checks(stack: AsyncExitStack, settings: EdgeSettings, tallies: Tallies) -> Checks:
    from ext_authz.authz.servicer import CheckServicer  # noqa: PLC0415 so that `Deciding` is tested without it
    from ext_authz.budgets.reserves import Budgets  # noqa: PLC0415 the same

    def denied(denial: Denial) -> None:
        tallies.deny(denial, datetime.now(UTC))

    def used(usage: Usage) -> None:
        tallies.use(usage, datetime.now(UTC))

    key = await asyncio.to_thread(cell_key.load_or_create, settings.context_key)
    valkey_key = await asyncio.to_thread(cell_key.load_or_create, settings.valkey_key)
    budgets = Budgets.open(settings.valkey_socket, valkey_key)
    return CheckServicer(
        domain=settings.domain,
        shared_hosts=settings.shared_hosts,
        context_key=key,
        budgets=await stack.enter_async_context(budgets),
        denied=denied,
        used=used,
    )


async def _serve(checks: Checks, settings: EdgeSettings, *, number: int, tallies: Tallies, stop: asyncio.Event) -> None:
    name = worker_name(number)
    deciding = Deciding(checks, name=name, domain=settings.domain)
    feed = Feed(partial(socket_channel, settings.relay_socket), name=name)
    acknowledger = Acknowledger(feed, deciding.state)
    sender = Sender(tallies, feed)
    server = grpc.aio.server()
    checks.add_to(server)
    async with asyncio.TaskGroup() as group:
        following = [
            group.create_task(feed.follow(lambda: deciding.index, deciding.take)),
            group.create_task(acknowledger.run()),
            group.create_task(deciding.settle(acknowledger)),
        ]
        reporting = group.create_task(sender.run())
        # Until it knows anything it would refuse what others can answer.
        await deciding.knows(within_s=_IGNORANT_S)
        # Not before: whoever has a socket is asked, and waited for.
        bind(server, settings.check_socket(number))
        await server.start()
        _log.info("worker_serves", worker=number, revision=deciding.index.revision)
        await stop.wait()
        await server.stop(_GRACE_S)
        reporting.cancel()
        is_reported = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_REPORT_S):
                is_reported = await sender.flush()
        _log.info("worker_stops", worker=number, is_reported=is_reported)
        for task in following:
            task.cancel()


def _end_with_agent() -> None:
    """End at once when the agent's end of the pipe is closed, whatever the event loop is doing."""
    while os.read(0, 1):
        pass
    os._exit(0)
