"""Which SQL a handle sends: one query, never a command. Pure.

Commands are what could undo the isolation of a session: SET ROLE, RESET, DO, COPY, a second statement after a `;`. This
check is the first of three guards: the extended protocol refuses second statements whatever they look like, and the
database grants a tenant's role no right that a command could use.
"""

import re
from functools import lru_cache
from typing import Final

_QUERIES: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"})
_WORD: Final = re.compile(r"[A-Za-z]+")
# What has a meaning of its own up to its end, longest first: nothing inside is SQL.
_OPAQUE: Final = re.compile(
    r"--[^\n\r]*"  # a comment to the end of the line
    r"|(?<![A-Za-z0-9_$\x80-\U0010ffff])[eE]'(?:[^'\\]|\\.|'')*'"  # a string with escapes
    r"|'(?:[^']|'')*'"  # a string
    r'|"(?:[^"]|"")*"'  # a quoted name
    r"|(?<![A-Za-z0-9_$\x80-\U0010ffff])\$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?)\$"
    r".*?\$(?P=tag)\$",  # a dollar-quoted string
    re.DOTALL,
)
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")


class RefusedStatementError(Exception):
    """The text is not one SELECT, INSERT, UPDATE or DELETE; it was not sent. A mistake in a store, never a caller's."""


@lru_cache(maxsize=1024)
def check_statement(query: str) -> None:
    """Raise RefusedStatementError unless `query` is one query. Costs a dictionary look-up for a text seen before."""
    code = _code(query).strip()
    if ";" in code.removesuffix(";"):
        message = "more than one statement"
        raise RefusedStatementError(message)
    if "\x00" in query:
        message = "a NUL in a statement"
        raise RefusedStatementError(message)
    first = _WORD.match(code)
    if first is None or first.group().upper() not in _QUERIES:
        message = f"not a query: {code[:20]!r}"
        raise RefusedStatementError(message)


def _code(query: str) -> str:
    """Leave out comments, and the inside of strings and quoted names."""
    kept: list[str] = []
    position = 0
    while position < len(query):
        if query.startswith("/*", position):
            position = _end_of_comment(query, position)
            kept.append(" ")
        elif opaque := _OPAQUE.match(query, position):
            position = opaque.end()
            kept.append(" " if opaque.group().startswith("--") else "''")
        else:
            kept.append(query[position])
            position += 1
    return "".join(kept)


def _end_of_comment(query: str, start: int) -> int:
    """Find the end of a comment; they nest, and one without an end is the end of the text."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(query, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(query)
