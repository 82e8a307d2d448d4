"""Who is refused so often that Envoy is to repeat it without asking. Pure.

Whoever was refused now and then is asked about each time: what was wrong may be right in the next moment.
"""

from collections import OrderedDict
from typing import Final

OFTEN: Final = 8
"""How often within a second."""
_WITHIN_MS: Final = 1000
_MOST_REMEMBERED: Final = 20_000


class Strangers:
    """Remembers a bounded number of credentials that were refused, those that were seen last."""

    def __init__(self) -> None:
        # Since when, and how often.
        self._seen: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def is_flood(self, credential: str, *, repeated: int, now_ms: int) -> bool:
        """Count a refusal, and how often it was repeated before; tell whether to have it repeated from now on."""
        # Keyed by the process, so that nobody chooses what falls together; if something does, it is asked about less.
        key = hash(credential)
        since_ms, times = self._seen.get(key, (now_ms, 0))
        if not 0 <= now_ms - since_ms < _WITHIN_MS:
            since_ms, times = now_ms, 0
        times += 1
        self._seen[key] = since_ms, times
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return times >= OFTEN or repeated >= OFTEN
