"""SQL in every text of every request: it is data wherever it goes, or it is refused by name.

Two things would tell if a text became a part of a statement: the server's log, where the statement that failed stands,
and the catalogue, where whatever a statement made stands. Both are searched for a mark that every text carries.
"""

import secrets
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.settings import Settings
from tests.fixtures.stack import Stack
from tests.fixtures.synthetic import registry
from tests.isolation.rpc_callers import Answer, World
from tests.isolation.rpc_requests import METHODS, path, request

MARK: Final = f"hostile_{secrets.token_hex(4)}"
# `{mark}` names what would be made, or stands in the statement that would fail.
CORPUS: Final = (
    "'; CREATE TABLE public.{mark} (id int); --",
    "'); CREATE TABLE public.{mark} (id int); --",
    '"; CREATE ROLE {mark}; --',
    "$$; CREATE ROLE {mark}; $$",
    "$1; CREATE TABLE public.{mark} (id int)",
    "%s {mark}",
    "%(name)s {mark}",
    "%% %1$s {mark}",
    "{{}} {{0}} {mark}",
    "' OR '1'='1' -- {mark}",
    "x' UNION SELECT id::text FROM csm_system.tenants -- {mark}",
    "1 OR 1=1 {mark}",
    "'||(SELECT current_user)||'{mark}",
    "'; RESET ROLE; SET app.tenant_id = ''; -- {mark}",
    "'; SET search_path = pg_temp, pg_catalog; -- {mark}",
    "'; SELECT set_config('role', 'csm_owner', false); -- {mark}",
    "'; SELECT pg_sleep(3600); -- {mark}",
    "'; COMMIT; BEGIN; -- {mark}",
    "'; COPY (SELECT 1) TO PROGRAM 'true'; -- {mark}",
    "\\'; DROP SCHEMA csm_system CASCADE; -- {mark}",
    "\u02bc; CREATE TABLE public.{mark} (id int); --",
    "\uff07; CREATE TABLE public.{mark} (id int); --",
    "/* {mark} */ --",
    "E'\\x27' {mark}",
    "tenants/../../{mark}",
    "\x00' {mark}",
    "\r\n'{mark}",
    "'" * 3 + "{mark}",
)
# What every request may be answered with. INTERNAL and UNKNOWN would be faults of ours, and a call that hangs is one.
SOUND: Final = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED", "FAILED_PRECONDITION",
    "ALREADY_EXISTS",
}  # fmt: skip
# It is told an edge's standing by edges alone; a text of its own would stay in the list of edges for the other tests.
STANDING: Final = {"AcknowledgePolicies", "FollowPolicies", "ReportDecisions"}


def _texts(message: Descriptor, *, depth: int = 0) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Go through the ways to each text of a message, those in messages inside of it too."""
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (field,)
        elif field.message_type is not None and depth < 3:
            for rest in _texts(field.message_type, depth=depth + 1):
                yield (field, *rest)


CASES: Final = [(method, way) for method in METHODS if method.name not in STANDING for way in _texts(method.input_type)]
EACH_TEXT: Final = pytest.mark.parametrize(
    ("method", "way"), CASES, ids=[f"{m.name}-{'.'.join(field.name for field in way)}" for m, way in CASES]
)


def _put(message: Any, way: tuple[FieldDescriptor, ...], text: str) -> None:
    *outer, last = way
    for field in outer:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            # Once as the key, once as the value.
            entries = getattr(message, field.name)
            entries[text if last.name == "key" else "key"] = text if last.name == "value" else "value"
            return
        inner = getattr(message, field.name)
        message = inner.add() if field.is_repeated else inner
    if last.is_repeated:
        getattr(message, last.name).append(text)
    else:
        setattr(message, last.name, text)


def _ask(world: World, method: MethodDescriptor, way: tuple[FieldDescriptor, ...], text: str) -> Answer:
    message: Message = request(method, world.own)
    _put(message, way, text)
    return world.ask(world.permitted(method), path(method), message)


class Oracle:
    """Tells whether a marked text became a part of a statement."""

    def __init__(self, stack: Stack) -> None:
        self._settings = Settings.from_dir(stack.dir)
        self._log: Path = stack.dir / "logs" / "postgres.log"

    def traces(self) -> list[str]:
        with registry(self._settings) as connection:
            made = connection.execute(
                "SELECT relname FROM pg_class WHERE relname LIKE 'hostile%'"
                " UNION ALL SELECT rolname FROM pg_roles WHERE rolname LIKE 'hostile%'"
            ).fetchall()
        return [line for line in self._log.read_text().splitlines() if MARK in line] + [name for (name,) in made]


@pytest.fixture(scope="module")
def oracle(stack: Stack) -> Oracle:
    return Oracle(stack)


def test_the_oracle_notices_a_statement_that_a_text_became_a_part_of(oracle: Oracle, stack: Stack) -> None:
    """The positive twin: were it blind, all else here would pass."""
    with registry(Settings.from_dir(stack.dir)) as connection:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute(f"SELECT {MARK}_twin")
        assert oracle.traces() != []
        connection.execute(f"CREATE ROLE {MARK}_twin")
        assert f"{MARK}_twin" in oracle.traces()
        connection.execute(f"DROP ROLE {MARK}_twin")


@EACH_TEXT
@pytest.mark.behaviour("H9", "T-D2")
def test_sql_in_a_text_is_data_or_refused(
    method: MethodDescriptor, way: tuple[FieldDescriptor, ...], world: World, oracle: Oracle
) -> None:
    before = oracle.traces()
    answers = {text: _ask(world, method, way, text.format(mark=MARK)) for text in CORPUS}

    assert {text: answer for text, answer in answers.items() if answer.code not in SOUND} == {}
    assert oracle.traces() == before


@cache
def _hostile() -> st.SearchStrategy[str]:
    pieces = st.sampled_from(["'", '"', ";", "--", "/*", "*/", "$$", "\\", "%s", "%", "\n", "(", ")", " ", "\u2019"])
    # Never nothing: an empty etag matches all, and what the other tests ask for would be suspended, or gone.
    return st.lists(st.one_of(pieces, st.text(max_size=3), st.just(MARK)), max_size=12).map("".join).filter(bool)


@pytest.mark.behaviour("H9", "T-D2")
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(CASES), text=_hostile())
def test_whatever_is_put_together_from_sql_is_data_or_refused(
    case: tuple[MethodDescriptor, tuple[FieldDescriptor, ...]], text: str, world: World, oracle: Oracle
) -> None:
    before = oracle.traces()
    answer = _ask(world, *case, text)

    assert answer.code in SOUND, answer
    assert oracle.traces() == before
