"""google.longrunning.Operations over our operations (AIP-151)."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from typing_extensions import override

from bulkhead.v1 import steps_pb2
from control_plane.errors import FieldViolation, InvalidArgumentError, NotFoundError
from control_plane.operations import store
from control_plane.operations.model import Operation, StepRecord
from control_plane.operations.plan import Plans, plan_of
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens
from control_plane.serving.status import DOMAIN

# WaitOperation looks this often: no one waits for a fraction of a step.
_POLL: Final = timedelta(milliseconds=50)
_LONGEST_WAIT: Final = timedelta(seconds=25)
_PARENT: Final = "operations"


class OperationsServicer(operations_pb2_grpc.OperationsServicer):
    """Shows operations. Cancel and Delete are not offered: an operation ends by itself, and its record is kept."""

    def __init__(self, plans: Plans, page_tokens: PageTokens) -> None:
        """Render each kind as its plan says."""
        self._plans = plans
        self._page_tokens = page_tokens

    @override
    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        return await to_proto(await _get(request.name), self._plans)

    @override
    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Context
    ) -> operations_pb2.ListOperationsResponse:
        if request.name not in {"", _PARENT}:
            raise InvalidArgumentError(FieldViolation(field="name", description=f"must be {_PARENT}"))
        call = current_call()
        page = self._page_tokens.page(request, method=call.method, parent=_PARENT, now=datetime.now(UTC))
        operations = await call.system().run(lambda tx: store.list_page(tx, before=page.before, limit=page.limit))
        shown, next_page_token = page.cut(operations, lambda operation: operation.id)
        return operations_pb2.ListOperationsResponse(
            operations=[await to_proto(operation, self._plans) for operation in shown], next_page_token=next_page_token
        )

    @override
    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        asked = request.timeout.ToTimedelta() if request.HasField("timeout") else _LONGEST_WAIT
        until = asyncio.get_running_loop().time() + min(asked, _LONGEST_WAIT).total_seconds()
        operation = await _get(request.name)
        while not operation.is_done and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL.total_seconds())
            operation = await _get(request.name)
        return await to_proto(operation, self._plans)


async def _get(name: str) -> Operation:
    try:
        operation_id = UUID(names.parse(names.OPERATION, name)["operation"])
    except ValueError:
        raise NotFoundError(name) from None
    operation = await current_call().system().run(lambda tx: store.find(tx, operation_id))
    if operation is None:
        raise NotFoundError(name)
    return operation


async def to_proto(operation: Operation, plans: Plans) -> operations_pb2.Operation:
    """Render the operation, with the result of its plan when it succeeded."""
    plan = plan_of(plans, operation.kind)
    message = operations_pb2.Operation(name=operation.name, done=operation.is_done)
    message.metadata.Pack(plan.metadata(operation))
    if operation.is_done and operation.failure:
        failure = operation.failure
        message.error.code = failure.code
        message.error.message = failure.message
        message.error.details.append(_packed(error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN)))
    elif operation.is_done:
        message.response.Pack(await plan.response(operation))
    return message


def steps_to_proto(operation: Operation) -> list[steps_pb2.OperationStep]:
    """Render how far each step is, for the metadata of any kind."""
    return [_step_to_proto(record) for record in operation.steps]


def _step_to_proto(record: StepRecord) -> steps_pb2.OperationStep:
    step = steps_pb2.OperationStep(
        name=record.name, state=steps_pb2.OperationStep.State.Value(record.state), attempts=record.attempts
    )
    if record.start_time is not None:
        step.start_time.FromDatetime(record.start_time)
    if record.end_time is not None:
        step.end_time.FromDatetime(record.end_time)
    return step


def _packed(detail: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed
