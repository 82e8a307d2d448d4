"""The supervisor: brings the stack up, starts again what dies, and takes everything down in order.

Every process is its direct child and dies with it, so killing the supervisor ends the stack; the next `up` starts it
again from what is on disk.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from control_plane.stack.addresses import Addresses, endpoints, write_config
from control_plane.stack.authority import Authority, service
from control_plane.stack.components import Component, State
from control_plane.stack.control import already_running
from control_plane.stack.edge.identities import keep_edge_identities
from control_plane.stack.edge.programs import agent_program, envoy_program
from control_plane.stack.failures import StackError
from control_plane.stack.layout import StateDir, write_json
from control_plane.stack.postgres import Postgres
from control_plane.stack.processes.children import Child, Program
from control_plane.stack.processes.locks import Hold
from control_plane.stack.processes.size import StackSize
from control_plane.stack.progress import Progress
from control_plane.stack.valkey import Valkey

if TYPE_CHECKING:
    from control_plane.stack.probes import Probes

_ORPHANS_LEAVE_S: Final = 15.0
_ANSWERS_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.03
_PORTS_TRIED: Final = 3
# Whoever asks goes before whoever answers.
_STOPPING_ORDER: Final = (("envoy",), ("agent",), ("control-plane", "certificates"), ("valkey",), ("postgres",))
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Ready = Callable[[Mapping[str, str]], None]
"""Takes the endpoints, once, when everything answers."""


class Supervisor:
    """The stack of one state directory. `run` is its whole life."""

    def __init__(self, state_dir: StateDir, progress: Progress, *, size: StackSize) -> None:
        """Make ready to run; nothing is touched yet."""
        self._dir = state_dir
        self._size = size
        self._progress = progress
        self._state = State.STARTING
        self._components: list[Component] = []
        self._stop = asyncio.Event()
        self._disturbed = asyncio.Event()
        self._inherited: tuple[int, ...] = ()
        self._endpoints: dict[str, str] = {}
        self._probes: Probes
        self._addresses: Addresses | None = None

    async def run(self, on_ready: Ready) -> None:
        """Run the stack until SIGINT, SIGTERM or SIGHUP; when this returns or raises, nothing of it is left.

        Must be called in the main thread. Once the stack stops, another such signal ends its processes at once.

        Raises:
            AlreadyRunningError: when another supervisor holds the directory.
            StackError: when the stack cannot be started, or cannot be kept up.
        """
        _put_off_habits()
        self._dir.prepare()
        hold = Hold.take(self._dir.lock, self._dir.supervisor_lock)
        if hold is None:
            raise already_running(self._dir)
        for number in _STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        try:
            self._publish()
            await self._until_stopped(self._live(hold, on_ready))
        finally:
            await self._shut_down()
            hold.release()

    async def _live(self, hold: Hold, on_ready: Ready) -> None:
        if not hold.is_alone():
            with self._progress.step("processes of an earlier run have ended"):
                await hold.wait_alone(self._dir.lock, within_s=_ORPHANS_LEAVE_S)
        self._inherited = (hold.for_all,)
        self._dir.endpoints.unlink(missing_ok=True)
        self._dir.roll_logs()
        await self._bring_up()
        self._become(State.READY)
        on_ready(self._endpoints)
        async with asyncio.TaskGroup() as watchers:
            watchers.create_task(self._watch_recovery())
            for component in self._components:
                watchers.create_task(self._watch(component))

    async def _bring_up(self) -> None:
        sockets = self._dir.sockets()
        postgres = Postgres(
            data_dir=self._dir.postgres,
            socket_dir=sockets,
            log=self._dir.log("postgres"),
            settings={"max_connections": str(self._size.server_connections)},
            inherited=self._inherited,
        )
        valkey = Valkey(
            data_dir=self._dir.valkey,
            socket=sockets / "valkey.sock",
            log=self._dir.log("valkey"),
            secrets_dir=self._dir.secrets,
            megabytes=self._size.valkey_megabytes,
            inherited=self._inherited,
        )
        database = self._component("postgres", "PostgreSQL", launch=postgres.start)
        cache = self._component("valkey", "Valkey", launch=valkey.start)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_database(postgres, database))
            group.create_task(self._start_cache(cache))
            group.create_task(self._keep_certificates())
            # gRPC takes a while to load: meanwhile PostgreSQL makes its cluster.
            group.create_task(asyncio.to_thread(_load_probes))
        await self._start_services(postgres, valkey, needs=(database, cache))

    async def _start_database(self, postgres: Postgres, component: Component) -> None:
        from control_plane.postgres.schemas.migrations import MigrationError, migrate_system  # noqa: PLC0415 loads while Valkey starts

        if not postgres.data_dir.exists():
            with self._progress.step("PostgreSQL has an empty cluster"):
                await postgres.initialise()
        with self._progress.step("PostgreSQL takes connections"):
            await component.start()
        with self._progress.step("the registry's tables are up to date"):
            try:
                await migrate_system(postgres.conninfo)
            except MigrationError as error:
                raise StackError(
                    str(error), remedy="nothing was changed; run the release that the text names"
                ) from error

    async def _start_cache(self, component: Component) -> None:
        with self._progress.step("Valkey answers"):
            await component.start()

    async def _keep_certificates(self) -> None:
        def keep(now: datetime) -> None:
            authority = Authority.open(self._dir.authority, now)
            for name in ("control-plane", "certificates"):
                authority.keep_certificate(service(name), now)
            keep_edge_identities(authority, now)

        with self._progress.step("the internal authority has certified the services and the edge"):
            await asyncio.to_thread(keep, datetime.now(UTC))

    async def _start_services(self, postgres: Postgres, valkey: Valkey, *, needs: tuple[Component, ...]) -> None:
        """Start what listens on ports. Ports that somebody took since they were found free are chosen again."""
        for attempt in range(_PORTS_TRIED):
            self._addresses = addresses = Addresses.choose(self._dir)
            write_config(self._dir, addresses, postgres=postgres, valkey_socket=valkey.socket, size=self._size)
            self._endpoints = endpoints(self._dir, addresses)
            socket = postgres.socket_dir / "xds.sock"
            self._probes = _load_probes()(endpoints=self._endpoints, agent_socket=socket)
            try:
                await self._start_listeners(addresses, needs)
            except* StackError:
                await asyncio.gather(*(part.stop() for part in self._components[len(needs) :]))
                if attempt == _PORTS_TRIED - 1 or addresses.are_free():
                    raise
                self._progress.note("a port was taken in the meantime; others are chosen")
                addresses.release()
                self._components = list(needs)
            else:
                return

    async def _start_listeners(self, addresses: Addresses, needs: tuple[Component, ...]) -> None:
        services = [
            self._component(name, title, launch=partial(self._launch, self._service(name), answers), needs=needs)
            for name, title, answers in (
                ("control-plane", "the control plane", self._probes.control_plane),
                ("certificates", "the certificate service", self._probes.certificates),
            )
        ]
        # Once they have run, these need nothing to be started again: they know the tenants by themselves.
        agent = self._component("agent", "the agent", launch=self._launch_agent)
        envoy = self._component("envoy", "Envoy", launch=self._launch_envoy)
        async with asyncio.TaskGroup() as group:
            for service, address in zip(services, (addresses.admin, addresses.certificates), strict=True):
                group.create_task(self._start(service, f"answers on {address}"))
            group.create_task(self._start(agent, "knows the tenants"))
        await self._start(envoy, f"refuses strangers on {addresses.edge_http} and {addresses.edge_https}")

    async def _start(self, part: Component, fact: str) -> None:
        with self._progress.step(f"{part.title} {fact}"):
            await part.start()

    async def _launch(self, program: Program, answers: Callable[[], Awaitable[bool]]) -> Child:
        child = Child.start(program)
        if await child.answers(answers, within_s=_ANSWERS_WITHIN_S, every_s=_POLL_S):
            return child
        raise StackError(
            f"{program.log.stem} did not start",
            remedy="mend what the log names",
            log=program.log,
        )

    async def _launch_agent(self) -> Child:
        program = agent_program(self._dir.root, log=self._dir.log("agent"), inherited=self._inherited)
        return await self._launch(program, self._probes.agent)

    async def _launch_envoy(self) -> Child:
        log = self._dir.log("envoy")
        program = envoy_program(self._dir.root, self._size, log=log, inherited=self._inherited)
        return await self._launch(program, self._probes.envoy)

    def _service(self, name: str) -> Program:
        # -P: a module in the directory of some user must not stand in for one of ours.
        command = (sys.executable, "-P", "-m", "control_plane", "serve", name, "--dir", str(self._dir.root))
        return Program(arguments=command, log=self._dir.log(name), inherited=self._inherited)

    async def _watch(self, component: Component) -> None:
        """Start it again whenever it dies."""
        while True:
            how = await component.lost()
            self._progress.note(f"{component.title} {how}")
            self._become(State.RECOVERING)
            self._disturbed.set()
            with self._progress.step(f"{component.title} was started again"):
                await component.revive()

    async def _watch_recovery(self) -> None:
        """Say that the stack is ready again once calls go through: services find a new PostgreSQL in their own time."""
        while True:
            await self._disturbed.wait()
            self._disturbed.clear()
            if not await self._answers():
                self._disturbed.set()
                await asyncio.sleep(_POLL_S)
            elif not self._disturbed.is_set():
                self._become(State.READY)

    async def _answers(self) -> bool:
        parts = all(part.state is State.READY for part in self._components)
        return parts and await self._probes.everything()

    async def _shut_down(self) -> None:
        self._become(State.STOPPING)
        for names in _STOPPING_ORDER:
            parts = [component for component in self._components if component.name in names]
            running = [part for part in parts if part.state is not State.STOPPED]
            if running:
                with self._progress.step(f"{' and '.join(part.title for part in running)} stopped"):
                    await asyncio.gather(*(part.stop() for part in running))
        self._dir.state.unlink(missing_ok=True)
        if self._addresses:
            self._addresses.release()
        # Not while processes of an earlier run are there: then nothing of this one has been started.
        if self._inherited:
            self._dir.endpoints.unlink(missing_ok=True)
            self._dir.remove_sockets()

    async def _until_stopped(self, life: Coroutine[Any, Any, None]) -> None:
        """Await `life`, and cancel it at a signal."""
        living = asyncio.ensure_future(life)
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((living, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        living.cancel()
        try:
            await living
        except asyncio.CancelledError:
            return
        except BaseExceptionGroup as group:
            raise _first_stack_error(group) from group

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._progress.note("once more asked to stop: ending everything at once")
            for component in self._components:
                component.kill()
        self._stop.set()

    def _component(
        self, name: str, title: str, *, launch: Callable[[], Awaitable[Child]], needs: tuple[Component, ...] = ()
    ) -> Component:
        component = Component(
            name=name, title=title, log=self._dir.log(name), launch=launch, needs=needs, changed=self._publish
        )
        self._components.append(component)
        return component

    def _become(self, state: State) -> None:
        self._state = state
        if state is State.READY:
            write_json(self._dir.endpoints, self._endpoints)
        self._publish()

    def _publish(self) -> None:
        """Keep `state.json` true, for `status` and for whoever tries to start a second stack."""
        described = [component.describe() for component in self._components]
        # Whoever removes the directory under a running stack still wants its processes to end in order.
        with suppress(FileNotFoundError):
            write_json(self._dir.state, {"pid": os.getpid(), "state": str(self._state), "components": described})


def _put_off_habits() -> None:
    """Forget what our caller's shell would do to everything that is made or reached from here."""
    os.umask(0o077)
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def _load_probes() -> "type[Probes]":
    from control_plane.stack.probes import Probes  # noqa: PLC0415 loads gRPC, which takes longer than all else here

    return Probes


def _first_stack_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what a person can do something about, of all that went wrong at once."""
    found = group.subgroup(StackError)
    error: BaseException = found or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
