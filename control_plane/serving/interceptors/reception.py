"""The outermost interceptor: receives each call, gives it an id and a rule, and turns what it raises into a status."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import grpc
import structlog
from google.protobuf.message import Message
from typing_extensions import override

from bulkhead.v1 import rules_pb2
from control_plane.canary import BreachError
from control_plane.errors import DomainError, PermissionDeniedError, UnauthenticatedError
from control_plane.postgres.database import Database
from control_plane.postgres.effects import BeforeCommit
from control_plane.serving.call import Call, begin_call
from control_plane.serving.interception import Context, Handler, Interceptor
from control_plane.serving.status import to_status

# For callers that set no deadline of their own.
_DEADLINE: Final = timedelta(seconds=30)
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

# A tenant that nobody is served for.
_CLOSED: Final = {"TENANT_SUSPENDED", "TENANT_SEALED"}

DenialNoted = Callable[[Call, DomainError], None]
"""Told of each denied call, after its transaction is gone. Must not block, must not raise."""

BreachNoted = Callable[[Call, BreachError], None]
"""Told of each call whose answer was held back. Must not block, must not raise."""


class Reception(Interceptor):
    """Begins each call, and ends each failed one with a status that gives away no more than it should."""

    def __init__(
        self,
        rules: Mapping[str, rules_pb2.Rule],
        database: Database,
        *,
        recorder: Callable[[Call], BeforeCommit],
        denied: DenialNoted,
        breached: BreachNoted,
        deadline: timedelta = _DEADLINE,
    ) -> None:
        """Serve only methods that have a rule; end calls without a deadline of their own after `deadline`."""
        super().__init__()
        self._rules = rules
        self._database = database
        self._recorder = recorder
        self._denied = denied
        self._breached = breached
        self._deadline_s = deadline.total_seconds()
        # These live as long as their clients, whichever side it is that streams.
        self._streams: set[str] = set()

    @override
    def _wrap(self, method: str, handler: Handler) -> Handler:
        if handler.request_streaming or handler.response_streaming:
            self._streams.add(method)
        return super()._wrap(method, handler)

    @override
    @asynccontextmanager
    async def around(self, method: str, request: Message | None, context: Context) -> AsyncIterator[None]:
        rule = self._rules.get(method)
        if rule is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this method is not served")
        call = Call(
            method=method, rule=rule, database=self._database, recorder=self._recorder, peer=context.peer() or ""
        )
        begin_call(call)
        structlog.contextvars.bind_contextvars(request_id=call.request_id, method=method)
        failure: Exception | None = None
        try:
            is_left_alone = method in self._streams or context.time_remaining() is not None
            async with asyncio.timeout(None if is_left_alone else self._deadline_s):
                yield
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 whatever it is, the caller gets a status and the log the rest
            failure = error
        if failure is None:
            context.set_trailing_metadata((("x-request-id", call.request_id),))
            return
        if isinstance(failure, DomainError) and _is_denial(failure):
            self._denied(call, failure)
        if isinstance(failure, BreachError):
            self._breached(call, failure)
        status = to_status(failure, call.request_id)
        await context.abort(
            _CODES[status.code],
            status.message,
            (("x-request-id", call.request_id), ("grpc-status-details-bin", status.SerializeToString())),
        )


def _is_denial(error: DomainError) -> bool:
    return isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or error.code in _CLOSED
