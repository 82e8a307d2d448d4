"""What is particular to buckets that others run."""

import pytest

from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.store import open_bucket


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
