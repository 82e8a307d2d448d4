"""What the database calls out at the commit of a transaction (NOTIFY). A hint: who misses it finds out by looking."""

from collections.abc import AsyncIterator
from typing import Final

import psycopg
from psycopg import sql

from control_plane.errors import UnavailableError
from control_plane.postgres.pools import PostgresSettings, connection_arguments

_CONNECT_WITHIN_S: Final = 5


async def notified(settings: PostgresSettings, channel: str) -> AsyncIterator[str]:
    """Yield an empty text once listening, and then what is called out. Holds a connection of its own.

    Raises:
        UnavailableError: when the database goes away; something may have gone unheard.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            **connection_arguments(settings), autocommit=True, connect_timeout=_CONNECT_WITHIN_S
        )
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield ""
            async for heard in connection.notifies():
                yield heard.payload
    except psycopg.OperationalError as error:
        raise UnavailableError("the database is away") from error
