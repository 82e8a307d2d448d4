"""Whatever is killed or away, and when: once all has come to rest, what was written is what was counted."""

import asyncio
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from control_plane import private_file
from ext_authz.leases.log import LeaseLog
from ext_authz.leases.reader import LeaseReader, ReopeningError
from tests.unit.ext_authz.leases.test_lines import GET, LIST, PRICES, line
from tests.unit.ext_authz.leases.writing import Envoy, KilledError, Server, Strikes

# A handful of lines, so that each rotation and each part is soon there.
LARGE: Final = len(line()) * 6
PART: Final = len(line()) * 4


class _Admin:
    """Envoy's administration, which may be away."""

    def __init__(self, envoy: Envoy) -> None:
        self._envoy = envoy
        self.is_away = False

    def reopen(self) -> None:
        if self.is_away:
            raise ReopeningError("away")
        self._envoy.reopen()


class LogMachine(RuleBasedStateMachine):
    """An Envoy that writes, an agent that reads, a server that counts; each is killed, or away, at any time."""

    @initialize()
    def begin(self) -> None:
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "leases.log"
        self.runner = asyncio.Runner()
        self.patch = pytest.MonkeyPatch()
        self.strikes = Strikes()
        for name in ("replace", "remove", "sync_directory"):
            self.patch.setattr(private_file, name, self.strikes.wrap(getattr(private_file, name)))
        self.patch.setattr(Path, "rename", self.strikes.wrap(Path.rename))
        self.server = Server()
        self.reader: LeaseReader | None = None
        # As in the stack: the agent is there before Envoy is told where to write.
        log = LeaseLog(self.path)
        log.open()
        self.envoy = Envoy(self.path)
        self.admin = _Admin(self.envoy)
        self.expected: Counter[str] = Counter()
        self.waiting: list[tuple[str, int]] = []

    @rule(times=st.integers(1, 9), path=st.sampled_from([GET, LIST]))
    def request(self, times: int, path: str) -> None:
        self.envoy.log(times, path=path)
        self.waiting.append((path, times))

    @rule()
    def flush(self) -> None:
        self.envoy.flush()
        for path, times in self.waiting:
            self.expected[path] += times
        self.waiting.clear()

    @rule(data=st.data())
    def kill_envoy(self, data: st.DataObject) -> None:
        lines = b"".join(line(path=path) * times for path, times in self.waiting)
        after = data.draw(st.integers(0, len(lines)), label="bytes that were written")
        self.envoy.kill(after=after)
        for one in lines[:after].splitlines(keepends=True):
            if one.endswith(b"\n"):
                self.expected[LIST if one == line(path=LIST) else GET] += 1
        self.waiting.clear()

    @rule(is_away=st.booleans())
    def administration(self, *, is_away: bool) -> None:
        self.admin.is_away = is_away

    @rule(is_counted=st.booleans())
    def server_goes_away(self, *, is_counted: bool) -> None:
        self.server.away(is_counted=is_counted)

    @rule()
    def server_is_back(self) -> None:
        self.server.back()

    @rule()
    def read(self) -> None:
        self._read()

    @rule(left=st.integers(0, 8), is_done=st.booleans())
    def kill_agent_at_the_disk(self, left: int, *, is_done: bool) -> None:
        self.strikes.left, self.strikes.is_done = left, is_done
        try:
            self._read()
        except KilledError:
            self.reader = None
        self.strikes.left = -1

    @rule(is_counted=st.booleans())
    def kill_agent_at_the_server(self, *, is_counted: bool) -> None:
        before, after = self.server.before, self.server.after
        self.server.before, self.server.after = (None, KilledError()) if is_counted else (KilledError(), None)
        try:
            self._read()
        except KilledError:
            self.reader = None
        self.server.before, self.server.after = before, after

    @precondition(lambda self: self.reader is not None)
    @rule()
    def kill_agent(self) -> None:
        self.reader = None

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        if hasattr(self, "server"):
            assert self.server.counted <= self.expected

    @override
    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        self.server.back()
        self.admin.is_away = False
        # Once Envoy has made the log that it was asked for, the one before can be left.
        for _ in range(3):
            self.flush()
            self._read()
        names = sorted(file.name for file in self.path.parent.iterdir() if not file.name.startswith("."))
        self.patch.undo()
        self.envoy.close()
        self.runner.close()
        self.folder.cleanup()

        assert self.server.counted == self.expected
        assert self.server.accesses == self.expected.total()
        assert len(self.server.sequences) <= 1
        assert names == ["leases.checkpoint", "leases.log"]

    def _read(self) -> None:
        self.runner.run(self._flush())

    async def _flush(self) -> None:
        if self.reader is None:
            reader = LeaseReader(
                LeaseLog(self.path, large=LARGE, part=PART), self.server, PRICES, reopen=self.admin.reopen
            )
            await reader.open()
            self.reader = reader
        await self.reader.flush()


TestLogMachine = pytest.mark.behaviour("S3.13")(LogMachine.TestCase)
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=40)
