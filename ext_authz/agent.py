"""The agent: what it is made of. One straight function: settings in, a running agent out.

The control plane's changes go into a ledger; from there to the workers, to Envoy, and to the copy on disk. What is
decided comes back the same way.
"""

import asyncio
import fcntl
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bulkhead.edge.v1 import policies_pb2
from bulkhead.v1 import certificates_pb2
from control_plane import cell_key, private_file
from control_plane.telemetry import configure_logging
from ext_authz.leases.classes import leased_rpcs
from ext_authz.leases.lines import Prices
from ext_authz.leases.log import LeaseLog
from ext_authz.leases.reader import LeaseReader, reopen_logs
from ext_authz.opening import Opening, Proxies
from ext_authz.policies.acknowledger import Acknowledger
from ext_authz.policies.feed import Feed, OpenChannel, secure_channel
from ext_authz.policies.last_good import LastGoodCopy
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.model import Change, Index
from ext_authz.policies.relay import Relay
from ext_authz.reports.sender import Receiver, Sender
from ext_authz.reports.tally import Tallies
from ext_authz.rounds import Rounds
from ext_authz.settings import EdgeSettings
from ext_authz.sockets import bind, private_folder
from ext_authz.workers import Workers
from ext_authz.xds.servicer import SERVER_OPTIONS

_LOOK_EVERY_S: Final = 0.2
_CERTIFICATES_EVERY_S: Final = 1.0
_LAST_REPORT_S: Final = 1.0
_GRACE_S: Final = 0.5
_LOCK: Final = "agent.lock"

_log: Final = structlog.get_logger("agent")


class AgentError(Exception):
    """The agent cannot run; the text says what to do."""


class Agent:
    """One agent: its parts, joined."""

    def __init__(
        self,
        settings: EdgeSettings,
        open_proxies: Callable[[], Awaitable[Proxies]],
        *,
        open_channel: OpenChannel,
        key: bytes,
    ) -> None:
        """Follow the server of `open_channel`; sign the copy with `key`. Workers do not wait for `open_proxies`."""
        self._settings = settings
        self._open_proxies = open_proxies
        self._proxies = Opening()
        self._copy = LastGoodCopy(settings.edge_dir, key)
        self._ledger = Ledger(Index(domain=settings.domain))
        tallies = Tallies()
        self._feed = Feed(open_channel, name=settings.name)
        self._sender = Sender(tallies, self._feed, holds_back=True)
        self._leases = LeaseReader(
            LeaseLog(settings.lease_log),
            self._feed,
            Prices(leased_rpcs(certificates_pb2.DESCRIPTOR.services_by_name.values())),
            reopen=partial(reopen_logs, settings.admin_listen),
        )
        self._relay = Relay(self._ledger, report=Receiver(tallies, denied=self._sender.wake).take)
        self._acknowledger = Acknowledger(self._feed, self._state)
        self._rounds = Rounds(self._relay, self._proxies, told=self._acknowledger.wake)
        self._health = health.aio.HealthServicer()

    async def run(self, stop: asyncio.Event, *, command: Callable[[int], Sequence[str]]) -> None:
        """Run with workers that are started by `command` until told to stop; then drain.

        Raises:
            RuntimeError: when a socket cannot be listened on.
        """
        await asyncio.to_thread(self._copy.prepare)
        await self._leases.open()
        if change := await asyncio.to_thread(self._copy.read):
            self._take(change)
            _log.info(
                "copy_used", revision=change.revision, as_of=change.as_of.isoformat(), tenants=len(change.tenants)
            )
        workers = Workers(self._settings.workers, command=command, heard=self._relay.heard, ended=self._relay.forget)
        async with self._relaying(), asyncio.TaskGroup() as group:
            deciding = group.create_task(workers.run())
            tasks = [
                group.create_task(work)
                for work in (
                    self._feed.follow(lambda: self._ledger.index, self._take),
                    self._rounds.run(),
                    self._acknowledger.run(),
                    self._copy.keep(self._ledger),
                    self._serve_proxies(),
                    self._report_health(),
                    self._sender.run(),
                    self._leases.run(),
                )
            ]
            await stop.wait()
            _log.info("draining")
            await self._health.enter_graceful_shutdown()
            # Their last reports still find the relay, and ours the control plane.
            deciding.cancel()
            await asyncio.wait([deciding])
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_REPORT_S):
                    await asyncio.gather(self._sender.flush(), self._leases.flush())
            for task in tasks:
                task.cancel()
        await self._copy.write(self._ledger)
        _log.info("stopped")

    def _take(self, change: Change) -> None:
        self._rounds.use(self._ledger.take(change))

    def _state(self) -> policies_pb2.AcknowledgePoliciesRequest:
        applied = self._rounds.applied
        return policies_pb2.AcknowledgePoliciesRequest(
            agent=self._settings.name,
            feed=applied.feed if applied else "",
            revision=applied.revision if applied else 0,
            proxies=self._proxies.statuses(),
        )

    @asynccontextmanager
    async def _relaying(self) -> AsyncIterator[None]:
        """Serve the workers."""
        server = grpc.aio.server()
        self._relay.add_to(server)
        bind(server, self._settings.relay_socket)
        await server.start()
        try:
            yield
        finally:
            await server.stop(_GRACE_S)

    async def _serve_proxies(self) -> None:
        """Serve Envoy, once there is what it can be told, until cancelled."""
        # It would say SERVING from its making on.
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        proxies = await self._proxies.open(self._open_proxies())
        server = grpc.aio.server(options=SERVER_OPTIONS)
        proxies.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        bind(server, self._settings.xds_socket)
        await server.start()
        try:
            await self._watch_certificates(proxies)
        finally:
            await server.stop(_GRACE_S)

    async def _report_health(self) -> None:
        """Say SERVING while there is something to decide by, and every worker decides by what is enforced."""
        serving: bool | None = None
        while True:
            decided = self._rounds.decided
            now_serving = decided is not None and self._relay.ready(decided) >= self._settings.workers
            if now_serving != serving:
                serving = now_serving
                _log.info("health", serving=serving, revision=self._ledger.index.revision)
                status = health_pb2.HealthCheckResponse
                await self._health.set("", status.SERVING if serving else status.NOT_SERVING)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _watch_certificates(self, proxies: Proxies) -> None:
        """Tell Envoy of new certificates, once their files have been left alone for a moment."""
        paths = (
            self._settings.server_certificate,
            self._settings.server_key,
            self._settings.client_ca_file,
            self._settings.upstream_certificate,
            self._settings.upstream_key,
            self._settings.ca_file,
        )
        told = seen = await asyncio.to_thread(_look, paths)
        while True:
            await asyncio.sleep(_CERTIFICATES_EVERY_S)
            before, seen = seen, await asyncio.to_thread(_look, paths)
            # A certificate and its key are two files: between the two they do not fit.
            if seen == told or seen != before:
                continue
            told = seen
            try:
                await proxies.reload()
            except Exception:  # noqa: BLE001 whatever is wrong with the new files, the old ones are still good
                _log.exception("certificates_refused")
            else:
                _log.info("certificates_reloaded")


