"""The stack with its objects in somebody else's bucket, as an operator puts them there: in `config.json`."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from control_plane.stack.processes.locks import is_held
from tests.fixtures.s3 import BUCKET, SECRET_ACCESS_KEY, S3Server
from tests.fixtures.stack import Stack, empty_stack_dir
from tests.unit.certificates.signing_requests import signing_request


@pytest.fixture
def fresh() -> Iterator[Stack]:
    """A stack that was up once, and is not now."""
    with empty_stack_dir() as directory:
        stack = Stack(directory)
        assert stack.bulkhead("up", "--detach").returncode == 0
        stack.bulkhead("down")
        yield stack
        if is_held(directory / "lock"):
            stack.bulkhead("down")


def _put_objects(stack: Stack, objects: object) -> None:
    config = stack.dir / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"objects": objects}))


def _json(stack: Stack, *arguments: str) -> Any:
    done = stack.bulkhead(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def _keys(server: S3Server, prefix: str) -> list[str]:
    return [key async for key in server.bucket(prefix).keys_below("storage")]


@pytest.mark.behaviour("S1.9")
def test_certificates_are_kept_in_s3_and_read_from_it(fresh: Stack, s3_server: S3Server, tmp_path: Path) -> None:
    prefix = str(uuid4())
    (fresh.dir / "secrets" / "s3.json").touch(mode=0o600)
    (fresh.dir / "secrets" / "s3.json").write_bytes(s3_server.credentials_file.read_bytes())
    options = {**s3_server.options, "timeout": "1s"}
    _put_objects(fresh, {"url": f"s3://{BUCKET}/{prefix}", "options": options, "credentials_file": "secrets/s3.json"})
    (tmp_path / "csr.pem").write_text(signing_request())
    assert fresh.bulkhead("up", "--detach").returncode == 0
    _json(fresh, "tenants", "create", "initech")
    issued = _json(fresh, "certificates", "issue", "initech", "--csr", str(tmp_path / "csr.pem"))
    name = issued["name"]
    unread = _json(fresh, "certificates", "issue", "initech", "--csr", str(tmp_path / "csr.pem"))

    assert _json(fresh, "certificates", "get", name)["pem_chain"] == issued["pem_chain"]
    certificates = sorted(one["name"].rpartition("/")[2] for one in (issued, unread))
    kept = [f"storage/initech/certificates/{certificate}.pem" for certificate in certificates]
    assert sorted(key for key in asyncio.run(_keys(s3_server, prefix)) if "/certificates/" in key) == kept
    assert not [path for path in (fresh.dir / "objects").rglob("*") if path.is_file()]
    with s3_server.hanging():
        # What was read a moment ago is in the tenant's cache.
        assert _json(fresh, "certificates", "get", name)["pem_chain"] == issued["pem_chain"]
        away = fresh.bulkhead("certificates", "get", unread["name"], "--json")
        assert away.returncode == 6
        assert json.loads(away.stderr)["error"]["reason"] == "STORAGE_UNAVAILABLE"
        assert fresh.bulkhead("tenants", "get", "initech").returncode == 0
    assert _json(fresh, "certificates", "get", unread["name"])["pem_chain"] == unread["pem_chain"]
    assert SECRET_ACCESS_KEY not in "".join(path.read_text() for path in (fresh.dir / "logs").iterdir())


def test_a_bucket_that_cannot_be_opened_stops_the_start_and_says_why(fresh: Stack) -> None:
    _put_objects(fresh, {"url": "s3://objects", "options": {"secret_access_key": "very secret"}})
    up = fresh.bulkhead("up", "--detach")

    assert up.returncode == 6
    assert "`objects` in config.json cannot be used: no bucket has ['secret_access_key']" in up.stderr
    assert "very secret" not in up.stderr
