"""What counts as caught, and what only looks like it."""

from dataclasses import replace
from typing import Any, Final

import pytest

from tests.leaks.model import Failure, Mutation, Report, StaleError, Verdict, faults_of, judge

WALL: Final = Mutation(
    name="the door is open", file="door.py", before="    if not key:\n", after="", noticed_by=("tests/test_door.py",)
)
TEST: Final = "tests/test_door.py::test_a_key_is_needed"
SOUND: Final = Report(
    collected=(TEST,), passed=frozenset({TEST}), failures=(), unimportable="", strays=(), libraries=()
)


def failure(kind: str = "AssertionError", **other: Any) -> Failure:
    said: dict[str, Any] = {
        "test": TEST,
        "phase": "call",
        "kind": kind,
        "message": "it was open",
        "ran_out_of_time": False,
    }
    return Failure(**(said | other))


def failed(*failures: Failure) -> Report:
    return replace(SOUND, passed=frozenset(), failures=failures)


def test_a_wall_is_replaced_where_it_stands() -> None:
    assert WALL.applied("def opens(key):\n    if not key:\n        return False\n") == (
        "def opens(key):\n        return False\n"
    )


@pytest.mark.parametrize("text", ["", "    if no key:\n", "    if not key:\n" * 2])
def test_a_wall_that_is_not_there_exactly_once_is_told(text: str) -> None:
    with pytest.raises(StaleError, match=r"door\.py has the text .* times, not once"):
        WALL.applied(text)


def test_a_mutation_that_changes_nothing_is_told() -> None:
    with pytest.raises(StaleError):
        replace(WALL, after=WALL.before).applied(WALL.before)


def test_a_test_that_fails_has_caught_it() -> None:
    found = judge(WALL, failed(failure()))

    assert (found.verdict, found.reason) == (Verdict.CAUGHT, TEST)


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_it_is_caught_in_whichever_phase(phase: str) -> None:
    assert judge(WALL, failed(failure("MigrationError", phase=phase))).verdict is Verdict.CAUGHT


def test_where_all_tests_pass_nobody_has_noticed() -> None:
    assert judge(WALL, SOUND).verdict is Verdict.UNNOTICED


@pytest.mark.parametrize(
    "report",
    [
        failed(failure("CollectError", test="tests/test_door.py", phase="collect")),
        failed(failure("NameError")),
        failed(failure("UnboundLocalError")),
        failed(failure("ImportError", phase="setup")),
        failed(failure("SyntaxError")),
        replace(SOUND, unimportable="door cannot be imported: SyntaxError: invalid syntax"),
        replace(failed(failure()), strays=("/elsewhere/door.py",)),
        replace(SOUND, collected=(), passed=frozenset()),
    ],
    ids=["collection", "name", "local", "import", "syntax", "module", "another's source", "no test"],
)
def test_a_mutant_that_is_no_program_is_not_caught(report: Report) -> None:
    assert judge(WALL, report).verdict is Verdict.BROKEN


@pytest.mark.parametrize("report", [None, failed(failure("TimeoutError", ran_out_of_time=True))])
def test_running_out_of_time_counts_where_the_mutation_says_so(report: Report | None) -> None:
    assert judge(WALL, report).verdict is Verdict.HUNG
    assert judge(replace(WALL, may_hang=True), report).verdict is Verdict.CAUGHT


def test_of_several_failures_a_crash_outweighs_all_and_a_time_out_none() -> None:
    late = failure("TimeoutError", ran_out_of_time=True)

    assert judge(WALL, failed(failure(), failure("NameError"))).verdict is Verdict.BROKEN
    assert judge(WALL, failed(late, failure())).verdict is Verdict.CAUGHT
    assert judge(WALL, failed(late, late)).verdict is Verdict.HUNG


@pytest.mark.parametrize("selection", ["tests", "tests/test_door.py", TEST])
def test_a_selection_whose_tests_pass_can_catch_something(selection: str) -> None:
    case = replace(SOUND, collected=(f"{TEST}[1]",), passed=frozenset({f"{TEST}[1]"}))

    assert faults_of(selection, [SOUND]) == faults_of(selection, [case]) == []


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (failed(failure()), f"{TEST} (call): AssertionError: it was open"),
        (replace(SOUND, passed=frozenset()), f"{TEST}: did not run to its end"),
        (replace(SOUND, collected=(), passed=frozenset()), f"{TEST}: no test was collected"),
        (replace(SOUND, collected=(f"{TEST}_too",)), f"{TEST}: no test was collected"),
    ],
    ids=["red", "skipped", "none", "another's name"],
)
def test_a_selection_that_could_catch_nothing_is_told(report: Report, said: str) -> None:
    assert faults_of(TEST, [report]) == [said]