def run(settings: EdgeSettings) -> None:
    """Run the agent of a state directory until told to stop.

    Raises:
        AgentError: when another one runs there, or a key or a certificate cannot be used.
    """
    import uvloop  # noqa: PLC0415 only an agent that runs needs it

    configure_logging("agent")
    lock = _lock(settings.edge_dir)
    try:
        key = cell_key.load_or_create(settings.copy_key)
    except (cell_key.BrokenKeyError, private_file.ExposedKeyError) as error:
        raise AgentError(str(error)) from error
    try:
        uvloop.run(_run(settings, key))
    finally:
        os.close(lock)


async def _run(settings: EdgeSettings, key: bytes) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    channel = partial(
        secure_channel,
        settings.control_plane,
        authority=settings.ca_file,
        certificate=settings.certificate,
        key=settings.key,
    )

    def command(number: int) -> Sequence[str]:
        module = (sys.executable, "-P", "-m", "ext_authz", "worker")
        return (*module, "--dir", str(settings.state_dir), "--number", str(number))

    agent = Agent(settings, partial(_open_envoys, settings), open_channel=channel, key=key)
    try:
        await agent.run(stop, command=command)
    except BaseExceptionGroup as group:
        unusable: BaseException | None = group.subgroup(AgentError)
        while isinstance(unusable, BaseExceptionGroup):
            unusable = unusable.exceptions[0]
        raise unusable or group from group


async def _open_envoys(settings: EdgeSettings) -> Proxies:
    # Elsewhere: it takes a third of a second, in which workers have questions.
    envoys = await asyncio.to_thread(importlib.import_module, "ext_authz.envoys")
    try:
        proxies: Proxies = await envoys.open_envoys(settings)
    except envoys.UnusableError as error:
        raise AgentError(str(error)) from error
    return proxies


def _lock(folder: Path) -> int:
    """Hold the folder for this process alone, as long as it lives."""
    private_folder(folder)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AgentError(f"another agent runs with {folder}: stop it first") from None
    return lock


def _look(paths: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """Tell which files these are, without reading them."""
    return [_file(path) for path in paths]


def _file(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
