"""What lines of the log of leases add up to; any bytes can be read."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkhead.v1 import certificates_pb2
from control_plane.policies import wire
from ext_authz.leases.classes import leased_rpcs
from ext_authz.leases.grants import HELD, ticket
from ext_authz.leases.lines import Counted, Prices, count_lines
from ext_authz.reports.messages import reports_of
from ext_authz.reports.tally import AccessKind, Taken, UsageKind, Used

RPCS: Final = leased_rpcs(certificates_pb2.DESCRIPTOR.services_by_name.values())
PRICES: Final = Prices(RPCS)
GET: Final = "/bulkhead.v1.CertificateService/GetCertificate"
LIST: Final = "/bulkhead.v1.CertificateService/ListCertificates"
COSTS: Final = {rpc.path: rpc.cost for rpc in RPCS}
CLASSES: Final = {rpc.path: rpc.lease_class for rpc in RPCS}
ACME, SESSION = UUID(int=1), UUID(int=9)
BEGUN: Final = 1_790_000_000
MINUTE: Final = datetime.fromtimestamp(BEGUN - BEGUN % 60, UTC)


def line(
    route: str = "leased", *, tenant: UUID = ACME, begun: int = BEGUN, path: str = GET, lease_class: str = ""
) -> bytes:
    shown_class = lease_class or (HELD if route == "held" else CLASSES.get(path, "certificates.list"))
    shown = ticket(7, shown_class, tenant_uid=tenant, session=SESSION)
    return f"{route} {shown} {begun} {path}\n".encode()


def counted(*lines: bytes) -> Counted:
    return count_lines(b"".join(lines), PRICES)


def admitted(times: int, path: str = GET) -> Used:
    return Used(admitted=times, leased=times, cost=times * COSTS[path])


def test_what_was_let_by_is_admitted_at_its_cost_in_the_minute_of_its_beginning() -> None:
    read = counted(line(), line(), line(path=LIST), line(begun=BEGUN + 60))

    assert read == Counted(
        usage={
            UsageKind(ACME, GET, MINUTE): admitted(2),
            UsageKind(ACME, LIST, MINUTE): admitted(1, LIST),
            UsageKind(ACME, GET, MINUTE + timedelta(minutes=1)): admitted(1),
        },
        accesses={
            AccessKind(ACME, SESSION, "certificates.read", MINUTE): 2,
            AccessKind(ACME, SESSION, "certificates.list", MINUTE): 1,
            AccessKind(ACME, SESSION, "certificates.read", MINUTE + timedelta(minutes=1)): 1,
        },
        unreadable=0,
    )


def test_what_was_refused_for_the_rate_is_limited_and_costs_nothing() -> None:
    read = counted(line("held"))

    assert read.usage == {UsageKind(ACME, GET, MINUTE): Used(limited=1)}
    assert read.accesses == {}


@pytest.mark.parametrize("route", ["served", "-"])
def test_what_was_asked_about_after_all_counts_nothing_here(route: str) -> None:
    assert counted(line(route)) == Counted(usage={}, accesses={}, unreadable=0)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/api/v1/tenants/acme/certificates", LIST),
        ("/api/v1/tenants/acme/certificates?page_size=7", LIST),
        ("/api/v1/tenants/acme/certificates/7", GET),
        ("/api/v1/tenants/acme/certificates/7/what", ""),
        ("/api/v1/tenants/acme/tokens", ""),
        ("/bulkhead.v1.CertificateService/Nothing", ""),
        ("-", ""),
        ("", ""),
        ("/\xff", ""),
    ],
)
def test_a_request_is_named_by_its_rpc_and_by_nothing_that_a_caller_chose(path: str, method: str) -> None:
    assert set(counted(line("held", path=path)).usage) == {UsageKind(ACME, method, MINUTE)}


def test_a_leased_request_that_is_no_rpc_any_more_costs_what_its_class_does() -> None:
    assert counted(line(path="/gone")).usage == {UsageKind(ACME, "", MINUTE): admitted(1, LIST)}


@pytest.mark.parametrize(
    "broken",
    [
        b"\n",
        b"leased\n",
        line().replace(b"leased", b"LEASED"),
        line("unknown"),
        line().replace(str(ACME).encode(), b"acme"),
        line(begun=59),
        line(begun=253_402_300_800),
        line().replace(b"\n", b" more\n"),
        line()[:-1],
    ],
)
def test_a_line_that_cannot_be_read_is_told_and_stops_nothing(broken: bytes) -> None:
    read = counted(line(), broken) if not broken.endswith(b"\n") else counted(line(), broken, line())

    assert read.unreadable == 1
    assert read.usage[UsageKind(ACME, GET, MINUTE)] == admitted(1 + broken.endswith(b"\n"))


@given(cut=st.integers(1, len(line()) - 1), route=st.sampled_from(["leased", "held", "served"]))
def test_a_line_behind_one_that_was_cut_is_counted_and_the_one_that_was_cut_is_not(cut: int, route: str) -> None:
    beginning = line(route)[: min(cut, len(line(route)) - 1)]
    read = counted(beginning + line(path=LIST))

    assert read.usage == {UsageKind(ACME, LIST, MINUTE): admitted(1, LIST)}
    assert read.unreadable == 1


def cost(one: bytes) -> int:
    """Say what a line costs, by another way than the code's: in these tests the two RPCs that a path may mean."""
    if not one.startswith(b"leased"):
        return 0
    return COSTS[GET] if one.endswith(GET.encode() + b"\n") else COSTS[LIST]


