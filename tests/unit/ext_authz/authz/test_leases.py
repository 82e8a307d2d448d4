"""What is granted rests on everything that the decision rests on, and ends with the first of it."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import pytest

from ext_authz.authz.decide import Proceed
from ext_authz.authz.leases import Leases, Wish
from ext_authz.authz.request import Asked, read_request
from ext_authz.budgets.model import Lot, Unspent
from tests.fixtures.edge_budgets import taken, window
from tests.unit.ext_authz.authz.checks import ISSUE, NOW, SHARED, A, Ask, B, decided, grpc_ask

LATER: Final = NOW + timedelta(milliseconds=10)
NOW_MS: Final = int(LATER.timestamp() * 1000)
MEMORY: Final = "0123456789abcdef"
LOT: Final = Lot(tenant_uid=A.policy.uid, windows=(window(600),), ends_ms=1, calls=0, memory=MEMORY)
PAID: Final = replace(taken(51, limit=600, remaining=549, reset_s=29), until=NOW_MS + 29_000, lot=LOT)
TICKET: Final = f"5.certificates.read.{A.policy.uid}.{A.claims().token_id}"
CONTEXT: Final = "1.context.signature"


def asked(ask: Ask, *, unspent: bytes = b"0", begun: datetime = NOW) -> tuple[Asked, Proceed]:
    """Return a request for which a lease would be kept, and the decision about it."""
    decision = decided(ask)
    assert isinstance(decision, Proceed)
    begun_ms = int(begun.timestamp() * 1000)
    return replace(read_request(ask.check(), SHARED), unspent=unspent, begun_ms=begun_ms), decision


def wish(leases: Leases, ask: Ask) -> Wish:
    """Ask for the second time, soon after the first one."""
    leases.wish(*asked(ask), now=NOW)
    return leases.wish(*asked(ask), now=LATER)


def granted(leases: Leases, ask: Ask, **changes: object) -> str:
    """Return what is granted to the second request; the first word is a number."""
    given = {"taken": PAID, "context": CONTEXT, "as_of": NOW, "now": LATER} | changes
    made = leases.grant(*asked(ask), wish(leases, ask), **given)  # type: ignore[arg-type]  # a test may say anything
    return made.partition(" ")[2]


def test_a_lease_holds_what_was_paid_beside_the_requests_own_call() -> None:
    leases = Leases(1)

    assert wish(leases, Ask()).calls == 8
    assert granted(leases, Ask()) == f"50 {NOW_MS + 1000} {TICKET} {CONTEXT}"
    assert granted(leases, grpc_ask()) == f"50 {NOW_MS + 1000} {TICKET} {CONTEXT}"


@pytest.mark.behaviour("I6", "S3.4")
@pytest.mark.parametrize(
    ("changes", "ends_ms"),
    [
        ({"taken": replace(PAID, until=NOW_MS + 400)}, NOW_MS + 400),
        ({"as_of": NOW - A.policy.max_age + timedelta(milliseconds=310)}, NOW_MS + 300),
    ],
)
def test_it_ends_with_its_windows_and_with_the_news_of_the_policy(changes: dict[str, object], ends_ms: int) -> None:
    assert granted(Leases(1), Ask(), **changes).split(" ")[1] == str(ends_ms)


@pytest.mark.behaviour("I6")
def test_it_ends_with_the_token() -> None:
    def expiring(end: datetime) -> Ask:
        return Ask(token=A.token(expire_time=end))

    end = LATER.replace(microsecond=0) + timedelta(seconds=1)

    assert granted(Leases(1), expiring(end)).split(" ")[1] == str(int(end.timestamp() * 1000))


@pytest.mark.behaviour("I6")
@pytest.mark.parametrize(
    "changes",
    [
        {"taken": replace(PAID, calls=1)},
        {"taken": replace(PAID, lot=None)},
        {"taken": replace(PAID, until=NOW_MS)},
        {"as_of": NOW - A.policy.max_age},
    ],
)
def test_nothing_is_granted_that_was_not_paid_or_is_over(changes: dict[str, object]) -> None:
    assert granted(Leases(1), Ask(), **changes) == ""


@pytest.mark.behaviour("I6")
@pytest.mark.parametrize("epoch", ["4", "0"])
def test_nothing_is_granted_by_routes_of_another_epoch(epoch: str) -> None:
    assert granted(Leases(1), Ask(epoch=epoch)) == ""
    ask = Ask(epoch=epoch)
    leases = Leases(1)
    assert leases.hold(*asked(ask), wish(leases, ask), taken=PAID, now=LATER) == ""


@pytest.mark.behaviour("I6", "T-E12")
def test_nobody_with_a_certificate_and_nothing_that_changes_anything_is_leased() -> None:
    request, decision = asked(Ask())
    shown = replace(request, certificate=b"-----BEGIN")
    issuing = Ask(
        token=A.token(scopes=("certificates.write",)),
        path=ISSUE,
        http_method="POST",
        content_type="application/grpc",
        tenant="org_1",
    )
    leases = Leases(1)

    for one in (shown, request):
        last = leases.wish(one, decision, now=NOW)
        assert (last.key is None) == (one is shown)
    assert wish(leases, issuing).key is None
    assert granted(leases, issuing) == ""
    assert leases.hold(*asked(issuing), wish(leases, issuing), taken=PAID, now=LATER) == ""


@pytest.mark.behaviour("S3.8")
@pytest.mark.parametrize(("until_ms", "ends_ms"), [(NOW_MS + 800, NOW_MS + 800), (NOW_MS + 50_000, NOW_MS + 5_000)])
def test_a_refusal_is_held_until_its_reset_or_for_some_seconds(until_ms: int, ends_ms: int) -> None:
    leases, refused = Leases(1), replace(PAID, calls=0, until=until_ms)
    held = leases.hold(*asked(Ask()), wish(leases, Ask()), taken=refused, now=LATER)

    assert held == f"held 0 {ends_ms} 5.held.{A.policy.uid}.{A.claims().token_id} held:{NOW_MS + 29_000}"


def test_what_is_left_of_a_lease_comes_back_with_the_next_request() -> None:
    leases = Leases(1)
    leases.wish(*asked(Ask()), now=NOW)
    lease = leases.grant(
        *asked(Ask()), leases.wish(*asked(Ask()), now=LATER), taken=PAID, context=CONTEXT, as_of=NOW, now=LATER
    )
    name = lease.partition(" ")[0]
    told = f"50 500 {TICKET} {name}:20".encode()
    last = leases.wish(*asked(Ask(), unspent=told), now=LATER + timedelta(milliseconds=500))
    elsewhere = Leases(7).wish(*asked(Ask(), unspent=told), now=LATER + timedelta(milliseconds=500))

    assert last.unspent == (Unspent(lease=name, memory=MEMORY, since_ms=LOT.since_ms, calls=20),)
    assert last.calls == elsewhere.calls == 60
    # Whichever worker is told.
    assert elsewhere.unspent == last.unspent


@pytest.mark.behaviour("S3.4")
@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("5.", "4."),
        (".certificates.read.", ".certificates.list."),
        (str(A.policy.uid), str(B.policy.uid)),
        (str(A.claims().token_id), str(UUID(int=9))),
    ],
)
def test_what_was_leased_to_another_or_for_something_else_or_before_is_not_taken_back(was: str, is_now: str) -> None:
    mine, other = (
        f"50 500 {ticket} 1.50.5.{MEMORY}:20".encode() for ticket in (TICKET, TICKET.replace(was, is_now, 1))
    )

    assert Leases(1).wish(*asked(Ask(), unspent=mine), now=NOW).unspent
    assert not Leases(1).wish(*asked(Ask(), unspent=other), now=NOW).unspent


@pytest.mark.behaviour("S3.4")
@pytest.mark.parametrize("waited_s", [-2.1, 2.1])
def test_what_a_request_tells_that_waited_for_long_is_not_believed(waited_s: float) -> None:
    """Another worker may have been told the same, so long ago that Valkey has forgotten it."""
    told = f"50 500 {TICKET} 1.50.5.{MEMORY}:20".encode()
    waited, came = (asked(Ask(), unspent=told, begun=NOW - timedelta(seconds=one)) for one in (waited_s, 1))

    assert Leases(1).wish(*came, now=NOW).unspent
    assert not Leases(1).wish(*waited, now=NOW).unspent


@pytest.mark.behaviour("S3.4")
def test_nothing_is_granted_where_nobody_would_keep_it() -> None:
    """Or each such request would cost its tenant as many calls as a lease has."""
    leases = Leases(1)
    unkept = asked(Ask(), unspent=b"")

    first, last = (leases.wish(*unkept, now=now) for now in (NOW, LATER))

    assert (first.key, first.calls) == (last.key, last.calls) == (None, 0)
    assert leases.grant(*unkept, last, taken=PAID, context=CONTEXT, as_of=NOW, now=LATER) == ""


def test_what_the_script_tells_is_read_from_the_check() -> None:
    check = Ask(more=(("x-bulkhead-unspent", b"7 5 ticket"),)).check()
    check.attributes.request.time.FromMilliseconds(NOW_MS)
    told = read_request(check, SHARED)
    twice = read_request(Ask(more=(("x-bulkhead-unspent", b"7 5 ticket"),) * 2).check(), SHARED)

    assert (told.unspent, told.begun_ms, told.fault) == (b"7 5 ticket", NOW_MS, "")
    assert (twice.unspent, twice.fault) == (b"", "DUPLICATE_HEADER")
