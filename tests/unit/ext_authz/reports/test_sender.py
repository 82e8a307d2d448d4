"""A report is sent until it is counted, and counted once."""

from datetime import UTC, datetime
from uuid import UUID

from typing_extensions import override

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import AwayError, Feed, RefusedError
from ext_authz.reports.model import Usage
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
        return sum(used.admitted for used in self.tallies.take(10**9).usage.values())


def use(tallies: Tallies, times: int = 1) -> None:
    for number in range(times):
        tallies.use(Usage(tenant_uid=UUID(int=1), method=f"/{number}", cost=1, admitted=True), NOW)


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
