"""What is particular to buckets that others run."""

import socket
import time

import pytest

from control_plane.errors import UnavailableError
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.store import open_bucket

KEY = "storage/org_1/a.pem"


@pytest.fixture
def nobody_there() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_service_that_is_away_is_unavailable_soon_and_tells_no_credential(nobody_there: str) -> None:
    bucket = open_bucket(
        "s3://objects/prefix",
        options={
            "endpoint": nobody_there,
            "region": "local",
            "access_key_id": "id",
            "secret_access_key": "very secret",
        },
    )
    started = time.monotonic()

    for work in (bucket.put(KEY, b"a"), bucket.get(KEY), bucket.delete(KEY), anext(bucket.keys_below("storage"))):
        with pytest.raises(UnavailableError) as refused:
            await work
        assert "very secret" not in f"{refused.value!r} {refused.value.__cause__!r} {bucket!r}"
    assert time.monotonic() - started < 45


def test_a_location_is_a_directory_or_the_url_of_a_bucket() -> None:
    assert isinstance(open_bucket("/state/objects"), LocalBucket)
    assert isinstance(open_bucket("file:///state/objects"), LocalBucket)
    assert isinstance(open_bucket("memory:///"), ObstoreBucket)


@pytest.mark.parametrize("url", ["ftp://somewhere/objects", "s3://"])
def test_a_url_of_no_known_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no bucket"):
        open_bucket(url)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="no bucket"):
        open_bucket("s3://objects", options={"nonsense": "1"})
