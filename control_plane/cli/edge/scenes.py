"""What the demo shows: four scenes, each of which measures, puts back what it changed, and says what it saw.

A scene fails where the edge does not do what the scene is about: a demo that shows nothing must not end well.
"""

import math
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from control_plane.cli.calls.edge import Answer
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.message import Message
from control_plane.cli.edge import applied
from control_plane.cli.edge.demo_tenants import DemoTenant, signing_request
from control_plane.cli.session import Session

_OK, _FORBIDDEN, _TOO_MANY = 200, 403, 429
_TENANTS: Final = "bulkhead.v1.TenantService"
_APPLIED_WITHIN: Final = timedelta(seconds=10)
_KNOCKS_EVERY_S: Final = 0.004
_ADMITTED: Final = 20
_SENT: Final = 60
# A minute that is about to end would give its requests back in the middle of the scene.
_ENOUGH_OF_A_MINUTE_S: Final = 10.0
_OF_A_REQUEST: Final = frozenset({"date", "x-request-id"})
_NOBODY: Final = "nobody-has-this-name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """With whom the scenes are played."""

    administrator: Session
    tenant: DemoTenant
    """Whose caller asks."""
    other: DemoTenant
    """Whose data it must not see."""


def certificate(stage: Stage) -> Message:
    """Issue a certificate through the edge, and read it."""
    request = {"csr_pem": signing_request("shop.acme.example"), "request_id": str(uuid.uuid4())}
    with stage.tenant.caller() as caller:
        issued = _expected(caller.post(f"{stage.tenant.certificates}:issue", request), _OK)
        name = str(issued.content["name"])
        read = _expected(caller.get(f"/api/v1/{name}"), _OK)
    serial = _field(issued, "serial_number")
    if _field(read, "serial_number") != serial:
        raise failed("INTERNAL", f"another certificate than {name} was read")
    return {"certificate": name, "serial_number": serial, "requests": [_told(issued), _told(read)]}


def cross_tenant(stage: Stage) -> Message:
    """Ask with the tenant's token for what belongs to another, and for what belongs to nobody."""
    with stage.tenant.caller() as caller:
        foreign = _expected(caller.get(stage.other.certificates), _FORBIDDEN)
        absent = _expected(caller.get(f"/api/v1/tenants/{_NOBODY}/certificates"), _FORBIDDEN)
    alike = denied_alike(foreign, absent)
    if not alike:
        raise failed("INTERNAL", "the answer tells a tenant that exists from one that does not")
    return {"code": foreign.content.get("code", ""), "alike": alike, "requests": [_told(foreign), _told(absent)]}


def suspension(stage: Stage) -> Message:
    """Suspend the tenant while it asks again and again; measure until it is refused. It is reactivated afterwards."""
    name = f"tenants/{stage.tenant.tenant_id}"
    with _knocking(stage.tenant) as first_refusal:
        try:
            answer = stage.administrator.call(f"{_TENANTS}/SuspendTenant", {"name": name, "reason": "a demonstration"})
            answered = time.monotonic()
            revision = _wait_applied(stage.administrator, answer)
            enforced = time.monotonic()
            refused = first_refusal()
        finally:
            active = stage.administrator.call(f"{_TENANTS}/ReactivateTenant", {"name": name})
    _wait_applied(stage.administrator, active)
    with stage.tenant.caller() as caller:
        served = _expected(caller.get(stage.tenant.certificates), _OK)
    return {
        "revision": revision,
        # Below zero where the edge was faster than the answer.
        "first_refusal_ms": _milliseconds(refused - answered),
        "applied_ms": _milliseconds(enforced - answered),
        "requests": [_told(served)],
    }


def flood(stage: Stage) -> Message:
    """Leave the other tenant 20 more requests in this minute, and send it 60. Its limit is put back afterwards."""
    with stage.other.caller() as caller:
        used, limit = _used_this_minute(lambda: caller.get(stage.other.certificates))
        with _limited(stage, used + _ADMITTED):
            answers = [caller.get(stage.other.certificates) for _ in range(_SENT)]
    statuses = Counter(answer.status for answer in answers)
    if statuses != {_OK: _ADMITTED, _TOO_MANY: _SENT - _ADMITTED}:
        raise failed("INTERNAL", f"{_ADMITTED} of {_SENT} requests should have been admitted, but saw {dict(statuses)}")
    last = answers[-1]
    return {
        "limit": used + _ADMITTED,
        "used_before": used,
        "sent": _SENT,
        "admitted": statuses[_OK],
        "refused": statuses[_TOO_MANY],
        "retry_after_s": int(last.headers["retry-after"]),
        "limit_put_back_to": limit,
        "requests": [_told(last)],
    }


