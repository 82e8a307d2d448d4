"""Creating a tenant and watching operations: steps, waiting, and what interrupts it."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from bulkhead.v1 import creations_pb2, key_settings_pb2, steps_pb2, tenants_pb2
from control_plane import errors

NAME = "operations/0192"
STEPS = ("registry", "schema", "verification")


def operation(done: int, **ending: Any) -> operations_pb2.Operation:
    """Make the operation with its first `done` steps done, and with what ended it if anything did."""
    states = [steps_pb2.OperationStep.DONE if i < done else steps_pb2.OperationStep.PENDING for i in range(3)]
    steps = [
        steps_pb2.OperationStep(
            name=name, state=state, attempts=2 if name == "schema" else 1,
            start_time=Timestamp(seconds=1), end_time=Timestamp(seconds=1, nanos=12_000_000),
        )
        for name, state in zip(STEPS, states, strict=True)
    ]  # fmt: skip
    message = operations_pb2.Operation(name=NAME, done=bool(ending))
    message.metadata.Pack(creations_pb2.CreateTenantMetadata(tenant="tenants/org_1", steps=steps))
    if "tenant" in ending:
        message.response.Pack(ending["tenant"])
    if "error" in ending:
        message.error.CopyFrom(ending["error"])
    return message


ACTIVE, POOLED = tenants_pb2.Tenant.ACTIVE, tenants_pb2.Tenant.POOLED
TENANT = tenants_pb2.Tenant(
    name="tenants/org_1", state=ACTIVE, isolation_level=POOLED, uid="u",
    hsm_tier=key_settings_pb2.SHARED, token_algorithm=key_settings_pb2.EDDSA,
)  # fmt: skip
MADE = operation(3, tenant=TENANT)


def one_by_one(*answers: operations_pb2.Operation | Exception) -> Callable[[Any], operations_pb2.Operation]:
    left = list(answers)

    def give(request: Any) -> operations_pb2.Operation:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return give


def test_create_waits_tells_each_step_once_and_prints_the_tenant(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operation(1))
    api.answer("GetOperation", one_by_one(operation(1), operation(2), MADE))
    done = cli("tenants", "create", "org_1", "--label", "a=1", "--tier", "business", "--admin-email", "a@b.example")
    request = api.received[0].request

    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()] == [
        ["name", "tenants/org_1"],
        ["uid", "u"],
        ["state", "ACTIVE"],
        ["isolation_level", "POOLED"],
        ["hsm_backed", "no"],
        ["requests_per_minute", "0"],
        ["edge_revision", "0"],
        ["cache_bytes", "0"],
        ["billing_day", "0"],
        ["hsm_tier", "SHARED"],
        ["token_algorithm", "EDDSA"],
    ]
    assert [line.split()[1] for line in done.err.splitlines()[:3]] == list(STEPS)
    assert "12 ms  begun 2 times" in done.err
    assert done.err.splitlines()[-1].startswith(f"next: bulkhead --dir {cli.state_dir} tokens issue tenants/org_1")
    assert (request.tenant_id, request.tenant.tier, dict(request.tenant.labels)) == ("org_1", "business", {"a": "1"})
    assert request.tenant.admin_email == "a@b.example"
    assert str(uuid.UUID(request.request_id)) == request.request_id


def test_with_json_create_prints_the_tenant_and_no_talk(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", MADE)
    done = cli("tenants", "create", "tenants/org_1", "--json")

    assert done.json["name"] == "tenants/org_1"
    assert done.json["hsm_backed"] is False
    assert "@type" not in done.json
    assert done.err == ""


def test_a_failed_creation_exits_by_its_status(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operation(1))
    api.answer("GetOperation", operation(1, error=status_pb2.Status(code=9, message="taken back")))
    done = cli("tenants", "create", "org_1")

    assert (done.code, done.out) == (4, "")
    assert "error: FAILED_PRECONDITION: taken back" in done.err


def test_a_control_plane_that_is_away_for_a_while_is_waited_for(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operation(1))
    api.answer("GetOperation", one_by_one(errors.UnavailableError("away"), errors.UnavailableError("away"), MADE))

    assert cli("tenants", "create", "org_1").code == 0


def test_what_is_not_done_in_time_goes_on_and_can_be_watched(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operation(1))
    api.answer("GetOperation", operation(1))
    done = cli("tenants", "create", "org_1", "--timeout", "1s", "--json")

    assert (done.code, done.error["code"]) == (6, "DEADLINE_EXCEEDED")
    assert f"operations watch {NAME}" in done.error["next"]


def test_a_wait_that_is_interrupted_says_how_to_go_on(api: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    api.answer("CreateTenant", operation(1))
    monkeypatch.setattr(time, "sleep", interrupt)
    done = cli("tenants", "create", "org_1")

    assert done.code == 130
    assert f"operations watch {NAME}" in done.err


def test_without_waiting_create_prints_the_operation(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operation(1))
    done = cli("tenants", "create", "org_1", "--no-wait")

    assert (done.code, done.out) == (0, f"name  {NAME}\ndone  no\n")
    assert f"operations watch {NAME}" in done.err


def test_a_check_alone_makes_nothing_and_says_so(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operations_pb2.Operation(done=True))
    done = cli("tenants", "create", "org_1", "--validate-only")

    assert done.code == 0
    assert "nothing was made" in done.err
    assert api.received[0].request.validate_only


def test_a_creation_whose_answer_was_lost_can_be_repeated_under_its_request_id(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", errors.UnavailableError("away"))
    done = cli("tenants", "create", "org_1")

    assert done.code == 6
    assert f"--request-id {api.received[0].request.request_id}" in done.err


def test_watch_tells_the_steps_and_prints_the_operation(api: Any, cli: Any) -> None:
    api.answer("GetOperation", one_by_one(operation(2), MADE))
    done = cli("operations", "watch", "0192")

    assert done.code == 0
    assert [line.split()[1] for line in done.err.splitlines()] == list(STEPS)
    assert "outcome  tenants/org_1" in done.out
    assert "NAME          STATE  ATTEMPTS" in done.out


def test_wait_asks_the_server_to_wait(api: Any, cli: Any) -> None:
    api.answer("WaitOperation", one_by_one(operation(1), MADE))
    done = cli("operations", "wait", NAME, "--timeout", "5s", "--json")

    assert (done.code, done.json["done"]) == (0, True)
    assert {call.method for call in api.received} == {"WaitOperation"}
    assert 4 < api.received[0].request.timeout.ToTimedelta().total_seconds() <= 5


@pytest.mark.parametrize("verb", ["wait", "watch"])
def test_an_operation_that_failed_is_printed_and_fails_the_command(api: Any, cli: Any, verb: str) -> None:
    failed = operation(1, error=status_pb2.Status(code=13, message="internal error"))
    api.answer("GetOperation", failed)
    api.answer("WaitOperation", failed)
    done = cli("operations", verb, NAME)

    assert done.code == 1
    assert "outcome  internal error" in done.out
    assert "error: INTERNAL" in done.err


def test_an_operation_that_is_not_there_is_not_waited_for(api: Any, cli: Any) -> None:
    api.answer("WaitOperation", errors.NotFoundError(NAME))

    assert cli("operations", "wait", NAME).code == 3


def test_operations_are_listed_with_their_tenants(api: Any, cli: Any) -> None:
    api.answer("ListOperations", operations_pb2.ListOperationsResponse(operations=[MADE]))
    done = cli("operations", "list")

    assert done.out.splitlines()[1].split() == [NAME, "yes", "tenants/org_1"]
    assert api.received[0].request.name == "operations"
