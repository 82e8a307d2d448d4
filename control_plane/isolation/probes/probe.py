"""What a probe is, and how it is run."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import structlog

from control_plane.canary import BreachError
from control_plane.errors import UnavailableError
from control_plane.ids import TenantId, new_uuid
from control_plane.isolation.model import Outcome, Result, WallDownError
from control_plane.postgres.placement import Placement

_log: Final = structlog.get_logger("isolation.probes")


class BreachNoted(Protocol):
    """Told of another tenant's marker. Must not block, must not raise."""

    def __call__(self, error: BreachError, *, method: str) -> None:
        """Take note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """The two tenants that a wall stands between."""

    own: Placement
    """Who asks."""
    other: Placement | None
    """Whom nothing must be had of; None where the cell has no other tenant."""
    is_suspended: bool
    """Whether whoever asks is served nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question to one wall."""

    name: str
    """See `Result`."""
    promise: str
    """See `Result`."""
    ask: Callable[[], Awaitable[str]]
    """Says what was seen where the wall holds.

    MUST raise WallDownError where it does not. MAY raise UnavailableError. MUST NOT name the other tenant."""


def absent_tenant() -> TenantId:
    """Return an id that no tenant has."""
    return TenantId(f"absent_{new_uuid().hex}")


async def run(probe: Probe, *, within: timedelta, breached: BreachNoted) -> Result:
    """Ask; whatever keeps the question from being answered `within` is UNKNOWN, and never passes."""
    begun = time.monotonic()
    # What is refused on the way is logged like any other refusal: this tells it from one.
    with structlog.contextvars.bound_contextvars(probe=probe.name):
        outcome, detail = await _answer(probe, within=within, breached=breached)
    duration = timedelta(seconds=time.monotonic() - begun)
    return Result(name=probe.name, promise=probe.promise, outcome=outcome, detail=detail, duration=duration)


async def _answer(probe: Probe, *, within: timedelta, breached: BreachNoted) -> tuple[Outcome, str]:
    try:
        async with asyncio.timeout(within.total_seconds()):
            return Outcome.PASSED, await probe.ask()
    except BreachError as error:
        breached(error, method=f"isolation.{probe.name}")
        return Outcome.FAILED, "another tenant's marker was seen"
    except WallDownError as error:
        _log.critical("wall_down", detail=str(error))
        return Outcome.FAILED, str(error)
    except (UnavailableError, TimeoutError, OSError):
        return Outcome.UNKNOWN, "what is asked could not be reached"
    except Exception:  # noqa: BLE001 whatever it is, it is no answer
        _log.exception("probe_broke")
        return Outcome.UNKNOWN, "the probe itself broke; the logs tell more"
