"""What both processes have, and how they serve: interceptors, listeners, health, and a clean end."""

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from control_plane import cell_key
from control_plane.audit.denials import Denials
from control_plane.audit.notary import Notary
from control_plane.audit.publication import Publication
from control_plane.audit.recorder import effects_recorder
from control_plane.audit.sealer import Sealer
from control_plane.breaches.recorder import Breaches
from control_plane.errors import UnavailableError
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault import KeyVault
from control_plane.objects.store import ObjectStore, bucket_of
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.migrations import SYSTEM_VERSION
from control_plane.serving.interception import Interceptor
from control_plane.serving.interceptors.authentication import BearerAuthentication, ServiceAuthentication
from control_plane.serving.interceptors.authorization import Authorization
from control_plane.serving.interceptors.outgoing import OutgoingGuard
from control_plane.serving.interceptors.queueing import Queueing
from control_plane.serving.interceptors.reception import Reception
from control_plane.serving.listeners import AddServicers, TlsFiles, open_listener
from control_plane.serving.paging import PageTokens
from control_plane.serving.rules import load_rules
from control_plane.serving.turns import Turns
from control_plane.settings import ListenerSettings, Settings
from control_plane.tokens.verifier import TokenVerifier

_HEALTH_EVERY: Final = timedelta(seconds=1)
# Longer than any RPC should take, shorter than a supervisor waits before it kills.
_GRACE: Final = timedelta(seconds=5)

_log: Final = structlog.get_logger("app")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What the control plane and the certificate service are both made of."""

    settings: Settings
    database: Database
    directory: Directory
    keys: TenantKeys
    objects: ObjectStore
    verifier: TokenVerifier
    page_tokens: PageTokens
    denials: Denials
    sealer: Sealer
    notary: Notary
    breaches: Breaches
    interceptors: Sequence[Interceptor]
    internal_interceptors: Sequence[Interceptor]
    health: health.aio.HealthServicer


def open_process(
    settings: Settings,
    directory: Directory,
    *,
    database: Database,
    keys: TenantKeys,
    platform_key: Ed25519PublicKey,
    publication: Publication | None,
) -> Process:
    """Put it together; nothing runs yet. Without `publication`, another process publishes the keys of audit logs."""
    verifier = TokenVerifier(keys, directory, database=database, platform_key=platform_key)
    notary = Notary(database, keys, publication=publication)
    sealer = Sealer(database, directory, sealed=notary.touch)
    denials = Denials(database, directory, touched=sealer.touch)
    breaches = Breaches(database)
    recorder = partial(effects_recorder, touched=sealer.touch)
    reception = partial(Reception, recorder=recorder, denied=denials.note, breached=breaches.note_call)
    # Of both listeners: a tenant's calls are one crowd.
    turns = Turns()

    def interceptors(authentication: Interceptor) -> tuple[Interceptor, ...]:
        before = reception(load_rules(), database), authentication, Authorization(directory)
        return *before, Queueing(turns), OutgoingGuard(database.canaries)

    return Process(
        settings=settings,
        database=database,
        directory=directory,
        keys=keys,
        objects=ObjectStore(bucket_of(settings.objects), keys, database.canaries),
        verifier=verifier,
        page_tokens=PageTokens(cell_key.load_or_create(settings.secrets_dir / "paging.key")),
        denials=denials,
        sealer=sealer,
        notary=notary,
        breaches=breaches,
        interceptors=interceptors(BearerAuthentication(verifier.verify)),
        internal_interceptors=interceptors(ServiceAuthentication(settings.services, context_key(settings))),
        health=health.aio.HealthServicer(),
    )


async def open_database(
    stack: AsyncExitStack, vault: KeyVault, postgres: PostgresSettings
) -> tuple[Database, TenantKeys]:
    """Open the database until the stack ends, and the tenants' keys in it."""

    async def password(placement: Placement, *, anew: bool = False) -> str:
        # It comes from the tenant's key, and keys are kept in the same database.
        return await keys.login_password(placement, anew=anew)

    database = await stack.enter_async_context(Database.open(postgres, passwords=password))
    keys = TenantKeys(vault, database)
    return database, keys


