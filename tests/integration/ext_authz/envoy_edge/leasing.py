"""What an agent grants, as a test wants it, and who shows it."""

import itertools
import re
import time
from typing import Any, Final

from envoy_data_plane.envoy.service.auth.v3 import CheckRequest, CheckResponse

from tests.integration.ext_authz.envoy_edge.decisions import admitted, headers
from tests.integration.ext_authz.envoy_edge.edge import TENANTS, Edge
from tests.integration.ext_authz.envoy_edge.http1 import Answer, request, send

LEASED: Final = "1.leased.signature"
GET: Final = "/bulkhead.v1.CertificateService/GetCertificate"
ITEM: Final = "/api/v1/tenants/acme/certificates/0195a1"
LIST: Final = "/api/v1/tenants/acme/certificates"
SHARED: Final = "api.csm.example.com"
TICKET: Final = f"{TENANTS[0].revision}.certificates.read.uid.session"
# What a credential's leases are is remembered by the Envoy that all tests here share.
CREDENTIALS: Final = (f"Bearer {number}" for number in itertools.count())


def now_ms() -> int:
    return int(time.time() * 1000)


def granted(
    *,
    name: str = "7",
    lease_class: str = "certificates.read",
    calls: int = 1000,
    lasts_ms: int = 60_000,
    epoch: int = TENANTS[0].revision,
) -> CheckResponse:
    """Return the agent's answer that grants this."""
    answer = admitted()
    assert answer.ok_response is not None
    text = f"{name} {calls} {now_ms() + lasts_ms} {epoch}.{lease_class}.uid.session {LEASED}"
    answer.ok_response.response_headers_to_add += headers({"x-bulkhead-grant": text})
    return answer


def grant(edge: Edge, **what: Any) -> None:
    """Let the agent grant this with all that it says from now on."""
    edge.workers.decide(granted(**what))


def told(edge: Edge, asked: CheckRequest | None = None) -> tuple[int, str]:
    """Return of how many calls a lease was said to be, and what is left of them."""
    (text,) = edge.workers.header("x-bulkhead-unspent", asked)
    read = re.fullmatch(rf"(\d+) \d+ {re.escape(TICKET)}(.*)", text.decode())
    assert read is not None
    return int(read[1]), read[2]


def ask(credential: str, *more: tuple[str, str], path: str = ITEM, host: str = SHARED, method: str = "GET") -> bytes:
    return request(path, ("authorization", credential), *more, host=host, method=method)


async def passed_by(edge: Edge, sent: bytes, **how: object) -> bool:
    """Send it; tell whether it reached the service by a lease."""
    asked, served = len(edge.workers.raw), len(edge.upstream.seen)
    answer: Answer = await send(edge.http_port, sent, **how)  # type: ignore[arg-type]  # a test's own
    contexts = [context for one in edge.upstream.seen[served:] for context in one.all("x-bulkhead-context")]
    assert answer.status != 503
    if contexts == [LEASED]:
        assert len(edge.workers.raw) == asked
        return True
    assert LEASED not in contexts
    return False
