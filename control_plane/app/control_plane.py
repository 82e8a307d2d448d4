"""What each process is made of. One straight function each: settings in, a running server out."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from random import SystemRandom
from typing import Final

import grpc
from google.longrunning import operations_pb2_grpc

from bulkhead.edge.v1 import policies_pb2_grpc
from bulkhead.v1 import (
    audit_pb2_grpc,
    edges_pb2_grpc,
    isolation_pb2_grpc,
    tenants_pb2_grpc,
    tokens_pb2_grpc,
)
from control_plane.app.keys import Keys
from control_plane.app.process import (
    Process,
    context_key,
    open_database,
    open_listeners,
    open_process,
    platform_key_file,
    postgres_settings,
    read_valkey_key,
    serve,
    tls_files,
)
from control_plane.app.vaults import open_vault
from control_plane.audit.publication import Publication
from control_plane.audit.servicer import AuditServicer
from control_plane.cache.probing import Prober
from control_plane.cache.reconciler import Reconciler
from control_plane.isolation.probes.api import CertificatesApi
from control_plane.isolation.schedule import Schedule
from control_plane.isolation.service import Verifier, as_it_is, read_only
from control_plane.isolation.servicer import IsolationServicer
from control_plane.isolation.walls import Walls
from control_plane.keyring.destruction import Destroyer
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault import KeyVault
from control_plane.keys.wrapping import Wrapping
from control_plane.operations.jobs import JobQueue
from control_plane.operations.plan import DeferJob, Plans
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
from control_plane.postgres.schemas.tenancy import TENANT_VERSION
from control_plane.postgres.schemas.upgrades import CHANNEL as UPGRADE_CHANNEL
from control_plane.postgres.schemas.upgrades import SchemaUpgrades
from control_plane.purges.plan import Means as PurgeMeans
from control_plane.purges.plan import TenantPurge
from control_plane.purges.schedule import PurgeSchedule
from control_plane.settings import Settings
from control_plane.telemetry import configure_logging
from control_plane.tenants.provisioning import TenantCreation
from control_plane.tenants.servicer import TenantServicer
from control_plane.tokens.platform import PlatformIssuer, keep_admin_token
from control_plane.tokens.servicer import TokenServicer

_REFLECTED: Final = (
    "bulkhead.v1.TenantService",
    "bulkhead.v1.TokenService",
    "bulkhead.v1.AuditService",
    "bulkhead.v1.EdgeService",
    "bulkhead.v1.IsolationService",
    "bulkhead.v1.EncryptionService",
    "bulkhead.v1.SecretService",
    "bulkhead.v1.KeyService",
    "bulkhead.v1.KeyImportService",
    "bulkhead.v1.SigningService",
    "bulkhead.v1.KeyPolicyService",
    "bulkhead.v1.EscrowService",
    "google.longrunning.Operations",
    "grpc.health.v1.Health",
)


async def run_control_plane(settings: Settings) -> None:
    """Serve tenants, tokens, operations and audit logs until told to stop by SIGTERM or SIGINT."""
    configure_logging("control-plane")
    async with AsyncExitStack() as stack:
        issuer = await asyncio.to_thread(PlatformIssuer.load_or_create, platform_key_file(settings))
        postgres = postgres_settings(settings, "csm_control", tenant_connections=settings.control_plane_connections)
        vault = await open_vault(settings)
        database, keys = await open_database(stack, vault, postgres)
        platform_keys = PlatformKeys(vault, database)
        publication = Publication(database, keys, platform_keys)
        upgrades = _upgrades(database, keys, postgres)
        process = _open_process(settings, issuer, upgrades, database=database, keys=keys, publication=publication)
        directory = process.directory
        valkey_key = await read_valkey_key(settings)
        cache = await stack.enter_async_context(Reconciler.open(settings.valkey_socket, valkey_key, directory.everyone))
        queue = JobQueue(process.database, postgres)
        await stack.enter_async_context(queue.open())
        publisher = Publisher(process.database, partial(notified, postgres, policies_store.CHANNEL))
        edges = Edges(process.database)
        own = Keys(process=process, vault=vault, platform_keys=platform_keys, queue=queue, edges=edges)
        plans: Plans = {**_life(process, vault, platform_keys, cache), **own.plans()}
        reports = Reports(process.database, process.denials)
        verifier = await _open_verifier(stack, process, platform_keys, valkey_key)
        schedule = Schedule(database, directory, verifier=verifier, keys=platform_keys, random=SystemRandom().random)

        def add(server: grpc.aio.Server) -> None:
            _add_control_plane(server, process=process, plans=plans, defer=own.defer)
            _add_audit(server, process, publication)
            own.add(server, plans)
            _add_edges(server, publisher=publisher, edges=edges, reports=reports)
            _add_isolation(server, process, verifier, keys=platform_keys)

        await serve(
            process,
            open_listeners(process, settings.control_plane, add, reflected=_REFLECTED),
            [
                queue.work(OperationRunner(process.database, plans)),
                keep_admin_token(settings.admin_token_file, issuer),
                publisher.run(),
                edges.run(),
                edges.prune(),
                upgrades.run(),
                schedule.run(),
                cache.run(),
                PurgeSchedule(database, defer=own.defer, touched=process.sealer.touch).run(),
                *own.running(),
            ],
            draining=publisher.close,
        )


async def _open_verifier(stack: AsyncExitStack, process: Process, keys: PlatformKeys, valkey_key: bytes) -> Verifier:
    settings = process.settings
    tls, key = tls_files(settings.control_plane, settings), context_key(settings)
    api = await stack.enter_async_context(CertificatesApi.open(settings.certificates.internal_listen, tls, key))
    cache = await stack.enter_async_context(Prober.open(settings.valkey_socket, process.keys.derive, valkey_key))
    walls = Walls(
        database=process.database,
        directory=process.directory,
        keys=process.keys,
        tokens=process.verifier,
        objects=process.objects,
        cache=cache,
        api=api,
    )
    restrict = read_only(process.database, touched=process.sealer.touch) if settings.restricts_unsafe else as_it_is
    return Verifier(process.database, keys, walls, restrict=restrict, breached=process.breaches.note)


def _open_process(
    settings: Settings,
    issuer: PlatformIssuer,
    upgrades: SchemaUpgrades,
    *,
    database: Database,
    keys: TenantKeys,
    publication: Publication,
) -> Process:
    return open_process(
        settings,
        Directory(database, version=TENANT_VERSION, upgrade=upgrades.ensure),
        database=database,
        keys=keys,
        platform_key=issuer.public_key,
        publication=publication,
    )


def _life(process: Process, vault: KeyVault, platform_keys: PlatformKeys, cache: Reconciler) -> Plans:
    """Return how a tenant begins and ends."""
    creation = TenantCreation(
        process.database,
        process.directory,
        process.keys,
        cache_users=cache.users,
        touched=process.sealer.touch,
        cache_doubted=cache.hint,
    )
    wrapping = Wrapping(vault)
    root_of_trust = process.keys.root_of_trust
    purge = TenantPurge(
        PurgeMeans(
            database=process.database,
            directory=process.directory,
            keys=process.keys,
            wrapping=wrapping,
            destroyer=Destroyer(process.database, wrapping, platform_keys, root_of_trust=root_of_trust),
            objects=process.objects,
            cache_users=cache.users,
            cache_doubted=cache.hint,
            touched=process.sealer.touch,
        )
    )
    return {creation.kind: creation, purge.kind: purge}


def _upgrades(database: Database, keys: TenantKeys, postgres: PostgresSettings) -> SchemaUpgrades:
    told = partial(notified, postgres, UPGRADE_CHANNEL)
    return SchemaUpgrades(database, logins=keys.login, notified=told)


def _add_isolation(server: grpc.aio.Server, process: Process, verifier: Verifier, *, keys: PlatformKeys) -> None:
    isolation = IsolationServicer(verifier, keys, process.page_tokens)
    isolation_pb2_grpc.add_IsolationServiceServicer_to_server(isolation, server)


def _add_control_plane(server: grpc.aio.Server, *, process: Process, plans: Plans, defer: DeferJob) -> None:
    tenants = TenantServicer(process.directory, process.page_tokens, plans, defer=defer, keys=process.keys)
    tenants_pb2_grpc.add_TenantServiceServicer_to_server(tenants, server)
    tokens_pb2_grpc.add_TokenServiceServicer_to_server(TokenServicer(process.keys, process.page_tokens), server)
    operations = OperationsServicer(plans, process.page_tokens)
    operations_pb2_grpc.add_OperationsServicer_to_server(operations, server)  # type: ignore[no-untyped-call]  # no stubs


def _add_audit(server: grpc.aio.Server, process: Process, publication: Publication) -> None:
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(process.page_tokens, publication), server)


def _add_edges(server: grpc.aio.Server, *, publisher: Publisher, edges: Edges, reports: Reports) -> None:
    # On the listener for tokens, too, where it serves nobody: no token is an edge's.
    policies = PolicyServicer(publisher, edges, reports)
    policies_pb2_grpc.add_PolicyServiceServicer_to_server(policies, server)
    edges_pb2_grpc.add_EdgeServiceServicer_to_server(EdgeServicer(edges, reports.traffic), server)
