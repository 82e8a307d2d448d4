"""Every table of a tenant is born behind row-level security: a look at the text, before any database is asked.

`tests/isolation` asks the real catalogue. This says in a second which line of a migration was forgotten.
"""

import re
from pathlib import Path
from typing import Final

import pytest

SQL: Final = Path(__file__).parents[2] / "control_plane" / "postgres" / "sql"
CONTEXT: Final = "nullif(current_setting('app.tenant_id', true), '')::uuid"


def _text(folder: str) -> str:
    text = "\n".join(path.read_text() for path in sorted((SQL / folder).glob("*.sql")))
    return re.sub(r"\s+", " ", re.sub(r"--[^\n]*", "", text))


TENANT: Final = _text("tenant")
TABLES: Final = dict(re.findall(r"CREATE TABLE (\w+) \((.*?)\);", TENANT))
EACH_TABLE: Final = pytest.mark.parametrize("table", TABLES)


def test_every_creation_of_a_table_is_understood() -> None:
    assert len(TABLES) == len(re.findall(r"\bCREATE\s+(?:UNLOGGED\s+)?TABLE\b", TENANT, re.IGNORECASE)) > 0


@EACH_TABLE
@pytest.mark.behaviour("S1.5")
def test_a_tenants_table_has_row_level_security_enabled_and_forced(table: str) -> None:
    assert f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;" in TENANT


@EACH_TABLE
@pytest.mark.behaviour("S1.5")
def test_a_tenants_table_shows_and_takes_the_rows_of_the_context_only(table: str) -> None:
    policies = re.findall(rf"CREATE POLICY \w+ ON {table} ([^;]*);", TENANT)

    assert policies == [f"USING (tenant_id = {CONTEXT}) WITH CHECK (tenant_id = {CONTEXT})"]


@EACH_TABLE
def test_a_row_of_a_tenant_is_keyed_within_the_tenant_and_filled_in_from_the_context(table: str) -> None:
    """A key that spans tenants would tell one whether another has the same value."""
    keys = re.findall(r"(?:PRIMARY KEY|UNIQUE|FOREIGN KEY|REFERENCES \w+) \(([^)]*)\)", TABLES[table])
    inline = re.findall(r"\b(?:PRIMARY KEY|UNIQUE)\b(?! \()", TABLES[table])

    assert TABLES[table].strip().startswith(f"tenant_id uuid NOT NULL DEFAULT {CONTEXT},")
    assert [key for key in keys if "tenant_id" not in key.split(", ")] == []
    assert inline == []


def test_indexes_that_are_unique_are_so_within_the_tenant() -> None:
    indexes = re.findall(r"CREATE UNIQUE INDEX \w+ ON \w+ \(([^)]*)\)", TENANT)

    assert [columns for columns in indexes if "tenant_id" not in columns.split(", ")] == []


@pytest.mark.parametrize(
    ("forbidden", "why"),
    [
        (r"\bDISABLE ROW LEVEL|\bNO FORCE ROW LEVEL|\bDROP POLICY", "takes the protection away"),
        (r"\bMATERIALIZED VIEW\b", "keeps rows without a policy"),
        (r"\bCREATE (?:OR REPLACE )?VIEW (?!\w+ WITH \(security_invoker)", "reads with its owner's rights"),
        (r"\bSECURITY DEFINER\b", "runs with its owner's rights"),
        (r"\bALL TABLES IN SCHEMA\b", "reads the catalogue of all tenants"),
        (r"\bCREATE SEQUENCE\b|\bSERIAL\b|\bBIGSERIAL\b|\bAS IDENTITY\b", "stays behind when the tenant moves"),
        (r"\bTO PUBLIC\b", "is for everyone"),
    ],
)
def test_a_tenants_schema_has_nothing_that(forbidden: str, why: str) -> None:
    assert re.findall(forbidden, TENANT, re.IGNORECASE) == [], why


@pytest.mark.behaviour("S1.7")
def test_reference_data_is_of_no_tenant() -> None:
    tables = re.findall(r"CREATE TABLE csm_shared_readonly\.\w+ \((.*?)\);", _text("system"))

    assert tables
    assert [columns for columns in tables if "tenant" in columns] == []


def test_a_function_with_its_owners_rights_fixes_its_search_path() -> None:
    functions = re.findall(r"CREATE (?:OR REPLACE )?FUNCTION.*?\$\$.*?\$\$[^;]*;", _text("system"))
    definers = [function for function in functions if "SECURITY DEFINER" in function.upper()]

    assert functions
    assert [function for function in definers if "SET search_path" not in function] == []
