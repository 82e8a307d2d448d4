"""Which buckets are opened, with which options, and where credentials are read."""

import json
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from control_plane.errors import PreconditionError
from control_plane.objects import bucket_obstore
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.credentials import Credentials, UnusableCredentialsError, read_credentials
from control_plane.objects.store import open_bucket

SAID = {"access_key_id": "id", "secret_access_key": "very secret"}


def _file(path: Path, content: str, *, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_location_is_a_directory_or_the_url_of_a_bucket(tmp_path: Path) -> None:
    credentials = _file(tmp_path / "credentials", json.dumps(SAID))

    assert isinstance(open_bucket("/state/objects"), LocalBucket)
    assert isinstance(open_bucket(tmp_path), LocalBucket)
    assert isinstance(open_bucket("file:///state/objects"), LocalBucket)
    for url in ("s3://objects", "s3://objects/prefix/of/it"):
        assert isinstance(open_bucket(url, options={"region": "local"}, credentials_file=credentials), ObstoreBucket)
    assert isinstance(open_bucket("gs://objects"), ObstoreBucket)
    assert isinstance(open_bucket("az://objects", options={"account_name": "example"}), ObstoreBucket)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://somewhere/objects", "s3://", "http://somewhere/objects", "https://bucket.s3.amazonaws.com",
        "s3a://objects", "memory:///", "file://somewhere/objects", "s3://very secret@objects",
        "s3://id:very secret@objects", "s3://objects?very secret", "s3://objects#very secret",
    ],
)  # fmt: skip
def test_a_url_of_another_kind_is_refused_and_no_secret_in_it_is_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="no bucket") as refused:
        open_bucket(url)
    assert "very secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "option",
    [
        "nonsense", "access_key_id", "secret_access_key", "session_token", "token", "account_key", "sas_token",
        "client_secret", "bearer_token", "service_account_key", "sse_customer_key_base64", "skip_signature",
        "allow_invalid_certificates", "allow_http", "aws_secret_access_key", "AWS_SECRET_ACCESS_KEY", "bucket",
    ],
)  # fmt: skip
def test_an_option_that_is_a_credential_or_does_away_with_them_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="no bucket has") as refused:
        open_bucket("s3://objects", options={option: "very secret"})
    assert "very secret" not in str(refused.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://id:secret@s3.example.com", "https://secret@s3.example.com", "https://s3.example.com?secret", "secret",
        "https://", "ftp://s3.example.com", "https://s3.example.com#secret", "https://s3.example.com/a b", "https:// ",
        "https://:9000", "https://s3.example.com:secret", "https://::", "",
    ],
)  # fmt: skip
def test_an_endpoint_that_is_none_or_has_more_in_it_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(ValueError, match="no bucket is at such an endpoint") as refused:
        open_bucket("s3://objects", options={"endpoint": endpoint})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "https://[::1]:9000", "https://s3.example.com/of/it"])
def test_an_endpoint_is_a_host_with_a_port_and_a_path(endpoint: str) -> None:
    assert isinstance(open_bucket("s3://objects", options={"endpoint": endpoint}), ObstoreBucket)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("gs://objects", {"account_name": "example"}),
        ("s3://objects", {"timeout": "soon"}),
        ("s3://objects", {"virtual_hosted_style_request": "maybe"}),
    ],
)
def test_an_option_of_another_service_or_of_no_sense_is_refused(url: str, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no bucket that can be used"):
        open_bucket(url, options=options)


def test_a_directory_takes_no_options_and_only_s3_a_file_of_credentials(tmp_path: Path) -> None:
    credentials = _file(tmp_path / "credentials", json.dumps(SAID))

    for location, options, file in (
        ("objects", {"region": "local"}, None),
        ("objects", {}, credentials),
        ("gs://objects", {}, credentials),
    ):
        with pytest.raises(ValueError, match="credentials"):
            open_bucket(location, options=options, credentials_file=file)


def test_credentials_are_read_and_not_shown(tmp_path: Path) -> None:
    for said in (SAID, {**SAID, "session_token": "very secret too"}):
        read = read_credentials(_file(tmp_path / "credentials", json.dumps(said)))

        assert read == Credentials(**said)
        assert "very secret" not in repr(read)


@pytest.mark.parametrize(
    "said",
    [
        "", "{}", "[]", '"very secret"', "very secret", {**SAID, "more": "very secret"},
        {"access_key_id": "very secret"}, {**SAID, "access_key_id": ""}, {**SAID, "secret_access_key": 7},
        {**SAID, "session_token": None},
    ],
)  # fmt: skip
def test_a_file_of_another_content_is_refused_and_nothing_of_it_is_told(tmp_path: Path, said: Any) -> None:
    file = _file(tmp_path / "credentials", said if isinstance(said, str) else json.dumps(said))

    with pytest.raises(UnusableCredentialsError, match="has to be a JSON object") as refused:
        open_bucket("s3://objects", credentials_file=file)
    assert "very secret" not in str(refused.value)


def test_a_file_that_is_not_there_or_lies_open_to_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableCredentialsError, match="cannot be read: No such file"):
        open_bucket("s3://objects", credentials_file=tmp_path / "absent")
    with pytest.raises(UnusableCredentialsError, match="is open to others"):
        open_bucket("s3://objects", credentials_file=_file(tmp_path / "open", json.dumps(SAID), mode=0o640))


class Forgetful:
    """A service that takes conditions, as some do, and replaces all the same."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def put_async(self, key: str, data: bytes, **_: object) -> Any:
        return await self.store.put_async(key, data)


@pytest.mark.behaviour("S2.5")
async def test_a_service_that_knows_no_conditions_replaces_nothing() -> None:
    store: Any = Forgetful()
    bucket = ObstoreBucket(store)
    await bucket.put("storage/org_1/a", b"as it was")

    with pytest.raises(PreconditionError) as refused:
        await bucket.replace("storage/org_1/a", _shouted)
    assert refused.value.code == "BUCKET_UNCONDITIONAL"
    assert [(key, await bucket.get(key)) async for key in bucket.keys_below("")] == [("storage/org_1/a", b"as it was")]


async def test_what_is_too_long_for_one_request_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = ObstoreBucket(MemoryStore())
    await bucket.put("storage/org_1/a", b"aaaa")
    monkeypatch.setattr(bucket_obstore, "REPLACED_BYTES", 3)

    with pytest.raises(PreconditionError) as refused:
        await bucket.replace("storage/org_1/a", _shouted)
    assert refused.value.code == "OBJECT_TOO_LARGE"
    assert await bucket.get("storage/org_1/a") == b"aaaa"


async def _shouted(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield part.upper()
