"""A bucket that somebody else runs, and that is away."""

import socket

import pytest

from control_plane.errors import UnavailableError
from control_plane.objects.store import open_bucket

KEY = "storage/org_1/a.pem"


@pytest.fixture
def nobody_there() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# It gives up by itself; were it not to, this would.
@pytest.mark.timeout(60)
async def test_a_service_that_is_away_is_unavailable_and_tells_no_credential(nobody_there: str) -> None:
    bucket = open_bucket(
        "s3://objects/prefix",
        options={
            "endpoint": nobody_there,
            "region": "local",
            "access_key_id": "id",
            "secret_access_key": "very secret",
        },
    )
    for work in (bucket.put(KEY, b"a"), bucket.get(KEY), bucket.delete(KEY), anext(bucket.keys_below("storage"))):
        with pytest.raises(UnavailableError) as refused:
            await work
        assert "very secret" not in f"{refused.value!r} {refused.value.__cause__!r} {bucket!r}"
