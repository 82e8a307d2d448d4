"""Behind authorisation: a call that opens a tenant waits for the tenant's turn."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.message import Message
from typing_extensions import override

from bulkhead.v1 import rules_pb2
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context, Handler, Interceptor
from control_plane.serving.turns import Turns


class Queueing(Interceptor):
    """Works on one tenant's calls in turns, so that others need not wait for all of them.

    What opens no tenant may wait for something else, and for long; so may a stream. Neither has turns.
    """

    def __init__(self, turns: Turns) -> None:
        """Give out these turns, which other listeners of the process may share."""
        super().__init__()
        self._turns = turns

    @override
    @asynccontextmanager
    async def around(self, method: str, request: Message | None, context: Context) -> AsyncIterator[None]:
        call = current_call()
        if call.placement is None or call.rule.isolation == rules_pb2.ISOLATION_NONE:
            yield
            return
        async with self._turns.turn(call.placement.uid):
            yield

    @override
    def _wrap(self, method: str, handler: Handler) -> Handler:
        is_stream = handler.request_streaming or handler.response_streaming
        return handler if is_stream else super()._wrap(method, handler)
