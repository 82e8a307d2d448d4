"""Which texts a handle sends."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.postgres.statements import RefusedStatementError, check_statement

SENT: Final = [
    "SELECT 1",
    "select 1;",
    "  \n\tSELECT 1 ; \n",
    "-- why\nSELECT 1",
    "/* a /* nested */ comment; */ SELECT 1",
    "SELECT 1 -- ; RESET ROLE",
    "SELECT 1 /* ; RESET ROLE */",
    "SELECT ';'",
    "SELECT 'it''s; RESET ROLE'",
    r"SELECT E'it\'s; RESET ROLE'",
    r"SELECT E'\\'",
    r"SELECT '\' AS one, ';'",
    'SELECT ";" FROM users',
    'SELECT "a"";""b" FROM users',
    "SELECT $$ ; RESET ROLE $$",
    "SELECT $tag$ $$ ; $ta$ $tag$",
    "SELECT price$, other$;",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "INSERT INTO users (id) VALUES (%(id)s)",
    "UPDATE users SET email = %(email)s",
    "DELETE FROM certificates",
    "select'a'",
]
REFUSED: Final = [
    "",
    ";",
    "-- SELECT 1",
    "/* SELECT 1",
    "/* /* */ SELECT 1",
    "'SELECT'",
    '"SELECT" 1',
    "SELECTED",
    "SELECT 1; SELECT 2",
    "SELECT 1;;",
    "SELECT 1; -- RESET ROLE\nRESET ROLE",
    "SELECT 1 /* ; */; RESET ROLE",
    "SELECT ''; RESET ROLE",
    r"SELECT '\'; RESET ROLE; --'",
    r"SELECT e '\'; RESET ROLE; --'",
    "SELECT $$ $$; RESET ROLE",
    "SELECT $a$ $b$; $a$; RESET ROLE",
    "SELECT a$$; RESET ROLE --$$",
    "SELECT 1\x00",
    "\ufeffSELECT 1",
    "EXPLAIN SELECT 1",
    "TABLE users",
    "VALUES (1)",
    "MERGE INTO users USING users ON true WHEN MATCHED THEN DELETE",
    "SET ROLE other",
    "RESET ROLE",
    "BEGIN",
    "COMMIT",
    "DO $$ BEGIN END $$",
    "COPY users TO STDOUT",
    "CALL anything()",
]
SPACES: Final = st.sampled_from(["", " ", "\n", "\t", "-- ; RESET ROLE\n", "/* ; */", "/* /* ; */ */"])
HARMLESS: Final = st.sampled_from(["SELECT 1", "SELECT ';'", "select $$;$$", "UPDATE \";\" SET a = E'\\';'"])
COMMANDS: Final = st.sampled_from(["RESET ROLE", "SET ROLE a", "SELECT 1", "DO $$ $$", "COPY a TO STDOUT", "x"])


@pytest.mark.parametrize("query", SENT)
def test_one_query_is_sent(query: str) -> None:
    check_statement(query)


@pytest.mark.parametrize("query", REFUSED)
def test_anything_else_is_refused(query: str) -> None:
    with pytest.raises(RefusedStatementError):
        check_statement(query)


@given(st.lists(SPACES, max_size=3), HARMLESS, st.lists(SPACES, max_size=3))
def test_comments_around_a_query_change_nothing(before: list[str], query: str, after: list[str]) -> None:
    check_statement("".join(before) + query + "".join(after))


@given(st.lists(SPACES, max_size=3), HARMLESS, st.lists(SPACES, max_size=3), COMMANDS)
def test_a_second_statement_is_refused_behind_whatever_comments(
    before: list[str], query: str, between: list[str], command: str
) -> None:
    text = "".join(before) + query + ";" + "".join(between) + command

    with pytest.raises(RefusedStatementError):
        check_statement(text)


@given(st.text(alphabet="SELECT ;'\"$eE\\-/*\n1a", max_size=40))
def test_any_text_is_either_sent_or_refused(text: str) -> None:
    try:
        check_statement(text)
    except RefusedStatementError:
        return
    assert text.strip()
