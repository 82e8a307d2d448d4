"""What a thief of the database and the object store has: nothing that opens."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control_plane.keys.model import IntegrityError, KekRef
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.store import ObjectStore, open_bucket
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from control_plane.stack.processes.binaries import postgres_binary
from tests.fixtures.stack import Stack

_TENANTS = ("dump_one", "dump_two")


def _json(stack: Stack, *arguments: str) -> Any:
    done = stack.bulkhead(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def secrets(stack: Stack, tmp_path: Path) -> list[str]:
    """Fill two tenants; return what must not be found in a dump."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dump.example")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    csr = tmp_path / "csr.pem"
    csr.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    found = []
    for tenant in _TENANTS:
        if stack.bulkhead("tenants", "get", tenant).returncode != 0:
            _json(stack, "tenants", "create", tenant)
        issued = _json(stack, "certificates", "issue", tenant, "--csr", str(csr))
        found += [line for line in issued["pem_chain"].splitlines() if len(line) == 64][:5]
        found.append(_json(stack, "tokens", "issue", tenant, "--subject", "alice")["token"].rpartition(".")[2])
        found.append(_json(stack, "tokens", "enrolment", tenant)["enrolment_token"])
    return found


def _dump(stack: Stack) -> str:
    postgres = json.loads((stack.dir / "config.json").read_text())["postgres"]
    socket_dir = stack.dir / postgres["socket_dir"]
    arguments = ["-h", str(socket_dir), "-p", str(postgres["port"]), "-U", "bulkhead", postgres["dbname"]]
    done = subprocess.run([postgres_binary("pg_dump"), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@asynccontextmanager
async def _opened(stack: Stack, vault: SoftwareVault) -> AsyncIterator[tuple[TenantKeys, ObjectStore, Directory]]:
    """Open the database and the objects with another vault, or with the right one."""
    postgres = json.loads((stack.dir / "config.json").read_text())["postgres"]
    settings = PostgresSettings(
        socket_dir=stack.dir / postgres["socket_dir"], port=postgres["port"], dbname=postgres["dbname"]
    )
    async with Database.open(settings) as database:
        keys = TenantKeys(vault, database)
        yield keys, ObjectStore(open_bucket(stack.dir / "objects"), keys, database.canaries), Directory(database)


async def _openings(keys: TenantKeys, objects: ObjectStore, placement: Placement) -> list[Awaitable[object]]:
    """Everything of a tenant that could be opened."""
    own = objects.of(placement)
    names = [name async for name in own.list()]
    assert names
    return [
        *(own.get(name.path, version=name.version) for name in names),
        keys.token_signer(placement),
        keys.authority(placement),
        keys.derive(placement, b"label"),
    ]


@pytest.mark.behaviour("T-K10")
def test_a_dump_holds_no_secret_as_it_is(stack: Stack, secrets: list[str]) -> None:
    objects = [path.read_bytes() for path in (stack.dir / "objects").rglob("*") if path.is_file()]
    dump = _dump(stack)
    whole = dump.encode() + b"".join(objects)

    assert len(objects) >= len(_TENANTS)
    assert all(f"tenant_{tenant}" in dump for tenant in _TENANTS), "a dump without the tenants would prove nothing"
    assert [secret for secret in secrets if secret.encode() in whole] == []
    assert b"PRIVATE KEY" not in whole


@pytest.mark.behaviour("S2.1")
@pytest.mark.usefixtures("secrets")
async def test_without_the_vault_nothing_opens_and_with_it_everything(stack: Stack, tmp_path: Path) -> None:
    shutil.copytree(stack.dir / "vault", tmp_path / "vault")
    thief = await SoftwareVault.open(tmp_path / "thief")
    for tenant in _TENANTS:
        uid = UUID(_json(stack, "tenants", "get", tenant)["uid"])
        # The most that a thief can do: keys of the same names.
        await thief.create_kek(KekRef(tenant_uid=uid, version=1))
    for tenant in _TENANTS:
        async with _opened(stack, await SoftwareVault.open(tmp_path / "vault")) as (keys, objects, directory):
            entry = await directory.find(tenant)
            assert entry is not None
            for opening in await _openings(keys, objects, entry.placement):
                await opening
        async with _opened(stack, thief) as (keys, objects, _):
            for opening in await _openings(keys, objects, entry.placement):
                with pytest.raises(IntegrityError):
                    await opening
