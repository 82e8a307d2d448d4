"""Each line of the log is counted once, wherever anybody is killed, and whatever else is away meanwhile."""

import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from control_plane import private_file
from ext_authz.leases.log import LeaseLog
from ext_authz.leases.reader import LeaseReader
from ext_authz.policies.feed import RefusedError
from tests.unit.ext_authz.leases.test_lines import GET, PRICES, line
from tests.unit.ext_authz.leases.writing import Envoy, KilledError, Server, Strikes


class Site:
    """A log, with those who write and read it."""

    def __init__(self, folder: Path, *, large: int = 1 << 20, part: int = 1 << 16) -> None:
        self.path = folder / "leases.log"
        self.large, self.part = large, part
        self.server = Server()
        LeaseLog(self.path).open()
        self.envoy = Envoy(self.path)
        self.reopened = 0

    def reopen(self) -> None:
        self.reopened += 1
        self.envoy.reopen()

    async def reader(self) -> LeaseReader:
        """Start an agent's reader, as after any end of the one before."""
        log = LeaseLog(self.path, large=self.large, part=self.part)
        made = LeaseReader(log, self.server, PRICES, reopen=self.reopen)
        await made.open()
        return made

    def write(self, times: int) -> None:
        self.envoy.log(times, path=GET)
        self.envoy.flush()

    def names(self) -> list[str]:
        """Name what lies there, but for what somebody who was killed has left half written."""
        return sorted(file.name for file in self.path.parent.iterdir() if file.suffix != ".new")

    @property
    def counted(self) -> int:
        return self.server.counted.total()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.behaviour("S3.13")
@pytest.mark.parametrize("is_done", [False, True])
async def test_a_reader_killed_at_each_step_on_disk_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_done: bool
) -> None:
    strikes = Strikes()
    for name in ("replace", "remove", "sync_directory"):
        monkeypatch.setattr(private_file, name, strikes.wrap(getattr(private_file, name)))
    monkeypatch.setattr(Path, "rename", strikes.wrap(Path.rename))
    killed = 0
    for step in range(30):
        strikes.left = -1
        folder = tmp_path / str(step)
        folder.mkdir()
        site = Site(folder, large=len(line()) * 5)
        strikes.left, strikes.is_done = step, is_done
        reader: LeaseReader | None = None
        for _ in range(6):
            site.write(3)
            try:
                reader = reader or await site.reader()
                await reader.flush()
            except KilledError:
                killed, reader = killed + 1, None
        strikes.left = -1
        for _ in range(3):
            site.write(1)
            await (await site.reader()).flush()

        assert site.counted == site.envoy.written == 21
        assert site.names() == ["leases.checkpoint", "leases.log"]

    assert killed > 10


async def test_no_log_gives_way_while_the_one_before_waits(tmp_path: Path) -> None:
    site = Site(tmp_path, large=len(line()) * 3)
    reader = await site.reader()
    site.server.away(is_counted=False)
    for _ in range(4):
        site.write(5)
        await reader.flush()
    site.server.back()
    for _ in range(3):
        site.write(1)
        await reader.flush()

    assert site.counted == 23


async def test_a_line_that_is_not_ended_waits_for_its_end(site: Site) -> None:
    reader = await site.reader()
    counted = []
    for half in (line()[:50], line()[50:]):
        with site.path.open("ab") as file:
            file.write(half)
        await reader.flush()
        counted.append(site.counted)

    assert counted == [0, 1]


async def test_a_part_that_was_counted_unknown_to_the_reader_comes_again_as_it_was(site: Site) -> None:
    site.write(3)
    site.server.away(is_counted=True)
    first = await (await site.reader()).flush()
    site.write(4)
    site.server.back()
    second = await (await site.reader()).flush()

    assert (first, second) == (False, True)
    assert site.counted == 7


async def test_a_reader_that_has_nothing_under_way_says_so_on_disk(site: Site) -> None:
    """Else the last part would come again after a month, when nobody knows any more that it was counted."""
    site.write(3)
    reader = await site.reader()
    await reader.flush()
    kept = json.loads(site.path.with_suffix(".checkpoint").read_bytes())

    assert kept["begin"] == kept["end"] == len(line()) * 3


