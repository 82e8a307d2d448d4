"""A real S3 server: where its credentials come from, and what is seen and left when it is away, slow or broken."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import structlog

from control_plane.errors import UnavailableError
from control_plane.keys.model import IntegrityError
from control_plane.keys.service import TenantKeys
from control_plane.objects import bucket_obstore
from control_plane.objects.bucket import Bucket
from control_plane.objects.store import ObjectStore, open_bucket
from tests.fixtures.objects import ALPHA, BETA, CANARIES
from tests.fixtures.relay import Relay, answering
from tests.fixtures.s3 import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, S3Server

KEY, SIBLING = "storage/org_1/a.pem", "storage/org_1/b.pem"
MIB: Final = 1024 * 1024
# It gives up by itself; were it not to, this would.
pytestmark = pytest.mark.timeout(100)


class SourceError(Exception):
    """What the source of a stream raises."""


async def _source(count: int, *, then: Callable[[], Awaitable[object]] | None = None) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(MIB)
    if then is not None:
        await then()


async def _read(bucket: Bucket, key: str = KEY) -> bytes:
    async with aclosing(bucket.get_stream(key)) as parts:
        return b"".join([part async for part in parts])


async def _listed(bucket: Bucket) -> list[str]:
    return sorted([key async for key in bucket.keys_below("storage")])


async def _left_behind(s3_server: S3Server, give_up: Callable[[], Awaitable[object]]) -> int:
    """Count what is left on the server of what is given up: the least of some tries.

    A part that the service has whole as it is told to forget the upload may be written after that, in any S3, and what
    an earlier try left may go meanwhile.
    """
    least = 100
    for _ in range(3):
        before = s3_server.unfinished_uploads()
        await give_up()
        least = min(least, len(s3_server.unfinished_uploads() - before))
        if not least:
            break
    return least


async def _cancel(putting: Awaitable[object], *, turns: int) -> None:
    task = asyncio.ensure_future(putting)
    for _ in range(turns):
        await asyncio.sleep(0.003)
    task.cancel()
    await asyncio.wait([task])


def _uses(bucket: Bucket) -> dict[str, Awaitable[object]]:
    return {
        "put": bucket.put(KEY, b"a"),
        "put_stream": bucket.put_stream(KEY, _source(20)),
        "a short put_stream": bucket.put_stream(KEY, _source(1)),
        "get": bucket.get(KEY),
        "get_stream": _read(bucket),
        "delete": bucket.delete(KEY),
        "list": _listed(bucket),
    }


async def _unavailable(bucket: Bucket, *, but: frozenset[str] = frozenset()) -> str:
    """See that nothing can be done with it; return all that is said about it."""
    uses = _uses(bucket)
    with structlog.testing.capture_logs() as events:
        results = await asyncio.gather(*uses.values(), return_exceptions=True)
    failed = dict(zip(uses, results, strict=True))

    assert {what: type(result) for what, result in failed.items() if what not in but} == dict.fromkeys(
        uses.keys() - but, UnavailableError
    )
    assert {getattr(result, "code", "") for what, result in failed.items() if what not in but} == {
        "STORAGE_UNAVAILABLE"
    }
    assert events
    return f"{bucket!r} {events} {[(repr(each), repr(getattr(each, '__cause__', None))) for each in results]}"


@pytest.fixture
def nobody_there() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def _credentials(path: Path, *, secret: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(json.dumps({"access_key_id": ACCESS_KEY_ID, "secret_access_key": secret}))
    return path


async def test_a_service_that_is_away_is_unavailable_and_tells_no_credential(nobody_there: str, tmp_path: Path) -> None:
    bucket = open_bucket(
        f"s3://{BUCKET}",
        options={"endpoint": nobody_there, "region": "local"},
        credentials_file=_credentials(tmp_path / "credentials", secret="very secret"),
    )

    assert "very secret" not in await _unavailable(bucket)


async def test_a_service_that_hangs_is_given_up_and_nothing_half_made_is_seen(s3_server: S3Server) -> None:
    # The first write of all may take the server longer than what hangs is given.
    await s3_server.bucket("hanging").put(SIBLING, b"before")
    bucket = s3_server.bucket("hanging", timeout="1s")
    stopped = asyncio.Event()

    async def hang() -> None:
        stopped.set()
        await resumed.wait()

    resumed = asyncio.Event()
    half_sent = asyncio.create_task(bucket.put_stream(SIBLING, _source(12, then=hang)))
    await stopped.wait()
    with s3_server.hanging():
        resumed.set()
        await _unavailable(bucket)
        with pytest.raises(UnavailableError):
            await half_sent

    # Of what was sent whole before it hung, nobody can say whether it arrives when it goes on.
    assert await bucket.get(SIBLING) == b"before"
    assert set(await _listed(bucket)) <= {KEY, SIBLING}
    if KEY in await _listed(bucket):
        assert len(await bucket.get(KEY)) in {1, MIB}


@pytest.mark.parametrize("after", [0, 3 * MIB, 9 * MIB, 17 * MIB])
async def test_a_way_that_is_cut_leaves_what_was_there(s3_server: S3Server, after: int) -> None:
    direct = s3_server.bucket(f"cut-{after}")
    await direct.put(KEY, b"before")
    async with Relay(most_bytes=after).opened(s3_server.endpoint) as relay:
        through = s3_server.bucket(f"cut-{after}", endpoint=relay.address)
        with pytest.raises(UnavailableError):
            await through.put_stream(KEY, _source(20))

    assert await direct.get(KEY) == b"before"
    assert await _listed(direct) == [KEY]


HALF: Final = (
    b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\netag: "a"\r\nlast-modified: Mon, 23 Nov 2026 10:00:00 GMT\r\n\r\nhalf'
)


def _error(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>{SECRET_ACCESS_KEY}</Message></Error>"
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"{head}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answer", "read_is_absent"),
    [
        (_error("500 Internal Server Error", "InternalError"), False),
        (_error("503 Slow Down", "SlowDown"), False),
        (_error("403 Forbidden", "AccessDenied"), False),
        (_error("400 Bad Request", "ExpiredToken"), False),
        (_error("301 Moved Permanently", "PermanentRedirect"), False),
        # Told without a body, to a HEAD, it cannot be told from an object that is not there.
        (_error("404 Not Found", "NoSuchBucket"), True),
        (b"garbage\r\n\r\n", False),
        (b"", False),
    ],
    ids=["500", "503", "403", "400", "301", "no bucket", "garbage", "nothing"],
)
async def test_a_service_that_answers_errors_is_unavailable_and_what_it_says_is_not_repeated(
    s3_server: S3Server, answer: bytes, *, read_is_absent: bool
) -> None:
    async with answering(answer) as endpoint:
        said = await _unavailable(
            s3_server.bucket(endpoint=endpoint, timeout="2s"),
            but=frozenset({"get_stream"}) if read_is_absent else frozenset(),
        )

    assert SECRET_ACCESS_KEY not in said


@pytest.mark.parametrize("waits", [False, True])
async def test_a_service_whose_answer_does_not_end_is_unavailable(s3_server: S3Server, *, waits: bool) -> None:
    async with answering(HALF, then_waits=waits) as endpoint:
        bucket = s3_server.bucket(endpoint=endpoint, timeout="1s")
        for read in (bucket.get(KEY), _read(bucket), _listed(bucket)):
            with pytest.raises(UnavailableError):
                await read


@pytest.mark.parametrize("after", [0, 1, 20])
async def test_an_upload_that_is_given_up_leaves_nothing_on_the_server(s3_server: S3Server, after: int) -> None:
    bucket = s3_server.bucket()

    async def fail() -> None:
        raise SourceError

    async def failing() -> None:
        with pytest.raises(SourceError):
            await bucket.put_stream(KEY, _source(after, then=fail))

    async def cancelled() -> None:
        waiting = asyncio.Event()

        async def wait() -> None:
            waiting.set()
            await asyncio.Event().wait()

        putting = asyncio.create_task(bucket.put_stream(KEY, _source(after, then=wait)))
        await waiting.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting

    assert await _left_behind(s3_server, failing) == 0
    assert await _left_behind(s3_server, cancelled) == 0
    assert await _listed(bucket) == []


async def test_an_upload_that_is_cancelled_anywhere_leaves_nothing_on_the_server(s3_server: S3Server) -> None:
    bucket = s3_server.bucket()
    for turns in range(0, 60, 4):

        async def give_up(turns: int = turns) -> None:
            await _cancel(bucket.put_stream(KEY, _source(20)), turns=turns)

        assert await _left_behind(s3_server, give_up) == 0


async def test_a_whole_object_that_is_cancelled_anywhere_leaves_nothing_on_the_server(s3_server: S3Server) -> None:
    bucket = s3_server.bucket()
    for turns in range(0, 40, 4):

        async def give_up(turns: int = turns) -> None:
            await _cancel(bucket.put(KEY, bytes(20 * MIB)), turns=turns)
            await bucket.delete(KEY)

        assert await _left_behind(s3_server, give_up) == 0
        assert await _listed(bucket) == []


async def test_credentials_come_from_the_environment_where_there_is_no_file(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    bucket = open_bucket(f"s3://{BUCKET}/environment", options=s3_server.options)
    await bucket.put(KEY, b"a")

    assert await bucket.get(KEY) == b"a"
    assert SECRET_ACCESS_KEY not in repr(bucket)


async def test_wrong_credentials_are_told_to_the_operator_and_to_nobody_else(
    s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = open_bucket(
        f"s3://{BUCKET}/wrong",
        options=s3_server.options,
        credentials_file=_credentials(tmp_path / "credentials", secret="another secret"),
    )
    said = await _unavailable(bucket)

    assert "403" in said
    assert "another secret" not in said


async def test_credentials_that_change_are_read_anew(s3_server: S3Server, tmp_path: Path) -> None:
    """obstore asks again as soon as those it has would end soon, which is made to be at once."""
    file = _credentials(tmp_path / "credentials", secret="not yet right")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bucket_obstore, "_CREDENTIALS_LAST", timedelta(0))
        bucket = open_bucket(f"s3://{BUCKET}/changing", options=s3_server.options, credentials_file=file)
        with pytest.raises(UnavailableError):
            await bucket.put(KEY, b"a")
        _credentials(file, secret=SECRET_ACCESS_KEY)
        await bucket.put(KEY, b"a")
        file.unlink()
        with pytest.raises(UnavailableError):
            await bucket.put(KEY, b"b")
        _credentials(file, secret=SECRET_ACCESS_KEY)
        assert await bucket.get(KEY) == b"a"


@pytest.mark.behaviour("T-S1")
async def test_a_tenants_objects_are_kept_apart_in_s3_as_they_are_in_a_directory(
    s3_server: S3Server, keys: TenantKeys
) -> None:
    bucket = s3_server.bucket()
    store = ObjectStore(bucket, keys, CANARIES)
    await store.of(ALPHA).put_stream("large", plaintext=_source(20))
    await bucket.put("storage/org_2/large", await bucket.get("storage/org_1/large"))

    assert [len(part) async for part in store.of(ALPHA).get_stream("large")]
    assert [name.path async for name in store.of(BETA).list()] == ["large"]
    with pytest.raises(IntegrityError):
        await store.of(BETA).get("large")