def denied_alike(one: Answer, other: Answer) -> bool:
    """Whether two denials tell nobody apart: they are the same but for which request they answer."""
    return _without_request(one) == _without_request(other)


def rate_parameters(answer: Answer, header: str) -> dict[str, int]:
    """Read the whole numbers of a RateLimit field, such as those of `"minute";q=600;w=60`.

    Raises:
        CallFailedError: when there are none.
    """
    pairs = (part.strip().partition("=") for part in answer.headers.get(header, "").split(";")[1:])
    found = {name: int(value) for name, _, value in pairs if value.isdecimal()}
    if not found:
        raise failed("INTERNAL", f"the edge's answer {answer.status} says nothing of its limit")
    return found


@contextmanager
def _knocking(tenant: DemoTenant) -> Iterator[Callable[[], float]]:
    """Ask in the background until the first refusal; the function waits for it, and returns when it came."""
    served, refused, stop = threading.Event(), threading.Event(), threading.Event()
    moments: list[float] = []

    def knock() -> None:
        with tenant.caller() as caller:
            while not stop.wait(_KNOCKS_EVERY_S):
                if caller.get(tenant.certificates).status == _OK:
                    served.set()
                else:
                    moments.append(time.monotonic())
                    refused.set()
                    return

    def first_refusal() -> float:
        if not refused.wait(_APPLIED_WITHIN.total_seconds()):
            raise failed("INTERNAL", f"tenants/{tenant.tenant_id} was served although it is suspended")
        return moments[0]

    # Should this command be interrupted, nobody waits for the thread.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    try:
        if not served.wait(_APPLIED_WITHIN.total_seconds()):
            raise failed("UNAVAILABLE", f"the edge does not serve tenants/{tenant.tenant_id}")
        yield first_refusal
    finally:
        stop.set()
        thread.join(_APPLIED_WITHIN.total_seconds())


@contextmanager
def _limited(stage: Stage, requests_per_minute: int) -> Iterator[None]:
    """Give the other tenant another limit for a while."""
    name = f"tenants/{stage.other.tenant_id}"
    before = stage.administrator.call(f"{_TENANTS}/GetTenant", {"name": name})["requests_per_minute"]
    try:
        _set_limit(stage.administrator, name, requests_per_minute=requests_per_minute)
        yield
    finally:
        _set_limit(stage.administrator, name, requests_per_minute=before)


def _set_limit(administrator: Session, name: str, *, requests_per_minute: int) -> None:
    request = {
        "tenant": {"name": name, "requests_per_minute": requests_per_minute},
        "update_mask": "requestsPerMinute",
    }
    _wait_applied(administrator, administrator.call(f"{_TENANTS}/UpdateTenant", request))


def _used_this_minute(ask: Callable[[], Answer]) -> tuple[int, int]:
    """Return how many requests count in this minute, one just sent among them, and the limit; not at a minute's end."""
    while True:
        answer = ask()
        policy, left = (rate_parameters(answer, name) for name in ("ratelimit-policy", "ratelimit"))
        if answer.status == _OK and left["t"] >= _ENOUGH_OF_A_MINUTE_S:
            return policy["q"] - left["r"], policy["q"]
        time.sleep(math.ceil(left["t"]))


def _wait_applied(administrator: Session, changed: Message) -> int:
    revision = int(changed["edge_revision"])
    answer = applied.ask(administrator, revision, timeout=_APPLIED_WITHIN)
    applied.check(answer, timeout=_APPLIED_WITHIN)
    if not answer["live_edges"]:
        raise failed("UNAVAILABLE", applied.told(answer), hint="`{bulkhead} status` shows what is up")
    return revision


def _expected(answer: Answer, status: int) -> Answer:
    if answer.status == status:
        return answer
    detail = answer.content.get("detail") or answer.content.get("message") or answer.body[:200].decode(errors="replace")
    message = f"{answer.method} {answer.path} was answered with {answer.status} instead of {status}: {detail}"
    raise failed("INTERNAL", message, reason=str(answer.content.get("code", "")))


def _field(answer: Answer, name: str) -> str:
    """Read a field, which JSON spells in camel case unless the transcoder was told to keep the proto's name."""
    first, *rest = name.split("_")
    return str(answer.content.get(name) or answer.content[first + "".join(word.capitalize() for word in rest)])


def _without_request(answer: Answer) -> Sequence[object]:
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in _OF_A_REQUEST)
    said = {name: value for name, value in answer.content.items() if name != "instance"}
    return answer.status, headers, said or answer.body


def _told(answer: Answer) -> Message:
    return {
        "method": answer.method,
        "path": answer.path,
        "status": answer.status,
        "milliseconds": _milliseconds(answer.seconds),
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
