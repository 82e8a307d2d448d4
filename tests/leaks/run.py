"""`make leaks`: take one wall away after the other, and see that some test notices each time.

The tests that are to notice it are run on an untouched copy first: what is red before catches nothing. Then each
mutation has a copy of the tree of its own. What no test notices is named, and the run has failed. The last line says
how many were caught.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.leaks.copies import UnfaithfulCopyError
from tests.leaks.gate import ClosedError, Finding, Gate
from tests.leaks.model import Mutation, Verdict
from tests.leaks.mutations import MUTATIONS

ROOT: Final = Path(__file__).parents[2]
REPORT: Final = ROOT / "build" / "leaks.json"
_INTERRUPTED: Final = 130
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 only a directory of our own, with a random name, is used in it


async def run(mutations: Sequence[Mutation], *, tree: Path = ROOT, whole: bool = False) -> list[Finding]:
    """Try mutations of the tree, and tell of each; leave nothing behind, also where this is cancelled.

    Raises:
        ClosedError, UnfaithfulCopyError: none was tried.
    """
    task = asyncio.current_task()
    assert task is not None
    # Ctrl-C, too: whoever is started in the background ignores it, and has all that it starts ignore it.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="leaks-") as work,
        tempfile.TemporaryDirectory(prefix="leaks-", dir=_in_memory()) as memory,
    ):
        gate = Gate(tree=tree, work=Path(work), memory=Path(memory), found=_tell, whole=whole)
        green = await gate.open(mutations)
        _say(f"  {green.tests} tests are green while every wall stands ({time.monotonic() - begun:.0f} s)")
        findings = await gate.try_all(mutations, green)
    _say(f"  {len(findings)} walls taken away ({time.monotonic() - begun:.0f} s in all)")
    return findings


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="those whose name has the word")
    parser.add_argument("--one-in", type=int, default=1, metavar="N", help="the Nth part that is this commit's turn")
    parser.add_argument("--all", action="store_true", help="run the whole folders of the tests, each to its end")
    parser.add_argument("--json", action="store_true", help=f"write {REPORT.relative_to(ROOT)}")
    arguments = parser.parse_args()
    mutations = [one for one in MUTATIONS if arguments.only.lower() in one.name.lower()]
    if arguments.one_in > 1:
        mutations = mutations[_turn(arguments.one_in) :: arguments.one_in]
        _say(f"  {len(mutations)} of {len(MUTATIONS)} walls, by the commit's turn; `make leaks` tries all")
    if not mutations:
        parser.error(f"no mutation has {arguments.only!r} in its name")
    try:
        findings = asyncio.run(run(mutations, whole=arguments.all))
    except (ClosedError, UnfaithfulCopyError) as error:
        _say(f"{error}\nnothing was tried")
        findings = []
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("interrupted: everything that was started has ended, and its files are gone")
        return _INTERRUPTED
    if arguments.json:
        REPORT.parent.mkdir(exist_ok=True)
        REPORT.write_text(json.dumps([asdict(one) for one in findings], indent=2) + "\n")
    caught = sum(one.verdict is Verdict.CAUGHT for one in findings)
    _say(f"leaks caught: {caught}/{len(mutations)}")
    return 0 if caught == len(mutations) else 1


def _turn(parts: int) -> int:
    """Choose a part by the commit: the same one each time, and each of them before long."""
    run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(run.stdout, 16) % parts


def _tell(finding: Finding) -> None:
    where = "" if finding.verdict is Verdict.CAUGHT else f" ({finding.file})"
    more = f" and {len(finding.noticed_by) - 1} more" if len(finding.noticed_by) > 1 else ""
    _say(f"  {finding.verdict:9} {finding.seconds:5.1f} s  {finding.name}{where}: {finding.reason}{more}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _in_memory() -> Path | None:
    is_roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 1024**3
    return _MEMORY if is_roomy else None


if __name__ == "__main__":
    sys.exit(main())
