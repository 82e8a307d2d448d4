"""How much a tenant's callers may cost, as the edge counts it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from control_plane.errors import Violations
from control_plane.serving.time_zones import UnknownTimeZoneError, time_zone

# What all who count, and JSON, can tell from the number after it.
_MOST_UNITS: Final = 2**53
_LAST_DAY: Final = 31


class Window(StrEnum):
    """How long is counted before it begins anew. Days and months are the tenant's own."""

    SECOND = "SECOND"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How many units are admitted in each window of a length. What a request costs is a part of its RPC's rule."""

    window: str
    """One of `Window`, once it was checked."""
    units: int


def check_rates(
    limits: Sequence[RateLimit], *, billing_day: int, zone: str, violations: Violations, prefix: str
) -> None:
    """Note everything that is wrong with a tenant's rates. A shorter window may have more units than a longer one."""
    for index, limit in enumerate(limits):
        field = f"{prefix}rate_limits[{index}]"
        if limit.window not in tuple(Window):
            violations.add(f"{field}.window", f"must be one of {', '.join(Window)}", reason="UNKNOWN")
        elif limit.window in {other.window for other in limits[:index]}:
            violations.add(f"{field}.window", "is there twice", reason="RATE")
        if not 1 <= limit.units <= _MOST_UNITS:
            violations.add(f"{field}.units", f"must be 1 to {_MOST_UNITS}", reason="RATE")
    if not 1 <= billing_day <= _LAST_DAY:
        violations.add(f"{prefix}billing_day", "must be 1 to 31, or 0 for 1", reason="BILLING_DAY")
    try:
        time_zone(zone)
    except UnknownTimeZoneError:
        names = "must be a name of the IANA database, such as Europe/Berlin, or empty for UTC"
        violations.add(f"{prefix}time_zone", names, reason="TIME_ZONE")
