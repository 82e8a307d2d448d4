"""The certificate service: settings in, a running server out."""

import asyncio
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bulkhead.v1 import (
    certificates_pb2_grpc,
)
from control_plane.app.process import (
    open_database,
    open_listeners,
    open_process,
    platform_key_file,
    postgres_settings,
    read_valkey_key,
    serve,
)
from control_plane.app.vaults import open_vault
from control_plane.cache.handles import Caches
from control_plane.certificates.servicer import CertificateServicer
from control_plane.postgres.directory import Directory
from control_plane.postgres.schemas.tenancy import TENANT_VERSION
from control_plane.postgres.schemas.upgrades import Elsewhere
from control_plane.settings import Settings
from control_plane.telemetry import configure_logging
from control_plane.tokens.platform import load_public_key

_KEY_WITHIN: Final = timedelta(seconds=30)
_KEY_POLL: Final = timedelta(milliseconds=20)


async def run_certificates(settings: Settings) -> None:
    """Serve certificates until told to stop by SIGTERM or SIGINT. Needs no control plane."""
    configure_logging("certificates")
    async with AsyncExitStack() as stack:
        platform_key = await _awaitplatform_key_file(settings)
        postgres = postgres_settings(settings, "csm_directory", tenant_connections=settings.certificates_connections)
        database, keys = await open_database(stack, await open_vault(settings), postgres)
        # This process has no right to change a table: the control plane does it.
        directory = Directory(database, version=TENANT_VERSION, upgrade=Elsewhere(database).ensure)
        process = open_process(
            settings, directory, database=database, keys=keys, platform_key=platform_key, publication=None
        )
        valkey_key = await read_valkey_key(settings)
        caches = await stack.enter_async_context(Caches.open(settings.valkey_socket, process.keys.derive, valkey_key))

        def add(server: grpc.aio.Server) -> None:
            servicer = CertificateServicer(process.keys, process.objects, caches, page_tokens=process.page_tokens)
            certificates_pb2_grpc.add_CertificateServiceServicer_to_server(servicer, server)

        await serve(process, open_listeners(process, settings.certificates, add), [])


async def _awaitplatform_key_file(settings: Settings) -> Ed25519PublicKey:
    """Read what the platform's tokens are verified with; the very first time, wait for the control plane to make it."""
    async with asyncio.timeout(_KEY_WITHIN.total_seconds()):
        while True:
            with suppress(FileNotFoundError):
                return load_public_key(platform_key_file(settings))
            await asyncio.sleep(_KEY_POLL.total_seconds())