async def read_valkey_key(settings: Settings) -> bytes:
    """Return what Valkey's users' passwords are derived from; make it where there is none."""
    return await asyncio.to_thread(cell_key.load_or_create, settings.valkey_key)


def platform_key_file(settings: Settings) -> Path:
    """Say where the key is that the platform's own tokens are signed with."""
    return settings.secrets_dir / "platform-tokens.key"


def postgres_settings(settings: Settings, system_role: str, *, tenant_connections: int) -> PostgresSettings:
    """Say how a process connects, as its own role, and how much it takes of what all have."""
    return PostgresSettings(
        socket_dir=settings.postgres_socket_dir,
        port=settings.postgres_port,
        dbname=settings.postgres_dbname,
        system_role=system_role,
        tenant_pool_size=tenant_connections,
        canary_key=cell_key.load_or_create(settings.secrets_dir / "canary.key"),
    )


def tls_files(listener: ListenerSettings, settings: Settings) -> TlsFiles:
    """Say with which certificate a listener serves, and whom it believes."""
    return TlsFiles(certificate=listener.certificate, key=listener.key, authority=settings.ca_file)


def context_key(settings: Settings) -> bytes:
    """Return what tenants' contexts are signed with; make it where there is none."""
    return cell_key.load_or_create(settings.secrets_dir / "context.key")


def open_listeners(
    process: Process, settings: ListenerSettings, add: AddServicers, *, reflected: Sequence[str] = ()
) -> list[grpc.aio.Server]:
    """Open the listener for tokens, and the one for internal services; the latter tells no names."""
    tls = tls_files(settings, process.settings)

    def add_all(server: grpc.aio.Server) -> None:
        add(server)
        health_pb2_grpc.add_HealthServicer_to_server(process.health, server)

    for_tokens, _ = open_listener(
        settings.listen,
        tls,
        interceptors=process.interceptors,
        add_servicers=add_all,
        client_certificates=False,
        reflected=reflected,
    )
    for_services, _ = open_listener(
        settings.internal_listen,
        tls,
        interceptors=process.internal_interceptors,
        add_servicers=add_all,
        client_certificates=True,
    )
    return [for_tokens, for_services]


async def serve(
    process: Process,
    listeners: Sequence[grpc.aio.Server],
    background: Sequence[Coroutine[Any, Any, None]],
    *,
    draining: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal, then drain. A background task that fails takes the process down, to be started anew.

    `draining` ends the calls that would not end by themselves.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        # It would say SERVING from its making on.
        await process.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        for listener in listeners:
            await listener.start()
        tasks = [
            group.create_task(task)
            for task in (
                *background,
                process.keys.run(),
                process.denials.run(),
                process.sealer.run(),
                process.notary.run(),
                process.breaches.run(),
                _report_health(process),
            )
        ]
        # What is here by now stays: to look through all of it now and then would hold up every call, for 60 ms.
        gc.collect()
        gc.freeze()
        _log.info("serving")
        await stop.wait()
        _log.info("draining")
        draining()
        await process.health.enter_graceful_shutdown()
        await asyncio.gather(*(listener.stop(_GRACE.total_seconds()) for listener in listeners))
        for task in tasks:
            task.cancel()
    await process.denials.close()
    await process.breaches.flush()
    _log.info("stopped")


async def _report_health(process: Process) -> None:
    """Say SERVING while the database answers."""
    serving: bool | None = None
    while True:
        try:
            await process.database.check(SYSTEM_VERSION)
            now_serving = True
        except UnavailableError:
            now_serving = False
        if now_serving != serving:
            serving = now_serving
            _log.info("health", serving=serving)
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await process.health.set("", status)
        await asyncio.sleep(_HEALTH_EVERY.total_seconds())
