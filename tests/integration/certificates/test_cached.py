"""A certificate's text is read from its tenant's cache, where it is there, and is the right one wherever it is read."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

from control_plane.cache.handles import Caches
from control_plane.certificates.service import Certificates
from control_plane.keys.model import IntegrityError
from tests.fixtures.cache import CacheServer, admit, be_patient, cache_server
from tests.integration.certificates.conftest import Bench

HOUR: Final = timedelta(hours=1)


@pytest.fixture
async def valkey() -> AsyncIterator[CacheServer]:
    async with cache_server(()) as server:
        yield server


@pytest.fixture
async def cached(bench: Bench, valkey: CacheServer) -> AsyncIterator[Bench]:
    """The same bench, whose service has a Valkey."""
    async with Caches.open(valkey.server.socket, bench.cell.keys.derive, valkey.server.secret) as caches:
        be_patient(caches._pool)
        certificates = Certificates(bench.cell.keys, bench.objects, caches)
        yield replace(bench, caches=caches, certificates=certificates)


async def test_a_text_that_was_read_before_is_read_from_the_cache(cached: Bench, valkey: CacheServer) -> None:
    tenant = await cached.cell.tenant()
    await admit(valkey.server, [tenant])
    issued = await cached.issue(tenant)
    first = await cached.certificates.get(issued.certificate, tenant)
    for file in cached.stored_files():
        file.unlink()
    again = await cached.certificates.get(issued.certificate, tenant)

    assert first == again == issued


async def test_a_text_in_the_cache_that_is_not_the_certificates_is_not_given_out(
    cached: Bench, valkey: CacheServer
) -> None:
    """Rightly sealed, for this tenant and this name, by whoever has taken the service's place."""
    tenant = await cached.cell.tenant()
    await admit(valkey.server, [tenant])
    issued = await cached.issue(tenant)
    cache = cached.caches.of(tenant)
    await cache.put(issued.certificate.object_path, b"another text", HOUR)
    read = await cached.certificates.get(issued.certificate, tenant)
    mended = await cache.get(issued.certificate.object_path)

    assert read == issued
    assert mended == issued.pem_chain.encode()


async def test_what_is_not_the_certificates_text_is_not_cached(cached: Bench, valkey: CacheServer) -> None:
    tenant = await cached.cell.tenant()
    await admit(valkey.server, [tenant])
    issued = await cached.issue(tenant)
    path = issued.certificate.object_path
    await cached.objects.of(tenant).put(path, plaintext=b"rightly sealed, but another text")
    with pytest.raises(IntegrityError):
        await cached.certificates.get(issued.certificate, tenant)

    assert await cached.caches.of(tenant).get(path) is None


@pytest.mark.behaviour("T-V7")
async def test_without_valkey_a_certificate_is_read_as_before(cached: Bench, valkey: CacheServer) -> None:
    tenant = await cached.cell.tenant()
    await admit(valkey.server, [tenant])
    issued = await cached.issue(tenant)
    await cached.certificates.get(issued.certificate, tenant)
    await valkey.server.kill()
    killed = await cached.certificates.get(issued.certificate, tenant)
    await valkey.server.restart(empty=True)
    emptied = await cached.certificates.get(issued.certificate, tenant)

    assert killed == emptied == issued


@pytest.mark.behaviour("T-K4")
async def test_a_text_that_was_cached_does_not_outlive_the_tenants_key(cached: Bench, valkey: CacheServer) -> None:
    tenant = await cached.cell.tenant()
    await admit(valkey.server, [tenant])
    issued = await cached.issue(tenant)
    await cached.certificates.get(issued.certificate, tenant)
    await cached.cell.keys.destroy(tenant)

    assert await cached.caches.of(tenant).get(issued.certificate.object_path) is None
    with pytest.raises(IntegrityError):
        await cached.certificates.get(issued.certificate, tenant)
