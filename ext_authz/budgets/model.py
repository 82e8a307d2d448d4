"""What a worker has of a tenant's budget: calls that are counted already, to be spent without asking. Pure.

A *lot* are calls that were counted in the same windows. They are spent until the first of these ends, by the worker's
own clock, which began to run before Valkey looked at its own: so never in the window after. What is left of a lot goes
back to those of its windows that last. An *account* is what is known of one tenant's calls of one cost, under one
revision of its policy: the lot, how fast calls are spent, and until when there are no more.

Times are milliseconds of a clock of the worker's own that only goes forward.
"""

from dataclasses import dataclass, field
from uuid import UUID

from ext_authz.budgets.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How much one window has left, as was last heard."""

    window: Window
    remaining: int
    """In its own unit, of what nobody has taken."""
    ends_ms: int
    """When it ends, on the worker's clock: never too late."""

    @property
    def calls(self) -> int:
        """How many calls remain."""
        return self.remaining // self.window.price


@dataclass(slots=True, kw_only=True, eq=False)
class Lot:
    """Calls that were counted in the same windows."""

    tenant_uid: UUID
    windows: tuple[Window, ...]
    ends_ms: int
    """On the worker's clock."""
    calls: int
    """Those that are neither spent nor given back."""
    connection: object
    """On which they were counted. Over another one they are not given back: Valkey may have forgotten them."""
    is_open: bool = True
    """Whether calls are still spent from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of it."""

    calls: int
    """How many are paid: the first one, and as many of the others as there were; none where a window is used up."""
    window: Window
    """The tightest one: the first that these calls use up, or the one that they have used up."""
    remaining: int
    """Of the window's limit, in its unit."""
    reset_s: float
    """For how long this window goes on."""
    until: int
    """Milliseconds since 1970, on this machine's clock: before it, the calls are to be spent, or given back. Where none
    are paid, none will be before it, as far as is known."""
    lot: Lot | None = field(default=None, repr=False)
    """Where calls come from that may be given back; None for calls that are spent as they are taken."""

    @property
    def allowed(self) -> bool:
        """Whether at least one call is paid."""
        return self.calls > 0
