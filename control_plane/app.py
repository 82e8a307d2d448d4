"""What each process is made of. One straight function each: settings in, a running server out."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.longrunning import operations_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bulkhead.edge.v1 import policies_pb2_grpc
from bulkhead.v1 import (
    audit_pb2_grpc,
    certificates_pb2_grpc,
    edges_pb2_grpc,
    isolation_pb2_grpc,
    tenants_pb2_grpc,
    tokens_pb2_grpc,
)
from control_plane import cell_key
from control_plane.audit.denials import Denials
from control_plane.audit.recorder import effects_recorder
from control_plane.audit.sealer import Sealer
from control_plane.audit.servicer import AuditServicer
from control_plane.breaches.recorder import Breaches
from control_plane.cache.handles import Caches
from control_plane.cache.probing import Prober
from control_plane.cache.reconciler import Reconciler
from control_plane.certificates.servicer import CertificateServicer
from control_plane.errors import UnavailableError
from control_plane.isolation.probes.api import CertificatesApi
from control_plane.isolation.schedule import Schedule
from control_plane.isolation.service import Verifier, as_it_is, read_only
from control_plane.isolation.servicer import IsolationServicer
from control_plane.isolation.walls import Walls
from control_plane.keys.opening import open_vault
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault import KeyVault
from control_plane.objects.store import ObjectStore, bucket_of
from control_plane.operations.jobs import JobQueue
from control_plane.operations.plan import Plans
from control_plane.operations.service import OperationRunner
from control_plane.operations.servicer import OperationsServicer
from control_plane.policies import store as policies_store
from control_plane.policies.feed import Publisher
from control_plane.policies.reports import Reports
from control_plane.policies.service import Edges
from control_plane.policies.servicer import EdgeServicer, PolicyServicer
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.postgres.notifications import notified
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.migrations import SYSTEM_VERSION
from control_plane.postgres.schemas.tenancy import TENANT_VERSION
from control_plane.postgres.schemas.upgrades import CHANNEL as UPGRADE_CHANNEL
from control_plane.postgres.schemas.upgrades import Elsewhere, SchemaUpgrades
from control_plane.serving.interception import Interceptor
from control_plane.serving.interceptors.authentication import BearerAuthentication, ServiceAuthentication
from control_plane.serving.interceptors.authorization import Authorization
from control_plane.serving.interceptors.outgoing import OutgoingGuard
from control_plane.serving.interceptors.reception import Reception
from control_plane.serving.listeners import AddServicers, TlsFiles, open_listener
from control_plane.serving.paging import PageTokens
from control_plane.serving.rules import load_rules
from control_plane.settings import ListenerSettings, Settings
from control_plane.telemetry import configure_logging
from control_plane.tenants.provisioning import TenantCreation
from control_plane.tenants.servicer import TenantServicer
from control_plane.tokens.platform import PlatformIssuer, keep_admin_token, load_public_key
from control_plane.tokens.servicer import TokenServicer
from control_plane.tokens.verifier import TokenVerifier

_HEALTH_EVERY: Final = timedelta(seconds=1)
# Longer than any RPC should take, shorter than a supervisor waits before it kills.
_GRACE: Final = timedelta(seconds=5)
_KEY_WITHIN: Final = timedelta(seconds=30)
_KEY_POLL: Final = timedelta(milliseconds=20)

_REFLECTED: Final = (
    "bulkhead.v1.TenantService",
    "bulkhead.v1.TokenService",
    "bulkhead.v1.AuditService",
    "bulkhead.v1.EdgeService",
    "bulkhead.v1.IsolationService",
    "google.longrunning.Operations",
    "grpc.health.v1.Health",
)

_log: Final = structlog.get_logger("app")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What both processes have."""

    settings: Settings
    database: Database
    directory: Directory
    keys: TenantKeys
    objects: ObjectStore
    verifier: TokenVerifier
    page_tokens: PageTokens
    denials: Denials
    sealer: Sealer
    breaches: Breaches
    interceptors: Sequence[Interceptor]
    internal_interceptors: Sequence[Interceptor]
    health: health.aio.HealthServicer


