"""The lines that Envoy writes of requests that show a lease, and what they add up to. Pure.

A line is one request, written once it has ended. What was let by is usage as a Check would have counted it; what was
refused for a rate that the agent has found exceeded is usage, too. A request that was asked about after all was counted
by its Check. Any bytes can be read: what is no line of ours is told apart, and stands in nobody's way.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from ext_authz.leases.classes import LeasedRpc
from ext_authz.leases.grants import HELD
from ext_authz.reports.tally import AccessKind, UsageKind, Used, most_active

SERVED: Final = "served"
"""What the routes are called that ask the agent."""
LEASED: Final = "leased"
"""What the routes are called that let by."""
# Envoy writes `-` where no route took the request.
_ASKED: Final = frozenset({SERVED, "-"})
_KNOWN: Final = _ASKED | {LEASED, HELD}

_UUID: Final = rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_SHOWN: Final = (
    rb" [0-9]{1,19}\.(?P<lease_class>[a-z]+(?:\.[a-z]+)?)\.(?P<tenant>" + _UUID + rb")\.(?P<session>" + _UUID + rb")"
)
_REST: Final = _SHOWN + rb" (?P<begun>[0-9]{1,12}) (?P<path>[^ ]*)"
_LINE: Final = re.compile(rb"(?P<route>[a-z]+|-)" + _REST)
# Where an Envoy was killed as it wrote, the next one's first line goes on behind the beginning of another.
_BEHIND_A_CUT: Final = re.compile(rb"(?P<route>leased|held)" + _REST + rb"\Z")
_REST_PATH: Final = re.compile(rb"/api/v1/tenants/[^/?]+/(?P<collection>\w+)(?P<item>/[^/?]+)?(?:\?.*)?", re.DOTALL)
# What a report can say: from the first minute of 1970 to the last one of the year 9999.
_MINUTE_S: Final = 60
_LAST_SECOND: Final = 253_402_300_799


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What some lines add up to."""

    usage: Mapping[UsageKind, Used]
    accesses: Mapping[AccessKind, int]
    """Of those that were let by, by credential."""
    unreadable: int
    """Lines, or beginnings of lines, of which nobody can say what they were."""


class Prices:
    """What the requests of the log are, and what they cost."""

    def __init__(self, rpcs: Iterable[LeasedRpc]) -> None:
        """Know these RPCs."""
        rpcs = tuple(rpcs)
        self._by_path = {rpc.path.encode(): rpc for rpc in rpcs}
        self._by_collection = {collection.encode(): rpc for rpc in rpcs for collection in rpc.collections}
        self._of_class = {rpc.lease_class.encode(): rpc.cost for rpc in rpcs}

    def find(self, path: bytes, lease_class: bytes) -> tuple[str, int]:
        """Return the RPC and its cost.

        The names are bounded, whatever was asked for: a path that means no RPC which may be leased is the RPC "", and
        costs what its class does.
        """
        rpc = self._by_path.get(path)
        # Not transcoded yet when it ended.
        if rpc is None and (read := _REST_PATH.fullmatch(path)):
            rpc = self._by_collection.get(read["collection"] + (b"/*" if read["item"] else b""))
        return (rpc.path, rpc.cost) if rpc else ("", self._of_class.get(lease_class, 1))


def count_lines(part: bytes, prices: Prices) -> Counted:
    """Add up the lines of a part of the log. What is not ended is no line: more of it was to come."""
    usage: dict[UsageKind, Used] = {}
    accesses: dict[AccessKind, int] = {}
    # Most lines are like others: what is expensive is done once for all that are alike.
    *lines, rest = part.split(b"\n")
    unreadable = 1 if rest else 0
    for line, times in Counter(lines).items():
        read = _LINE.fullmatch(line)
        if read is None or _route(read) not in _KNOWN:
            unreadable += times
            read = _BEHIND_A_CUT.search(line)
        if read is None or _route(read) in _ASKED:
            continue
        minute = _minute(read["begun"])
        if minute is None:
            unreadable += times
        else:
            _add(usage, read, minute, times=times, prices=prices)
            if _route(read) == LEASED:
                access = _access(read, minute)
                accesses[access] = accesses.get(access, 0) + times
    return Counted(usage=usage, accesses=most_active(accesses), unreadable=unreadable)


def _add(usage: dict[UsageKind, Used], read: re.Match[bytes], minute: datetime, *, times: int, prices: Prices) -> None:
    method, cost = prices.find(read["path"], read["lease_class"])
    used = usage.setdefault(UsageKind(UUID(read["tenant"].decode()), method, minute), Used())
    if _route(read) == LEASED:
        used.admitted += times
        used.leased += times
        used.cost += times * cost
    else:
        used.limited += times


def _route(read: re.Match[bytes]) -> str:
    return read["route"].decode()


def _access(read: re.Match[bytes], minute: datetime) -> AccessKind:
    tenant, session = UUID(read["tenant"].decode()), UUID(read["session"].decode())
    return AccessKind(tenant, session, read["lease_class"].decode(), minute)


def _minute(begun: bytes) -> datetime | None:
    seconds = int(begun)
    if not _MINUTE_S <= seconds <= _LAST_SECOND:
        return None
    return datetime.fromtimestamp(seconds - seconds % _MINUTE_S, UTC)
