"""The gate itself: the tests are green while every wall stands, and some are red as soon as one is gone."""

import asyncio
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

from tests.leaks.copies import Copy, NoProgramError
from tests.leaks.model import Judgement, Mutation, Report, StaleError, Verdict, faults_of, file_of, judge
from tests.leaks.processes import Nursery, start_anew
from tests.leaks.trial import CrashedError, Trial

T = TypeVar("T")

_AT_ONCE: Final = 2


class ClosedError(Exception):
    """No mutation can be tried: texts or tests are not there, or tests fail while nothing is wrong. Says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one mutation."""

    name: str
    file: str
    verdict: Verdict
    reason: str
    noticed_by: tuple[str, ...]
    """All tests that failed: one, unless they were run to their end."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Green:
    """What was found while every wall stood."""

    tests: int
    """How many are to notice something; all of them passed."""
    libraries: tuple[str, ...]
    """The modules of others that they load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Tries the mutations of a tree. Leaves the tree alone, and everything that it writes in two directories."""

    tree: Path
    work: Path
    """Of this gate alone: copies of the tree, and what the tests write."""
    memory: Path
    """The same, on a quick disk: the tests' databases."""
    found: Callable[[Finding], None]
    """Told of each mutation as it is known what became of it."""
    whole: bool = False
    """Whether all tests are run that stand beside those which are to notice a mutation, and each to its end."""

    async def open(self, mutations: Sequence[Mutation]) -> Green:
        """Make the copy that all others are made of, and run in it what is to notice the mutations.

        Raises:
            ClosedError: that cannot be.
        """
        self._check_texts(mutations)
        selections = sorted({selection for one in mutations for selection in self._selections(one)})
        if gone := [selection for selection in selections if not (self.tree / file_of(selection)).exists()]:
            raise ClosedError("\n".join(f"{selection}: there is no such file" for selection in gone))
        Copy.of_tree(self.tree, self._untouched).check()
        folders: dict[PurePosixPath, list[str]] = defaultdict(list)
        for selection in selections:
            folders[PurePosixPath(*PurePosixPath(selection).parts[:2])].append(selection)
        reports = await _two_at_a_time(
            partial(self._run_untouched, number, part) for number, part in enumerate(folders.values())
        )
        if faults := [fault for selection in selections for fault in faults_of(selection, reports)]:
            raise ClosedError("\n".join(dict.fromkeys(faults)))
        return Green(
            tests=len({test for report in reports for test in report.passed}),
            libraries=tuple(dict.fromkeys(name for report in reports for name in report.libraries)),
        )

    async def try_all(self, mutations: Sequence[Mutation], green: Green) -> list[Finding]:
        """Try mutations that the gate was opened for, two at a time."""
        untouched = Copy(root=self._untouched)
        async with Nursery.open(untouched, green.libraries, log=self.work / "nursery.log") as nursery:
            return await _two_at_a_time(
                partial(self._try, number, one, nursery) for number, one in enumerate(mutations)
            )

    @property
    def _untouched(self) -> Path:
        return self.work / "untouched"

    def _check_texts(self, mutations: Iterable[Mutation]) -> None:
        faults = []
        for mutation in mutations:
            try:
                mutation.applied((self.tree / mutation.file).read_text())
            except (StaleError, FileNotFoundError) as error:
                faults.append(f"{mutation.name}: {error}")
        if faults:
            raise ClosedError("\n".join(faults))

    def _selections(self, mutation: Mutation) -> tuple[str, ...]:
        if not self.whole:
            return mutation.noticed_by
        return tuple(dict.fromkeys(str(PurePosixPath(file_of(one)).parent) for one in mutation.noticed_by))

    async def _run_untouched(self, number: int, selections: Sequence[str]) -> Report:
        work, memory = self._places(f"u{number}")
        trial = Trial(copy=Copy(root=self._untouched), selections=selections, to_the_end=True, limited=False)
        try:
            report = await trial.run(work, memory, start=start_anew)
        except CrashedError as error:
            raise ClosedError(f"{selections} cannot be run:\n{error}") from None
        if report is None or report.strays:
            raise ClosedError(f"{selections} ran others than the copy's sources: {report and report.strays}")
        return report

    async def _try(self, number: int, mutation: Mutation, nursery: Nursery) -> Finding:
        begun = time.monotonic()
        work, memory = self._places(str(number))
        report: Report | None = None
        try:
            report = await self._mutated(mutation, work, memory, nursery)
            judgement = judge(mutation, report)
        except (CrashedError, NoProgramError) as error:
            judgement = Judgement(verdict=Verdict.BROKEN, reason=str(error))
        for place in (work, memory):
            shutil.rmtree(place)
        finding = Finding(
            name=mutation.name,
            file=mutation.file,
            verdict=judgement.verdict,
            reason=judgement.reason,
            noticed_by=tuple(dict.fromkeys(failure.test for failure in report.failures)) if report else (),
            seconds=round(time.monotonic() - begun, 1),
        )
        self.found(finding)
        return finding

    async def _mutated(self, mutation: Mutation, work: Path, memory: Path, nursery: Nursery) -> Report | None:
        copy = Copy(root=self._untouched).again(work / "tree")
        copy.mutate(mutation)
        trial = Trial(
            copy=copy,
            selections=self._selections(mutation),
            mutated=mutation.file,
            may_hang=mutation.may_hang,
            to_the_end=self.whole,
        )
        return await trial.run(work, memory, start=nursery.start)

    def _places(self, name: str) -> tuple[Path, Path]:
        """Make directories of their own for one run. Short names: sockets are made in them."""
        work, memory = self.work / name, self.memory / name
        for place in (work, memory):
            place.mkdir()
        return work, memory


async def _two_at_a_time(works: Iterable[Callable[[], Coroutine[object, object, T]]]) -> list[T]:
    """Return what they return, in their order; the first that fails ends the others."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(work: Callable[[], Coroutine[object, object, T]]) -> T:
        async with turns:
            return await work()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(in_turn(work)) for work in works]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
