"""A report is sent until it is counted, and counted once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from typing_extensions import override

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import AwayError, Feed, RefusedError
from ext_authz.reports.model import Denial, Usage
from ext_authz.reports.sender import Receiver, Sender
from ext_authz.reports.tally import Tallies

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Server(Feed):
    """Takes reports, or does not, or does and says that it did not."""

    def __init__(self) -> None:
        self.received: list[policies_pb2.ReportDecisionsRequest] = []
        self.tallies = Tallies()
        self.receiver = Receiver(self.tallies)
        self.before: Exception | None = None
        self.after: Exception | None = None

    @override
    async def report(self, request: policies_pb2.ReportDecisionsRequest) -> None:
        if self.before:
            raise self.before
        self.received.append(request)
        self.receiver.take(request)
        if self.after:
            raise self.after

    @property
    def admitted(self) -> int:
        return sum(used.admitted for used in self.tallies.take_all().usage.values())


def use(tallies: Tallies, times: int = 1) -> None:
    for number in range(times):
        tallies.use(Usage(tenant_uid=UUID(int=1), method=f"/{number}", cost=1, admitted=True), NOW)


def deny(tallies: Tallies, peer: str = "192.0.2.1", *, now: datetime = NOW) -> None:
    denial = Denial(
        tenant_id="org_1",
        actor="tenant-member:alice",
        method="/m",
        resource="tenants/org_1",
        reason="SCOPE_MISSING",
        peer=peer,
        request_id="r",
    )
    tallies.deny(denial, now)


class Chain:
    """Two workers that hand in to an agent, and it to a server, by a clock of their own."""

    def __init__(self) -> None:
        self.now = NOW
        self.server = Server()
        self.tallies = Tallies()
        self.agent = Sender(self.tallies, self.server, holds_back=True, now=lambda: self.now)
        self.woken = 0
        receiver = Receiver(self.tallies, denied=self.wake, now=lambda: self.now)
        self.workers = [Tallies(), Tallies()]
        self.senders = [Sender(worker, Relay(receiver)) for worker in self.workers]

    def wake(self) -> None:
        self.woken += 1

    def deny(self, worker: int, peer: str = "192.0.2.1") -> None:
        deny(self.workers[worker], peer, now=self.now)

    async def pass_a_second(self) -> None:
        for sender in self.senders:
            await sender.flush()
        await self.agent.send_due()
        self.now += timedelta(seconds=1)

    @property
    def rows(self) -> list[policies_pb2.DenialTally]:
        return [denial for report in self.server.received for denial in report.denials]


class Relay(Feed):
    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    @override
    async def report(self, request: policies_pb2.ReportDecisionsRequest) -> None:
        self.receiver.take(request)


@asynccontextmanager
async def running(sender: Sender) -> AsyncIterator[None]:
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_steady_flood_over_all_workers_makes_a_row_every_ten_seconds() -> None:
    chain = Chain()
    for _ in range(300):
        for worker in (0, 1):
            chain.deny(worker)
        await chain.pass_a_second()
    rows_by_then = len(chain.rows)
    await chain.agent.flush()

    assert 30 <= rows_by_then <= 35
    assert sum(row.count for row in chain.rows) == 600


async def test_a_varied_flood_makes_few_rows_that_add_up() -> None:
    chain = Chain()
    for second in range(60):
        for number in range(100):
            chain.deny(number % 2, f"{second}.{number}")
        await chain.pass_a_second()
    await chain.agent.flush()

    assert sum(row.count for row in chain.rows) == 6000
    assert len(chain.rows) <= 64 + 12
    assert {row.reason for row in chain.rows} == {"SCOPE_MISSING", "OVERFLOW"}


async def test_the_first_denial_of_a_kind_is_told_as_soon_as_it_is_heard_of() -> None:
    chain = Chain()
    chain.deny(0)
    await chain.senders[0].flush()
    woken = chain.woken
    await chain.agent.send_due()
    use(chain.workers[1])
    await chain.senders[1].flush()

    assert (woken, chain.woken) == (1, 1)
    assert [row.count for row in chain.rows] == [1]


async def test_who_is_woken_sends_denials_at_once_and_leaves_usage_for_its_time() -> None:
    server, tallies = Server(), Tallies()
    sender = Sender(tallies, server, holds_back=True, now=lambda: NOW)
    use(tallies)
    async with running(sender):
        deny(tallies)
        sender.wake()
        while not server.received:  # noqa: ASYNC110 there is nothing that could tell
            await asyncio.sleep(0)
        at_once = [(len(report.denials), len(report.usage)) for report in server.received]
        while len(server.received) < 2:  # noqa: ASYNC110 the same
            await asyncio.sleep(0.01)

    assert at_once == [(1, 0)]
    assert [(len(report.denials), len(report.usage)) for report in server.received] == [(1, 0), (0, 1)]


async def test_at_the_end_also_what_is_held_back_is_sent() -> None:
    server, tallies = Server(), Tallies()
    sender = Sender(tallies, server, holds_back=True, now=lambda: NOW)
    for _ in range(3):
        deny(tallies)
        await sender.send_due()
    before_the_end = len(server.received)
    await sender.flush()

    assert before_the_end == 1
    assert [report.denials[0].count for report in server.received] == [1, 2]


async def test_nothing_more_is_taken_while_the_server_is_away() -> None:
    server, tallies = Server(), Tallies()
    sender = Sender(tallies, server)
    server.before = AwayError("away")
    for _ in range(100):
        use(tallies)
        await sender.flush()
    server.before = None
    await sender.flush()

    assert len(server.received) == 2
    assert server.admitted == 100


async def test_what_was_not_sent_is_sent_later_and_meanwhile_more_is_counted() -> None:
    server, tallies = Server(), Tallies()
    sender = Sender(tallies, server)
    use(tallies)
    server.before = AwayError("away")
    first = await sender.flush()
    use(tallies)
    server.before = None
    second = await sender.flush()

    assert (first, second) == (False, True)
    assert [report.sequence for report in server.received] == [1, 2]
    assert server.admitted == 2


async def test_what_was_counted_unknown_to_the_sender_is_counted_once() -> None:
    server, tallies = Server(), Tallies()
    sender = Sender(tallies, server)
    use(tallies)
    server.after = AwayError("the answer is lost")
    await sender.flush()
    await sender.flush()
    server.after = None
    await sender.flush()

    assert [report.sequence for report in server.received] == [1, 1, 1]
    assert server.admitted == 1


async def test_a_report_is_never_larger_than_the_server_takes() -> None:
    server, tallies = Server(), Tallies()
    use(tallies, 1200)
    await Sender(tallies, server).flush()

    assert [len(report.usage) for report in server.received] == [500, 500, 200]
    assert server.admitted == 1200


async def test_a_report_that_is_refused_for_good_does_not_stand_in_the_way() -> None:
    server, tallies = Server(), Tallies()
    sender = Sender(tallies, server)
    use(tallies)
    server.before = RefusedError("malformed")
    await sender.flush()
    server.before = None
    use(tallies)
    await sender.flush()

    assert [report.sequence for report in server.received] == [2]


async def test_two_starts_are_two_reporters() -> None:
    server = Server()
    for _ in range(2):
        tallies = Tallies()
        use(tallies)
        await Sender(tallies, server).flush()

    assert len({report.reporter for report in server.received}) == 2
    assert server.admitted == 2


def test_a_report_that_cannot_be_read_is_left_out_whole() -> None:
    tallies = Tallies()
    receiver = Receiver(tallies)
    receiver.take(policies_pb2.ReportDecisionsRequest(reporter="r", sequence=1, usage=[policies_pb2.UsageTally()]))

    assert len(tallies) == 0
