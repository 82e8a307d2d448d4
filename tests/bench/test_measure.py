"""The measuring itself: the report's form is what others compare by."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.bench.measure import Figure, by_turns, figures, quantile, table, write


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_is_a_sample_that_its_share_does_not_exceed(samples: list[float], share: float) -> None:
    found = quantile(samples, share)

    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples) - 0.5


async def test_subject_and_baseline_take_turns_and_the_first_ones_do_not_count() -> None:
    turns: list[str] = []

    async def subject() -> None:
        turns.append("subject")

    async def baseline() -> None:
        turns.append("baseline")

    taken, compared = await by_turns(subject, baseline, runs=3)

    assert turns == ["baseline", "subject"] * 4
    assert len(taken) == len(compared) == 3


def test_a_report_is_a_list_of_cases_with_stable_names(tmp_path: Path) -> None:
    report = figures("read", [1.0, 2.0, 9.0], [0.5, 1.0, 4.5], tail=0.95)

    write(report, tmp_path / "build" / "bench.json")

    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == [
        {"case": "read_p50", "value": 2.0, "unit": "ms", "baseline": 1.0, "runs": 3},
        {"case": "read_p95", "value": 9.0, "unit": "ms", "baseline": 4.5, "runs": 3},
    ]


def test_a_table_has_a_line_for_each_figure_and_the_ratio_to_its_baseline() -> None:
    without = Figure(case="alone", value=3.0, unit="ms", baseline=0.0, runs=1)
    lines = table([*figures("read", [2.0], [1.0]), without]).splitlines()

    assert [line.split()[0] for line in lines] == ["case", "read_p50", "alone"]
    assert [line.split()[-2] for line in lines] == ["ratio", "2.0", "-"]