async def run_control_plane(settings: Settings) -> None:
    """Serve tenants, tokens, operations and audit logs until told to stop by SIGTERM or SIGINT."""
    configure_logging("control-plane")
    async with AsyncExitStack() as stack:
        issuer = await asyncio.to_thread(PlatformIssuer.load_or_create, _platform_key(settings))
        postgres = _postgres(settings, "csm_control", tenant_connections=settings.control_plane_connections)
        vault = await open_vault(settings)
        database, keys = await _open_database(stack, vault, postgres)
        upgrades = SchemaUpgrades(
            database, passwords=keys.login_password, notified=partial(notified, postgres, UPGRADE_CHANNEL)
        )
        directory = Directory(database, version=TENANT_VERSION, upgrade=upgrades.ensure)
        common = _common(settings, directory, database=database, keys=keys, platform_key=issuer.public_key)
        valkey_key = await _valkey_key(settings)
        cache = await stack.enter_async_context(Reconciler.open(settings.valkey_socket, valkey_key, directory.everyone))
        creation = TenantCreation(
            database, directory, keys, cache_users=cache.users, touched=common.sealer.touch, cache_doubted=cache.hint
        )
        plans: Plans = {creation.kind: creation}
        queue = JobQueue(common.database, postgres)
        await stack.enter_async_context(queue.open())
        publisher = Publisher(common.database, partial(notified, postgres, policies_store.CHANNEL))
        edges = Edges(common.database)
        reports = Reports(common.database, common.denials)
        platform_keys = PlatformKeys(vault, database)
        verifier = await _open_verifier(stack, common, platform_keys, valkey_key)
        schedule = Schedule(database, directory, verifier=verifier, keys=platform_keys, random=SystemRandom().random)

        def add(server: grpc.aio.Server) -> None:
            _add_control_plane(server, common=common, plans=plans, queue=queue)
            _add_edges(server, publisher=publisher, edges=edges, reports=reports)
            isolation = IsolationServicer(verifier, platform_keys, common.page_tokens)
            isolation_pb2_grpc.add_IsolationServiceServicer_to_server(isolation, server)

        await _serve(
            common,
            _listeners(common, settings.control_plane, add, reflected=_REFLECTED),
            [
                queue.work(OperationRunner(common.database, plans)),
                keep_admin_token(settings.admin_token_file, issuer),
                publisher.run(),
                edges.run(),
                edges.prune(),
                upgrades.run(),
                schedule.run(),
                cache.run(),
            ],
            draining=publisher.close,
        )


async def run_certificates(settings: Settings) -> None:
    """Serve certificates until told to stop by SIGTERM or SIGINT. Needs no control plane."""
    configure_logging("certificates")
    async with AsyncExitStack() as stack:
        platform_key = await _await_platform_key(settings)
        postgres = _postgres(settings, "csm_directory", tenant_connections=settings.certificates_connections)
        database, keys = await _open_database(stack, await open_vault(settings), postgres)
        # This process has no right to change a table: the control plane does it.
        directory = Directory(database, version=TENANT_VERSION, upgrade=Elsewhere(database).ensure)
        common = _common(settings, directory, database=database, keys=keys, platform_key=platform_key)
        valkey_key = await _valkey_key(settings)
        caches = await stack.enter_async_context(Caches.open(settings.valkey_socket, common.keys.derive, valkey_key))

        def add(server: grpc.aio.Server) -> None:
            servicer = CertificateServicer(common.keys, common.objects, caches, page_tokens=common.page_tokens)
            certificates_pb2_grpc.add_CertificateServiceServicer_to_server(servicer, server)

        await _serve(common, _listeners(common, settings.certificates, add), [])


async def _open_database(
    stack: AsyncExitStack, vault: KeyVault, postgres: PostgresSettings
) -> tuple[Database, TenantKeys]:
    async def password(placement: Placement, *, anew: bool = False) -> str:
        # It comes from the tenant's key, and keys are kept in the same database.
        return await keys.login_password(placement, anew=anew)

    database = await stack.enter_async_context(Database.open(postgres, passwords=password))
    keys = TenantKeys(vault, database)
    return database, keys


async def _open_verifier(stack: AsyncExitStack, common: _Common, keys: PlatformKeys, valkey_key: bytes) -> Verifier:
    settings = common.settings
    tls, context_key = _tls(settings.control_plane, settings), _context_key(settings)
    api = await stack.enter_async_context(CertificatesApi.open(settings.certificates.internal_listen, tls, context_key))
    cache = await stack.enter_async_context(Prober.open(settings.valkey_socket, common.keys.derive, valkey_key))
    walls = Walls(
        database=common.database,
        directory=common.directory,
        keys=common.keys,
        tokens=common.verifier,
        objects=common.objects,
        cache=cache,
        api=api,
    )
    restrict = read_only(common.database, touched=common.sealer.touch) if settings.restricts_unsafe else as_it_is
    return Verifier(common.database, keys, walls, restrict=restrict, breached=common.breaches.note)


def _common(
    settings: Settings, directory: Directory, *, database: Database, keys: TenantKeys, platform_key: Ed25519PublicKey
) -> _Common:
    verifier = TokenVerifier(keys, directory, database=database, platform_key=platform_key)
    sealer = Sealer(database, directory)
    denials = Denials(database, directory, touched=sealer.touch)
    breaches = Breaches(database)
    recorder = partial(effects_recorder, touched=sealer.touch)
    context_key = _context_key(settings)

    def interceptors(authentication: Interceptor) -> tuple[Interceptor, ...]:
        reception = Reception(
            load_rules(), database, recorder=recorder, denied=denials.note, breached=breaches.note_call
        )
        return reception, authentication, Authorization(directory), OutgoingGuard(database.canaries)

    return _Common(
        settings=settings,
        database=database,
        directory=directory,
        keys=keys,
        objects=ObjectStore(bucket_of(settings.objects), keys, database.canaries),
        verifier=verifier,
        page_tokens=PageTokens(cell_key.load_or_create(settings.secrets_dir / "paging.key")),
        denials=denials,
        sealer=sealer,
        breaches=breaches,
        interceptors=interceptors(BearerAuthentication(verifier.verify)),
        internal_interceptors=interceptors(ServiceAuthentication(settings.services, context_key)),
        health=health.aio.HealthServicer(),
    )


def _tls(listener: ListenerSettings, settings: Settings) -> TlsFiles:
    return TlsFiles(certificate=listener.certificate, key=listener.key, authority=settings.ca_file)


def _context_key(settings: Settings) -> bytes:
    return cell_key.load_or_create(settings.secrets_dir / "context.key")


async def _valkey_key(settings: Settings) -> bytes:
    return await asyncio.to_thread(cell_key.load_or_create, settings.valkey_key)


def _platform_key(settings: Settings) -> Path:
    return settings.secrets_dir / "platform-tokens.key"


async def _await_platform_key(settings: Settings) -> Ed25519PublicKey:
    """Read what the platform's tokens are verified with; the very first time, wait for the control plane to make it."""
    async with asyncio.timeout(_KEY_WITHIN.total_seconds()):
        while True:
            with suppress(FileNotFoundError):
                return load_public_key(_platform_key(settings))
            await asyncio.sleep(_KEY_POLL.total_seconds())


def _postgres(settings: Settings, system_role: str, *, tenant_connections: int) -> PostgresSettings:
    return PostgresSettings(
        socket_dir=settings.postgres_socket_dir,
        port=settings.postgres_port,
        dbname=settings.postgres_dbname,
        system_role=system_role,
        tenant_pool_size=tenant_connections,
        canary_key=cell_key.load_or_create(settings.secrets_dir / "canary.key"),
    )


def _add_control_plane(server: grpc.aio.Server, *, common: _Common, plans: Plans, queue: JobQueue) -> None:
    tenants = TenantServicer(
        common.directory,
        common.page_tokens,
        plans,
        defer=lambda operation_id, tx: queue.defer(operation_id, within=tx),
        hsm_backed=common.keys.hsm_backed,
    )
    tenants_pb2_grpc.add_TenantServiceServicer_to_server(tenants, server)
    tokens_pb2_grpc.add_TokenServiceServicer_to_server(TokenServicer(common.keys, common.page_tokens), server)
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(common.page_tokens), server)
    operations = OperationsServicer(plans, common.page_tokens)
    operations_pb2_grpc.add_OperationsServicer_to_server(operations, server)  # type: ignore[no-untyped-call]  # no stubs


def _add_edges(server: grpc.aio.Server, *, publisher: Publisher, edges: Edges, reports: Reports) -> None:
    # On the listener for tokens, too, where it serves nobody: no token is an edge's.
    policies = PolicyServicer(publisher, edges, reports)
    policies_pb2_grpc.add_PolicyServiceServicer_to_server(policies, server)
    edges_pb2_grpc.add_EdgeServiceServicer_to_server(EdgeServicer(edges, reports.traffic), server)


def _listeners(
    common: _Common, settings: ListenerSettings, add: AddServicers, *, reflected: Sequence[str] = ()
) -> list[grpc.aio.Server]:
    """Open the listener for tokens, and the one for internal services; the latter tells no names."""
    tls = _tls(settings, common.settings)

    def add_all(server: grpc.aio.Server) -> None:
        add(server)
        health_pb2_grpc.add_HealthServicer_to_server(common.health, server)

    for_tokens, _ = open_listener(
        settings.listen,
        tls,
        interceptors=common.interceptors,
        add_servicers=add_all,
        client_certificates=False,
        reflected=reflected,
    )
    for_services, _ = open_listener(
        settings.internal_listen,
        tls,
        interceptors=common.internal_interceptors,
        add_servicers=add_all,
        client_certificates=True,
    )
    return [for_tokens, for_services]


async def _serve(
    common: _Common,
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
        await common.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        for listener in listeners:
            await listener.start()
        tasks = [
            group.create_task(task)
            for task in (
                *background,
                common.denials.run(),
                common.sealer.run(),
                common.breaches.run(),
                _report_health(common),
            )
        ]
        _log.info("serving")
        await stop.wait()
        _log.info("draining")
        draining()
        await common.health.enter_graceful_shutdown()
        await asyncio.gather(*(listener.stop(_GRACE.total_seconds()) for listener in listeners))
        for task in tasks:
            task.cancel()
    await common.denials.close()
    await common.breaches.flush()
    _log.info("stopped")


async def _report_health(common: _Common) -> None:
    """Say SERVING while the database answers."""
    serving: bool | None = None
    while True:
        try:
            await common.database.check(SYSTEM_VERSION)
            now_serving = True
        except UnavailableError:
            now_serving = False
        if now_serving != serving:
            serving = now_serving
            _log.info("health", serving=serving)
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            await common.health.set("", status)
        await asyncio.sleep(_HEALTH_EVERY.total_seconds())
