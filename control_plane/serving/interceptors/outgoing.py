"""The innermost interceptor: looks at every answer as it goes out, in the bytes that go out.

It knows nothing of what an answer should hold; it knows that no other tenant's marker may be in it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from typing_extensions import override

from control_plane.canary import Canaries
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context, Handler, Interceptor, handler_like


class OutgoingGuard(Interceptor):
    """Holds back what has another tenant's marker in it: the call ends with BreachError. Costs a search in bytes."""

    def __init__(self, canaries: Canaries) -> None:
        """Recognise these markers."""
        super().__init__()
        self._canaries = canaries

    @override
    @asynccontextmanager
    async def around(self, method: str, request: Message | None, context: Context) -> AsyncIterator[None]:
        yield

    @override
    def _wrap(self, method: str, handler: Handler) -> Handler:
        serving: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        serialize = handler.response_serializer or bytes

        async def answer(request: Any, context: Context) -> bytes:
            return self._checked(serialize(await serving(request, context)))

        async def stream(request: Any, context: Context) -> AsyncIterator[bytes]:
            async for response in serving(request, context):
                yield self._checked(serialize(response))

        # What was looked at is what is sent.
        return handler_like(handler, stream if handler.response_streaming else answer, serializer=None)

    def _checked(self, data: bytes) -> bytes:
        placement = current_call().placement
        self._canaries.check(data, own=placement.uid if placement else None, channel="response")
        return data
