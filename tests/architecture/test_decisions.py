"""The decision records keep their form: a page each, the sections of the template, and a line in the index."""

import re
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parents[2] / "docs" / "adr"
RECORDS: Final = sorted(FOLDER.glob("[0-9]*.md"))
MOST_LINES_OF_A_PAGE: Final = 65
MOST_COLUMNS: Final = 125


def _sections(record: Path) -> list[str]:
    return re.findall(r"^## (.+)$", record.read_text(), re.MULTILINE)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_decision_is_a_page_with_the_sections_of_the_template(record: Path) -> None:
    lines = record.read_text().splitlines()

    assert lines[0].startswith(f"# {record.name[:4]} ")
    assert re.fullmatch(r"Status: (accepted|superseded by \d{4}|accepted \| superseded by NNNN)", lines[2])
    assert _sections(record) == _sections(FOLDER / "0000-template.md")
    assert len(lines) <= MOST_LINES_OF_A_PAGE
    assert max(map(len, lines)) <= MOST_COLUMNS


def test_the_index_names_every_decision_by_its_title() -> None:
    index = (FOLDER / "README.md").read_text()
    rows = [f"| [{record.name[:4]}]({record.name}) | {_title(record)} |" for record in RECORDS[1:]]

    assert [row for row in index.splitlines() if row.startswith("| [")] == rows


def _title(record: Path) -> str:
    return record.read_text().splitlines()[0].removeprefix(f"# {record.name[:4]} ")
