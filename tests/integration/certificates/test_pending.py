"""Wherever an issue stops, its certificate is acknowledged and whole, or nothing that anybody can see."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from control_plane.certificates import pending, store
from control_plane.certificates.model import Asked, Certificate
from control_plane.certificates.service import Certificates
from control_plane.errors import ConflictError, UnavailableError
from control_plane.objects.store import TenantObjects
from control_plane.postgres.database import PostgresSettings
from control_plane.postgres.placement import Placement
from control_plane.serving.paging import BEYOND_ALL_IDS
from tests.integration.certificates.conftest import Bench
from tests.integration.certificates.dying_issuer import POINTS
from tests.unit.certificates.signing_requests import signing_request

CSR = signing_request()


def later(bench: Bench, by: timedelta) -> Certificates:
    """Make the service of another process, whose clock is ahead."""
    return Certificates(bench.cell.keys, bench.objects, bench.caches, clock=lambda: datetime.now(UTC) + by)


async def visible(bench: Bench, tenant: Placement) -> list[Certificate]:
    return await bench.drafts(tenant).run(lambda tx: store.list_page(tx, before=BEYOND_ALL_IDS, limit=100))


async def test_a_killed_issue_leaves_a_whole_certificate_or_nothing(
    bench: Bench, postgres_settings: PostgresSettings, tmp_path: Path
) -> None:
    tenant = await bench.cell.tenant()
    requests = {point: str(uuid4()) for point in POINTS}
    where = {
        "socket_dir": str(postgres_settings.socket_dir),
        "port": postgres_settings.port,
        "dbname": postgres_settings.dbname,
        "vault": str(bench.vault_dir),
        "bucket": str(bench.bucket_dir),
        "tenant": asdict(tenant) | {"uid": str(tenant.uid)},
        "csr_pem": CSR,
        "requests": requests,
    }
    script = Path(__file__).with_name("dying_issuer.py")
    await asyncio.to_thread(subprocess.run, [sys.executable, str(script), json.dumps(where)], check=True, timeout=60)

    (whole,) = await visible(bench, tenant)
    assert str(whole.request_id) == requests["after the activation"]
    assert (await bench.certificates.get(whole, tenant)).pem_chain.startswith("-----BEGIN CERTIFICATE-----")
    assert len(await bench.rows(tenant)) == 5

    # Each caller repeats its request, as if it had not got an answer.
    soon = later(bench, timedelta(seconds=6))
    for request_id in requests.values():
        request = Asked(csr_pem=CSR, request_id=request_id)
        await soon.issue(request, drafts=bench.drafts(tenant), effects=bench.effects(tenant))
    assert {str(one.request_id) for one in await visible(bench, tenant)} == set(requests.values())

    # And the next issue, minutes later, leaves nothing of what was cut off.
    await later(bench, timedelta(minutes=6)).check(Asked(csr_pem=CSR), bench.drafts(tenant))
    found = await visible(bench, tenant)
    assert {row["id"] for row in await bench.rows(tenant)} == {one.id for one in found}
    assert await bench.paths(tenant) == sorted(one.object_path for one in found)


async def test_a_process_that_died_blocks_its_request_for_seconds_only(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    request = Asked(csr_pem=CSR, request_id=str(uuid4()))
    await _cut_off(bench, tenant, request)

    assert await visible(bench, tenant) == []
    issued = await later(bench, timedelta(seconds=6)).issue(
        request, drafts=bench.drafts(tenant), effects=bench.effects(tenant)
    )
    assert await visible(bench, tenant) == [issued.certificate]


async def test_of_two_who_carry_out_one_request_the_slower_one_withdraws(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await bench.cell.tenant()
    request = Asked(csr_pem=CSR, request_id=str(uuid4()))
    stored, released = asyncio.Event(), asyncio.Event()
    put = TenantObjects.put

    async def slow_put(objects: TenantObjects, path: str, *, plaintext: bytes) -> None:
        await put(objects, path, plaintext=plaintext)
        stored.set()
        await released.wait()

    monkeypatch.setattr(TenantObjects, "put", slow_put)
    slower = asyncio.create_task(bench.issue(tenant, request))
    await stored.wait()
    monkeypatch.setattr(TenantObjects, "put", put)
    faster = await later(bench, timedelta(seconds=6)).issue(
        request, drafts=bench.drafts(tenant), effects=bench.effects(tenant)
    )
    released.set()

    with pytest.raises(ConflictError):
        await slower
    assert (await bench.issue(tenant, request)).pem_chain == faster.pem_chain
    assert [row["id"] for row in await bench.rows(tenant)] == [faster.certificate.id]
    assert await bench.paths(tenant) == [faster.certificate.object_path]
    assert len(await bench.rows(tenant, "audit_entries")) == 1


@pytest.mark.parametrize("done", [False, True], ids=["failed before", "done, but reported failed"])
async def test_a_bucket_that_is_away_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, done: bool
) -> None:
    tenant = await bench.cell.tenant()
    request = Asked(csr_pem=CSR, request_id=str(uuid4()))
    with monkeypatch.context() as patched:
        patched.setattr(TenantObjects, "put", _failing(TenantObjects.put, done=done))
        with pytest.raises(UnavailableError):
            await bench.issue(tenant, request)

    assert await bench.rows(tenant) == []
    assert await bench.paths(tenant) == []
    assert (await bench.issue(tenant, request)).certificate.is_visible


async def test_a_lost_answer_of_the_database_loses_no_certificate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await bench.cell.tenant()
    request = Asked(csr_pem=CSR, request_id=str(uuid4()))
    effects = bench.effects(tenant)
    with monkeypatch.context() as patched:
        patched.setattr(type(effects), "run", _failing(type(effects).run, done=True, after=2))
        with pytest.raises(UnavailableError):
            await bench.certificates.issue(request, drafts=bench.drafts(tenant), effects=effects)

    (whole,) = await visible(bench, tenant)
    assert (await bench.issue(tenant, request)).certificate.id == whole.id


async def test_a_cancelled_call_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await bench.cell.tenant()
    stored = asyncio.Event()
    put = TenantObjects.put

    async def endless_put(objects: TenantObjects, path: str, *, plaintext: bytes) -> None:
        await put(objects, path, plaintext=plaintext)
        stored.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(TenantObjects, "put", endless_put)
    task = asyncio.create_task(bench.issue(tenant))
    await stored.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await bench.rows(tenant) == []
    assert await bench.paths(tenant) == []


async def test_a_sweep_that_fails_is_made_up_for_by_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await bench.cell.tenant()
    await _cut_off(bench, tenant, Asked(csr_pem=CSR))
    process = later(bench, timedelta(minutes=6))
    with monkeypatch.context() as patched:
        patched.setattr(TenantObjects, "delete", _failing(TenantObjects.delete, done=False))
        await process.check(Asked(csr_pem=CSR), bench.drafts(tenant))

    assert len(await bench.rows(tenant)) == len(await bench.paths(tenant)) == 1
    await process.check(Asked(csr_pem=CSR), bench.drafts(tenant))
    assert await bench.rows(tenant) == []
    assert await bench.paths(tenant) == []


async def test_a_sweep_leaves_what_is_young_and_what_is_others(bench: Bench) -> None:
    tenant, other = await bench.cell.tenant("org_1"), await bench.cell.tenant("org_2")
    for placement in (tenant, other):
        await _cut_off(bench, placement, Asked(csr_pem=CSR))
    await bench.certificates.check(Asked(csr_pem=CSR), bench.drafts(tenant))
    assert len(await bench.rows(tenant)) == 1

    await later(bench, timedelta(minutes=6)).check(Asked(csr_pem=CSR), bench.drafts(tenant))
    assert await bench.rows(tenant) == []
    assert len(await bench.rows(other)) == len(await bench.paths(other)) == 1


async def _cut_off(bench: Bench, tenant: Placement, request: Asked) -> None:
    """Leave what a process leaves that dies between the object and the activation."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "activate", _failing(store.activate, done=False))
        patched.setattr(pending, "withdraw", _nothing)
        with pytest.raises(UnavailableError):
            await bench.issue(tenant, request)


async def _nothing(*_args: object, **_kwargs: object) -> None:
    return None


def _failing(work: Callable[..., Awaitable[object]], *, done: bool, after: int = 0) -> Callable[..., Awaitable[object]]:
    """Make `work` fail after some calls: before it is done, or done, but reported failed. Once."""
    calls = 0

    async def run(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls != after + 1:
            return await work(*args, **kwargs)
        if done:
            await work(*args, **kwargs)
        raise UnavailableError("a fault")

    return run
