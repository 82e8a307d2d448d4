"""Interceptors that look after every kind of call, unary or streaming, in the same words."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from typing_extensions import override

# Quoted, since only the stubs know these as generic.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class Interceptor(grpc.aio.ServerInterceptor):
    """Runs `around` about each call.

    A wrapped handler is kept by its method, of which there are few, and used again for the very handler that it wraps:
    the same method of another listener has another authentication behind this interceptor.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    @abstractmethod
    def around(self, method: str, request: Message | None, context: Context) -> AbstractAsyncContextManager[None]:
        """Enter before the call is served, and leave after. `request` is None where the client streams."""

    @override
    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            # Not kept: strangers choose these names.
            return None
        behind, wrapped = self._wrapped.get(method, (None, None))
        if wrapped is None or behind is not handler:
            wrapped = self._wrap(method, handler)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        serving: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def answer(request: Any, context: Context) -> Any:
            async with self.around(method, None if handler.request_streaming else request, context):
                return await serving(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self.around(method, None if handler.request_streaming else request, context):
                async for response in serving(request, context):
                    yield response

        behaviour = stream if handler.response_streaming else answer
        return handler_like(handler, behaviour, serializer=handler.response_serializer)


def handler_like(handler: Handler, behaviour: Any, *, serializer: "Callable[[Any], bytes] | None") -> Handler:
    """Return a handler of the same kind that does something else; without a serializer that returns bytes."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    made: Handler = make(behaviour, handler.request_deserializer, serializer)
    return made
