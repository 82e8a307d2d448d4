"""What a thief of the database and the object store has: nothing that opens."""

import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from control_plane.keys.model import IntegrityError, KekRef, Purpose
from control_plane.keys.service import TenantKeys
from control_plane.keys.store import StoredKey, all_of
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.store import ObjectStore, open_bucket
from control_plane.postgres.database import Database, PostgresSettings, SystemTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from control_plane.stack.processes.binaries import postgres_binary
from tests.fixtures.stack import Stack
from tests.isolation.dump import Blob, Dump, Keys, openings, read_dump, verified

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
            _store_more(stack, tenant, tmp_path)
        issued = _json(stack, "certificates", "issue", tenant, "--csr", str(csr))
        found += [line for line in issued["pem_chain"].splitlines() if len(line) == 64][:5]
        found.append(_json(stack, "tokens", "issue", tenant, "--subject", "alice")["token"].rpartition(".")[2])
        found.append(_json(stack, "tokens", "enrolment", tenant)["enrolment_token"])
    return found


def _store_more(stack: Stack, tenant: str, folder: Path) -> None:
    """Have versions of keys, retired and destroyed ones too, and something that each of them has sealed."""
    admin, value = folder / f"{tenant}.token", folder / "value"
    value.write_bytes(b"a value that nobody else is to read")
    _json(stack, "tokens", "issue", tenant, "--subject", "admin", "--role", "tenant-admin", "--out", str(admin))
    as_admin = ("--token-file", str(admin))
    _json(stack, "secrets", "create", tenant, "api", "--file", str(value), *as_admin)
    _json(stack, "isolation", "verify", tenant)
    for key in ("storage", "services", "tokens", "kek"):
        _json(stack, "keys", "rotate", f"tenants/{tenant}/keys/{key}")
    _json(stack, "secrets", "add", f"tenants/{tenant}/secrets/api", "--file", str(value), *as_admin)


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
        keys.authorities(placement),
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
        for version in (1, 2):
            await thief.create_kek(KekRef(tenant_uid=uid, version=version))
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


async def _keys_of(vault: SoftwareVault, stored: Sequence[StoredKey], keks: Sequence[KekRef], owner: UUID) -> Keys:
    """Open all keys of a tenant, as the vault does."""
    own = [key for key in stored if key.tenant_uid == owner]
    private = {
        (key.purpose.value, key.version): await vault.unwrap(key.kek, key.wrapped, aad=key.binding.aad()) for key in own
    }
    return Keys(
        owner=owner,
        keks={kek.version: vault._read(kek) for kek in keks if kek.tenant_uid == owner},
        private=private,
        signers=[
            Ed25519PublicKey.from_public_bytes(key.public)
            for key in own
            if key.purpose is Purpose.TOKENS and key.public is not None
        ],
    )


async def _all_keys(stack: Stack) -> list[StoredKey]:
    async with _opened(stack, await SoftwareVault.open(stack.dir / "vault")) as (keys, _, directory):
        placements = [placement async for placement in directory.placements()]

        async def read(tx: SystemTransaction) -> list[StoredKey]:
            return [key for each in placements for key in await all_of(tx, each.uid)]

        return await keys._system.run(read)


def _kinds(found: Iterable[str]) -> set[str]:
    """Say of what kinds it is that something opens."""
    return {"object" if name.startswith("storage/") else name.partition("(")[0].partition(".")[2] for name in found}


@contextmanager
def _read(stack: Stack, stored: Sequence[StoredKey], *, planted: str | None = None) -> Iterator[Dump]:
    """Read all that is stored, and what is planted for this once."""
    postgres = json.loads((stack.dir / "config.json").read_text())["postgres"]
    address = {"host": str(stack.dir / postgres["socket_dir"]), "port": postgres["port"], "dbname": postgres["dbname"]}
    with psycopg.connect(user="bulkhead", **address) as connection:
        if planted is not None:
            connection.execute("CREATE TABLE public.planted (said jsonb)")
            connection.execute("INSERT INTO public.planted VALUES (%s)", [json.dumps({"why": planted})])
        yield read_dump(connection, stack.dir / "objects", stored)
        connection.rollback()


async def _tenants(stack: Stack, stored: Sequence[StoredKey]) -> list[Keys]:
    vault = await SoftwareVault.open(stack.dir / "vault")
    keks = await vault.keks()
    return [await _keys_of(vault, stored, keks, uid) for uid in sorted({key.tenant_uid for key in stored})]


def _own(dump: Dump) -> list[Blob]:
    """Return what is sealed for the two tenants: others come and go."""
    uids = {uid for uid, name in dump.owners.items() if name in _TENANTS}
    found = [blob for blob in dump.sealed if blob.owner in uids]
    assert {blob.owner for blob in found} == uids
    return found


@pytest.mark.behaviour("S2.1")
@pytest.mark.behaviour("S2.7")
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("secrets")
async def test_nothing_that_is_stored_opens_with_the_keys_of_another_tenant_or_with_what_is_stored_beside_it(
    stack: Stack,
) -> None:
    stored = await _all_keys(stack)
    tenants = await _tenants(stack, stored)
    own, others, beside = list[str](), list[str](), list[str]()
    with _read(stack, stored) as dump:
        for blob in _own(dump):
            for keys in tenants:
                bindings = dump.bindings(blob, of={blob.owner or keys.owner, keys.owner})
                (own if keys.owner == blob.owner else others).extend(openings(blob, keys.secret, bindings))
            beside.extend(openings(blob, dump.key_bytes, dump.bindings(blob, of=[blob.owner] if blob.owner else [])))
        signers = [signer for keys in tenants for signer in keys.signers]

        assert list(verified(dump, signers)) == []
    # What opens nothing for anybody would prove nothing.
    assert _kinds(own) >= {"object", "secret_versions", "tenant_keys"}
    assert others == []
    assert beside == []


@pytest.mark.usefixtures("secrets")
async def test_a_key_that_somebody_has_written_down_would_be_noticed(stack: Stack) -> None:
    stored = await _all_keys(stack)
    keys = next(
        keys for keys in await _tenants(stack, stored) if {2} <= keys.keks.keys() and ("storage", 2) in keys.private
    )
    for written in (base64.b64encode(keys.keks[2]).decode(), f"the key is {keys.private['storage', 2].hex()}"):
        with _read(stack, stored, planted=written) as dump:
            found = [
                opened
                for blob in dump.sealed
                if blob.owner == keys.owner
                for opened in openings(blob, dump.key_bytes, dump.bindings(blob, of={keys.owner}))
            ]

        assert found != []
