"""How much one Envoy takes from whom."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds strangers: nothing here knows of tenants, whose budgets are the agent's matter."""

    requests_per_second: int = 2000
    """From one source address (one /64 of IPv6), over time."""
    request_burst: int = 4000
    """From one source address at once."""
    source_addresses: int = 20_000
    """How many addresses are counted apart; beyond that the one that was idle for longest starts anew."""
    connections: int = 20_000
    """From everybody together."""
    streams_per_connection: int = 100
    request_headers_kib: int = 16
    request_headers: int = 64
    request_body_bytes: int = 64 * 1024
    """Of a REST request: a signing request is 16 KiB at most."""
    response_body_bytes: int = 4 * 1024 * 1024
    """Of a REST answer: what gRPC allows a message."""
    heap_bytes: int = 2 * 1024**3
    """Beyond 95 % of this, new requests are refused."""


DEFAULTS: Final = Limits()
