"""Time zones by their names, as the locked release of the IANA database has them.

A machine's own database may be another release, or none: two that disagree about a midnight would begin a tenant's day
at two times.
"""

from functools import cache
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

DEFAULT_ZONE: Final = "UTC"


class UnknownTimeZoneError(ValueError):
    """No zone has this name."""


@cache
def names() -> frozenset[str]:
    """Return the names of all zones."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


def time_zone(name: str) -> ZoneInfo:
    """Return the zone of that name, the same one each time. The first time, it is read from disk.

    Raises:
        UnknownTimeZoneError: when there is none.
    """
    if name not in names():
        raise UnknownTimeZoneError("is no time zone's name")
    return _read(name)


@cache
def _read(name: str) -> ZoneInfo:
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