requests = st.builds(
    line,
    st.sampled_from(["leased", "held", "served", "-"]),
    tenant=st.integers(0, 3).map(lambda number: UUID(int=number)),
    begun=st.integers(60, 253_402_300_799) | st.integers(BEGUN, BEGUN + 200),
    path=st.sampled_from([GET, LIST, "/api/v1/tenants/acme/certificates", "/x"]),
)


@given(lines=st.lists(requests, max_size=60))
@pytest.mark.behaviour("S3.14")
def test_what_is_counted_adds_up_to_what_was_written(lines: list[bytes]) -> None:
    read = counted(*lines)
    routes = Counter(one.split(b" ")[0] for one in lines)

    assert read.unreadable == 0
    assert sum(used.admitted for used in read.usage.values()) == routes[b"leased"]
    assert sum(used.leased for used in read.usage.values()) == routes[b"leased"]
    assert sum(read.accesses.values()) == routes[b"leased"]
    assert sum(used.cost for used in read.usage.values()) == sum(map(cost, lines))
    assert sum(used.limited for used in read.usage.values()) == routes[b"held"]


@given(lines=st.lists(requests, max_size=20), at=st.integers(0, 20))
def test_a_log_adds_up_to_the_same_in_whatever_parts_it_is_read(lines: list[bytes], at: int) -> None:
    whole, parts = counted(*lines), (counted(*lines[:at]), counted(*lines[at:]))
    both: Counter[UsageKind] = Counter()
    for part in parts:
        both.update({kind: used.admitted + used.limited for kind, used in part.usage.items()})

    assert both == {kind: used.admitted + used.limited for kind, used in whole.usage.items()}


@given(content=st.binary() | st.lists(requests | st.binary(max_size=9), max_size=9).map(b"".join))
@example(content=b"\xff\n leased \n")
def test_any_bytes_can_be_read_and_what_comes_of_them_is_a_report_that_a_server_takes(content: bytes) -> None:
    read = counted(content)
    taken_ = Taken(denials=[], usage=dict(read.usage), accesses=dict(read.accesses))
    reports = reports_of(taken_, reporter=str(ACME), sequence=1)
    taken = [wire.report_of(report, now=MINUTE) for report in reports]

    assert sum(one.admitted for report in taken for one in report.usage) <= content.count(b"\n")
    assert read.unreadable <= content.count(b"\n") + 1