async def test_a_log_that_waits_is_handed_in_by_parts_that_a_server_takes(tmp_path: Path) -> None:
    site = Site(tmp_path, part=len(line()) * 10)
    site.server.away(is_counted=False)
    reader = await site.reader()
    for _ in range(10):
        site.write(10)
        await reader.flush()
    site.server.back()
    await reader.flush()

    assert site.counted == 100
    assert site.server.sequences.popitem()[1] == len(line()) * 100


async def test_a_large_log_gives_way_to_another_once_envoy_writes_there(tmp_path: Path) -> None:
    site = Site(tmp_path, large=len(line()) * 3)
    reader = await site.reader()
    site.write(5)
    await reader.flush()
    while_envoy_is_silent = site.names()
    site.write(2)
    await reader.flush()

    assert while_envoy_is_silent == ["leases.checkpoint", "leases.log.0"]
    assert site.names() == ["leases.checkpoint", "leases.log"]
    assert site.counted == 7


async def test_a_log_that_grows_large_before_anything_is_counted_is_opened_anew_all_the_same(tmp_path: Path) -> None:
    site = Site(tmp_path, large=len(line()) * 3)
    site.server.away(is_counted=False)
    site.write(5)
    await (await site.reader()).flush()
    site.write(1)

    assert site.path.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"reporter": "x", "base": 0, "begin": 0, "end": 0}'])
async def test_where_a_checkpoint_cannot_be_read_nothing_is_counted_twice_and_that_is_told(
    site: Site, content: bytes
) -> None:
    site.write(3)
    await (await site.reader()).flush()
    site.path.with_suffix(".checkpoint").write_bytes(content)
    with capture_logs() as told:
        reader = await site.reader()
    site.write(4)
    await reader.flush()

    assert site.counted == 7
    assert [one["event"] for one in told] == ["lease_checkpoint_refused"]


async def test_a_log_that_somebody_has_emptied_is_told_and_read_on(site: Site) -> None:
    reader = await site.reader()
    site.write(3)
    await reader.flush()
    site.path.write_bytes(b"")
    with capture_logs() as told:
        await reader.flush()
    site.write(2)
    await reader.flush()

    assert [one["event"] for one in told] == ["lease_log_lost"]
    assert site.counted == 5


async def test_what_is_left_of_a_log_that_somebody_has_cut_is_not_counted_again(site: Site) -> None:
    reader = await site.reader()
    site.write(3)
    await reader.flush()
    os.truncate(site.path, len(line()))
    await reader.flush()
    site.write(2)
    await reader.flush()

    assert site.counted == 5


async def test_a_part_is_durable_before_it_is_said_to_be_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fdatasync, private_file.replace

    def synced(descriptor: int) -> None:
        done.append("log")
        sync(descriptor)

    def replaced(path: Path, content: bytes) -> None:
        done.append("checkpoint")
        replace(path, content)

    reader = await site.reader()
    site.write(3)
    monkeypatch.setattr(os, "fdatasync", synced)
    monkeypatch.setattr(private_file, "replace", replaced)
    await reader.flush()

    assert done[:2] == ["log", "checkpoint"]


async def test_a_log_that_somebody_has_removed_is_opened_anew(site: Site) -> None:
    reader = await site.reader()
    site.write(3)
    await reader.flush()
    site.path.unlink()
    await reader.flush()
    site.write(2)
    await reader.flush()

    assert site.counted == 5


async def test_a_line_as_long_as_a_part_stops_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, part=1000)
    reader = await site.reader()
    with site.path.open("ab") as file:
        file.write(b"x" * 2500 + b"\n" + line())
    with capture_logs() as told:
        await reader.flush()

    assert site.counted == 1
    assert [one["event"] for one in told] == ["lease_lines_unreadable"]


async def test_a_disk_that_fails_stops_nothing_but_the_counting(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    reader = await site.reader()
    site.write(3)
    with monkeypatch.context() as patch, capture_logs() as told:
        patch.setattr(private_file, "replace", full)
        done = [await reader.flush() for _ in range(2)]
    await reader.flush()

    assert (done, site.counted) == ([False, False], 3)
    assert [one["event"] for one in told] == ["lease_report_put_off"]


async def test_a_part_that_is_refused_for_good_does_not_stand_in_the_way(site: Site) -> None:
    reader = await site.reader()
    site.write(3)
    site.server.before = RefusedError("malformed")
    with capture_logs() as told:
        await reader.flush()
    site.server.back()
    site.write(2)
    await reader.flush()

    assert [one["event"] for one in told] == ["lease_report_lost"]
    assert site.counted == 2
