"""A value is where it belongs and nowhere else: a whole life of one, and then a search through all that was written."""

import base64
import hashlib
import json
import traceback
from collections.abc import Awaitable
from pathlib import Path
from uuid import uuid4

import grpc
import psycopg
import pytest
from psycopg.rows import DictRow
from structlog.testing import capture_logs

from bulkhead.v1 import secret_versions_pb2 as versions_pb2
from bulkhead.v1 import secrets_pb2
from control_plane.secrets import service
from control_plane.secrets.model import Settings
from tests.fixtures.cell import Metadata, SecretStub, reason_of
from tests.fixtures.postgres import PostgresServer

NAME = "tenants/org_1/secrets/crm"
VALUES = (b"correct-horse-battery", b"staple-under-the-stone")


async def live(stub: SecretStub, admin: Metadata, reader: Metadata) -> list[str]:
    """Create, add, read, refuse, alter, destroy and delete; return the texts of all refusals."""
    first, second = VALUES
    request_id = str(uuid4())
    create = secrets_pb2.CreateSecretRequest(
        parent="tenants/org_1",
        secret_id="crm",
        payload=first,
        request_id=request_id,
    )
    add = versions_pb2.AddSecretVersionRequest(parent=NAME, payload=second, request_id=request_id)
    reading = versions_pb2.AccessSecretVersionRequest(name=f"{NAME}/versions/latest")
    await stub.CreateSecret(create, metadata=admin)
    await stub.AddSecretVersion(add, metadata=admin)
    assert (await stub.AccessSecretVersion(reading, metadata=reader)).payload == second
    await stub.DisableSecretVersion(versions_pb2.DisableSecretVersionRequest(name=f"{NAME}/versions/2"), metadata=admin)
    refused: list[Awaitable[object]] = [
        stub.CreateSecret(create.__class__(parent="tenants/org_1", secret_id="crm", payload=first), metadata=admin),
        stub.AddSecretVersion(add.__class__(parent=NAME, payload=first, request_id=request_id), metadata=admin),
        stub.AddSecretVersion(add.__class__(parent=NAME, payload=second * 4096), metadata=admin),
        stub.AddSecretVersion(add.__class__(parent=NAME, payload=second, payload_sha256=first), metadata=admin),
        stub.AccessSecretVersion(reading, metadata=reader),
        stub.AccessSecretVersion(reading, metadata=admin),
    ]
    texts = []
    for call in refused:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        texts.append(f"{error.value} {error.value.trailing_metadata()} {reason_of(error.value)}")
    return texts


async def written(superuser: psycopg.AsyncConnection[DictRow]) -> str:
    """Return every row of every table of the tenant and of the platform, bytes in hexadecimal."""
    tables = await superuser.execute(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname ~ '^(tenant_|csm_)'"
    )
    rows = []
    for table in await tables.fetchall():
        found = await superuser.execute(f"SELECT it::text AS written FROM {table['name']} AS it")
        rows += [row["written"] for row in await found.fetchall()]
    return "\n".join(rows)


def _whole(value: object) -> str:
    """Write an error with its traceback, as the log does."""
    return "".join(traceback.format_exception(value)) if isinstance(value, BaseException) else repr(value)


def forms(value: bytes) -> list[str]:
    """Write a value as it could be found: plain, in base64, in hexadecimal, and by its plain hash."""
    encoded = base64.b64encode(value).decode().rstrip("=")
    return [value.decode(), encoded, value.hex(), hashlib.sha256(value).hexdigest()]


@pytest.mark.behaviour("S9.3", "H1")
async def test_a_value_is_in_no_row_no_entry_no_log_and_no_error(
    stub: SecretStub,
    admin: Metadata,
    *,
    reader: Metadata,
    superuser: psycopg.AsyncConnection[DictRow],
    postgres_server: PostgresServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(0)
    await superuser.execute("ALTER SYSTEM SET log_statement = 'all'")
    await superuser.execute("SELECT pg_reload_conf()")
    try:
        with capture_logs() as events:
            refusals = await live(stub, admin, reader)
            # What does not open is logged whole, as a fault of ours.
            await superuser.execute("UPDATE tenant_org_1.secret_versions SET state = 'ENABLED', number = number + 10")
            reading = versions_pb2.AccessSecretVersionRequest(name=f"{NAME}/versions/12")
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.AccessSecretVersion(reading, metadata=reader)
    finally:
        await superuser.execute("ALTER SYSTEM RESET log_statement")
        await superuser.execute("SELECT pg_reload_conf()")
    server_log = (Path(postgres_server.socket_dir) / "log").read_text(errors="replace")
    logs = json.dumps(events, default=_whole) + caplog.text + "".join(capfd.readouterr())
    everything = "\n".join([*refusals, await written(superuser), server_log, logs])

    # What was looked through is what there was to look through.
    assert "secret_versions" in server_log
    assert "sealed_data_refused" in logs
    assert "AccessSecretVersion" in everything
    assert [form for value in VALUES for form in forms(value) if form in everything] == []


def test_what_carries_a_value_does_not_show_it() -> None:
    value = VALUES[0]
    shown = [
        repr(service.Creation(secret_id="crm", settings=Settings(), actor="a", request_id=None, payload=value)),
        repr(service.Addition(secret_id="crm", actor="a", request_id=None, payload=value)),
        repr(service.Opened(number=1, payload=value, sha256=value)),
    ]

    assert [text for text in shown if value.decode() in text] == []
