"""A wall that is taken away, and what the tests said of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

# A tree that raises these has lost more than a wall: a name, or a file that can be read. Whoever meets that in a test
# has noticed a crash, and might not notice the same line taken away with more care.
_CRASHES: Final = (
    *("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError"),
    *("SyntaxError", "IndentationError"),  # of PostgreSQL's, too
)


class StaleError(Exception):
    """The text that a mutation replaces is not in its file exactly once: the code has moved on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One line of isolation code as a hurried engineer could leave it."""

    name: str
    """Which wall is taken away; a phrase that is true of the mutant."""
    file: str
    """Where the line is, from the root of the tree."""
    before: str
    """The line, or so much of it that it is in the file exactly once."""
    after: str
    """What stands there instead."""
    noticed_by: tuple[str, ...]
    """Tests of which one has to fail: `FILE::TEST`, `FILE::TEST[CASE]`, or a whole file or folder."""
    may_hang: bool = False
    """Whether a test that runs out of time has noticed it, too."""

    def applied(self, text: str) -> str:
        """Return the file's text without the wall.

        Raises:
            StaleError: `before` is there more or less often than once.
        """
        found = text.count(self.before)
        if found != 1 or self.before == self.after:
            raise StaleError(f"{self.file} has the text to be replaced {found} times, not once: {self.before!r}")
        return text.replace(self.before, self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A test that failed, or a file in which none could be found."""

    test: str
    phase: str
    """`collect`, `setup`, `call` or `teardown`."""
    kind: str
    """The name of the exception's class, such as `AssertionError`."""
    message: str
    ran_out_of_time: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the witness saw of one run of pytest: see `witness.py`."""

    collected: tuple[str, ...]
    passed: frozenset[str]
    failures: tuple[Failure, ...]
    unimportable: str
    """Why the mutated module cannot be imported; empty where it can."""
    strays: tuple[str, ...]
    """Files outside of the copy that were imported in place of the copy's."""
    libraries: tuple[str, ...]
    """The modules of others that were imported, in their order."""

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> "Report":
        """Read what the witness wrote."""
        return cls(
            collected=tuple(written["collected"]),
            passed=frozenset(written["passed"]),
            failures=tuple(Failure(**one) for one in written["failures"]),
            unimportable=written["unimportable"],
            strays=tuple(written["strays"]),
            libraries=tuple(written["libraries"]),
        )


class Verdict(StrEnum):
    """What became of a mutation. Only the first is as it should be."""

    CAUGHT = "caught"
    UNNOTICED = "UNNOTICED"
    """All tests passed: whoever removes this line leaks, and nobody knows."""
    BROKEN = "BROKEN"
    """The mutant is no program that somebody could have shipped, so nothing is known about the line."""
    HUNG = "HUNG"
    """A test ran out of time, and the mutation does not say that it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with its reason: the test that noticed, or what was wrong."""

    verdict: Verdict
    reason: str


def judge(mutation: Mutation, report: Report | None) -> Judgement:
    """Say whether the tests noticed that the wall was gone; there is no report where they were killed."""
    if report is None:
        return _out_of_time(mutation, "the whole run")
    if fault := _unfit(report):
        return Judgement(verdict=Verdict.BROKEN, reason=fault)
    if not report.failures:
        return Judgement(verdict=Verdict.UNNOTICED, reason=f"{len(report.passed)} tests passed without it")
    for failure in report.failures:
        if failure.phase == "collect" or failure.kind in _CRASHES:
            return Judgement(verdict=Verdict.BROKEN, reason=_said(failure))
    for failure in report.failures:
        if not failure.ran_out_of_time:
            return Judgement(verdict=Verdict.CAUGHT, reason=failure.test)
    return _out_of_time(mutation, report.failures[0].test)


def _unfit(report: Report) -> str:
    """Say why nothing can be concluded from a run, whatever failed in it; empty where something can."""
    if report.strays:
        return f"not the copy's: {', '.join(report.strays)}"
    if not report.unimportable and not report.collected and not report.failures:
        return "no test was collected"
    return report.unimportable


def _out_of_time(mutation: Mutation, what: str) -> Judgement:
    verdict = Verdict.CAUGHT if mutation.may_hang else Verdict.HUNG
    return Judgement(verdict=verdict, reason=f"{what} ran out of time")


def faults_of(selection: str, reports: Sequence[Report]) -> list[str]:
    """Say why a selection of tests could catch nothing: it is empty, or not all of it passes on the untouched copy."""
    faults = [_said(failure) for report in reports for failure in report.failures if is_of(failure.test, selection)]
    tests = {test for report in reports for test in report.collected if is_of(test, selection)}
    passed = {test for report in reports for test in report.passed}
    if not tests and not faults:
        return [f"{selection}: no test was collected"]
    return faults or [f"{test}: did not run to its end" for test in sorted(tests - passed)]


def is_of(test: str, selection: str) -> bool:
    """Tell whether a test, by its node id, is one of those that a selection names."""
    return test == selection or test.startswith((f"{selection}[", f"{selection}::", f"{selection}/"))


def file_of(selection: str) -> str:
    """Return the file or folder of a selection."""
    return selection.partition("::")[0]


def _said(failure: Failure) -> str:
    return f"{failure.test} ({failure.phase}): {failure.kind}: {failure.message}"
