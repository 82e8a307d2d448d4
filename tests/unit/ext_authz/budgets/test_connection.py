"""Every answer goes to whoever asked, and nobody waits for one that will not come."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from ext_authz.budgets import connection as lines
from ext_authz.budgets.connection import ConnectionGoneError, LineConnection, packed


class Transport(asyncio.Transport):
    """Keeps what is written, instead of a server."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_aborted = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    @override
    def abort(self) -> None:
        self.is_aborted = True


@pytest.fixture
async def transport() -> Transport:
    return Transport()


@pytest.fixture
async def connection(transport: Transport) -> LineConnection:
    connection = LineConnection()
    connection.connection_made(transport)
    return connection


def test_a_command_is_written_as_valkey_reads_it() -> None:
    assert packed(b"FCALL", b"", b"a\r\nb") == b"*3\r\n$5\r\nFCALL\r\n$0\r\n\r\n$4\r\na\r\nb\r\n"


async def test_what_is_asked_in_one_turn_goes_out_in_one_write(
    connection: LineConnection, transport: Transport
) -> None:
    answers = [connection.send(b"a"), connection.send(b"b"), connection.send(b"c")]
    await asyncio.sleep(0)
    connection.data_received(b"+1\r\n+2\r\n+3\r\n")

    assert transport.written == [b"abc"]
    assert await asyncio.gather(*answers) == [b"+1", b"+2", b"+3"]


async def test_what_is_asked_meanwhile_goes_out_when_the_last_is_answered(
    connection: LineConnection, transport: Transport
) -> None:
    first = connection.send(b"a")
    await asyncio.sleep(0)
    rest = [connection.send(b"b"), connection.send(b"c")]
    await asyncio.sleep(0)
    held = list(transport.written)
    connection.data_received(b"+1\r\n")
    connection.data_received(b"+2\r\n+3\r\n")

    assert (held, transport.written) == ([b"a"], [b"a", b"bc"])
    assert [await first, *await asyncio.gather(*rest)] == [b"+1", b"+2", b"+3"]


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=50),
)
async def test_answers_are_told_apart_wherever_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    transport, connection = Transport(), LineConnection()
    connection.connection_made(transport)
    asked: list[asyncio.Future[bytes]] = []
    number = 0
    for size in sizes:
        asked += [connection.send(b"x") for _ in range(size)]
        await asyncio.sleep(0)
        data = b"".join(b"+%d\r\n" % n for n in range(number, number + size))
        number += size
        while data:
            cut = cuts[len(data) % len(cuts)]
            connection.data_received(data[:cut])
            data = data[cut:]

    assert [answer.result() for answer in asked] == [b"+%d" % n for n in range(number)]


async def test_who_has_stopped_waiting_is_passed_over(connection: LineConnection) -> None:
    gone, waiting = connection.send(b"a"), connection.send(b"b")
    gone.cancel()
    connection.data_received(b"+1\r\n+2\r\n")

    assert await waiting == b"+2"


async def test_all_who_wait_are_told_when_it_is_gone(connection: LineConnection, transport: Transport) -> None:
    waiting = [connection.send(b"a"), connection.send(b"b")]
    connection.connection_lost(None)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {ConnectionGoneError}
    assert connection.gone.done()
    with pytest.raises(ConnectionGoneError):
        connection.send(b"c")
    await asyncio.sleep(0)
    assert transport.written == []


async def test_an_answer_that_nobody_asked_for_ends_it(connection: LineConnection, transport: Transport) -> None:
    connection.data_received(b"+1\r\n")

    assert transport.is_aborted
    assert connection.gone.done()


async def test_a_silent_server_is_given_up_and_one_that_answers_is_not(
    connection: LineConnection, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_TICK_S", 0)
    answered = connection.send(b"a")
    await asyncio.sleep(0)
    connection.data_received(b"+1\r\n")
    for _ in range(20):
        await asyncio.sleep(0)
    is_there = not connection.gone.done()
    silent = connection.send(b"b")
    with pytest.raises(ConnectionGoneError):
        await silent

    assert await answered == b"+1"
    assert is_there
    assert transport.is_aborted


async def test_a_server_that_answers_one_after_the_other_is_not_silent(
    connection: LineConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_TICK_S", 0)
    answers = [connection.send(b"x") for _ in range(20)]
    for number in range(20):
        # A tick or two pass before each.
        await asyncio.sleep(0)
        connection.data_received(b"+%d\r\n" % number)

    assert await asyncio.gather(*answers) == [b"+%d" % number for number in range(20)]
