"""How the figures are taken: medians, each against a baseline of the same run, by turns, so that noise hits both."""

import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the report. `case` is stable: reports of different days are compared by it."""

    case: str
    value: float
    unit: str
    baseline: float
    """The same statistic of the thing that it is compared with; 0 where there is nothing to compare with."""
    runs: int


async def by_turns(subject: Work, baseline: Work, *, runs: int) -> tuple[list[float], list[float]]:
    """Time both in milliseconds, one after the other, `runs` times each after a first one that does not count."""
    await baseline()
    await subject()
    taken: list[float] = []
    compared: list[float] = []
    for _ in range(runs):
        compared.append(await timed(baseline))
        taken.append(await timed(subject))
    return taken, compared


async def timed(work: Work) -> float:
    """Time `work` in milliseconds."""
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1000


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the value that `share` of the samples do not exceed: a sample itself, never one in between."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(share * len(ordered)))]


def figures(case: str, taken: Sequence[float], compared: Sequence[float], *, tail: float | None = None) -> list[Figure]:
    """Report the medians, and the `tail` (such as 0.95) beside them."""
    found = [_figure(f"{case}_p50", statistics.median(taken), statistics.median(compared), runs=len(taken))]
    if tail is not None:
        name = f"{case}_p{round(tail * 100)}"
        found.append(_figure(name, quantile(taken, tail), quantile(compared, tail), runs=len(taken)))
    return found


def _figure(case: str, value: float, baseline: float, *, runs: int) -> Figure:
    return Figure(case=case, value=round(value, 3), unit="ms", baseline=round(baseline, 3), runs=runs)


def table(report: Sequence[Figure]) -> str:
    """Lay the report out for a terminal."""
    rows = [("case", "value", "baseline", "ratio", "runs")]
    for figure in report:
        ratio = f"{figure.value / figure.baseline:.1f}" if figure.baseline else "-"
        rows.append(
            (
                figure.case,
                f"{figure.value:.3f} {figure.unit}",
                f"{figure.baseline:.3f} {figure.unit}",
                ratio,
                str(figure.runs),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(line) for line in lines)


def write(report: Sequence[Figure], path: Path) -> None:
    """Write the report as a list of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(figure) for figure in report], indent=2) + "\n")
