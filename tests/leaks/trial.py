"""One run of pytest in a copy, for the witness's report."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.leaks.copies import WITNESS, Copy
from tests.leaks.model import Report, file_of
from tests.leaks.processes import Start, end

_SEED: Final = "1"
_TEST_WITHIN_S: Final = 60
# For the tests of a mutant that may hang: it is known what a hang looks like, and each costs this long.
_HANG_WITHIN_S: Final = 15
# A whole selection, beyond which something hangs that pytest itself cannot interrupt.
_RUN_WITHIN_S: Final = 240


class CrashedError(Exception):
    """pytest ended without a report; the text is what it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What to run in a copy."""

    copy: Copy
    selections: Sequence[str]
    mutated: str = ""
    """The file that is not as it should be; empty where all are."""
    may_hang: bool = False
    to_the_end: bool = False
    """Whether to go on after the first failure."""
    limited: bool = True
    """Whether the run as a whole is given up after a while."""

    async def run(self, work: Path, memory: Path, *, start: Start) -> Report | None:
        """Run the tests, with their temporary files in `work` and their databases in `memory`.

        Returns None where they had to be killed. Whoever cancels this waits until pytest has taken its servers down.

        Raises:
            CrashedError: pytest has ended in no way of its own.
        """
        report, log = work / "report.json", work / "log"
        process = await start(self.copy, self._arguments(report), environment=self._environment(work, memory), log=log)
        try:
            async with asyncio.timeout(_RUN_WITHIN_S if self.limited else None):
                await process.wait()
        except TimeoutError:
            return None
        finally:
            await end(process)
        if not report.exists():
            raise CrashedError(log.read_text(errors="replace")[-2000:])
        return Report.of(json.loads(report.read_text()))

    def _arguments(self, report: Path) -> list[str]:
        limit = _HANG_WITHIN_S if self.may_hang else _TEST_WITHIN_S
        options = [f"--leaks-report={report}", f"--leaks-copy={self.copy.root}"]
        options += [f"--leaks-module={self.copy.module_of(self.mutated)}"] if self.mutated else []
        options += [f"--leaks-only={selection}" for selection in self.selections]
        options += ["-p", "no:cacheprovider", f"--randomly-seed={_SEED}", "--randomly-dont-reorganize"]
        options += [f"--hypothesis-seed={_SEED}", f"--timeout={limit}", *([] if self.to_the_end else ["--exitfirst"])]
        # In a child of the nursery some libraries are loaded before pytest could rewrite their assertions.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        files = list(dict.fromkeys(file_of(selection) for selection in self.selections))
        return ["-q", "-p", WITNESS, *options, *files]

    def _environment(self, work: Path, memory: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        programs = f"{self.copy.python.parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
        told = {"PATH": programs, "TMPDIR": str(work), "BULKHEAD_TEST_MEMORY": str(memory), "SEED": _SEED}
        # What a mutant was compiled to is of no use to anybody else.
        return inherited | told | ({"PYTHONDONTWRITEBYTECODE": "1"} if self.mutated else {})
