"""Errors of the platform, as the command line tells them."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from bulkhead.v1 import tenants_pb2
from control_plane import errors
from tests.fixtures.relay import Relay

TENANT = tenants_pb2.Tenant(name="tenants/org_1")

FAILURES: list[tuple[Exception, int, str]] = [
    (errors.InvalidArgumentError(errors.FieldViolation(field="f", description="is bad")), 2, "INVALID_ARGUMENT"),
    (errors.NotFoundError("tenants/org_1"), 3, "NOT_FOUND"),
    (errors.PermissionDeniedError("no", reason="TENANT_MISMATCH"), 3, "PERMISSION_DENIED"),
    (errors.UnauthenticatedError("who"), 3, "UNAUTHENTICATED"),
    (errors.AlreadyExistsError("tenants/org_1"), 4, "ALREADY_EXISTS"),
    (errors.EtagMismatchError("stale"), 4, "ABORTED"),
    (errors.ConflictError("others won"), 4, "ABORTED"),
    (errors.PreconditionError("tenants/org_1", "no", reason="TENANT_SUSPENDED"), 4, "FAILED_PRECONDITION"),
    (errors.QuotaExceededError("tenants/org_1", "full", retry_after=timedelta(seconds=3)), 5, "RESOURCE_EXHAUSTED"),
    (errors.UnavailableError("away"), 6, "UNAVAILABLE"),
    (TimeoutError(), 6, "DEADLINE_EXCEEDED"),
    (KeyError("secret detail"), 1, "INTERNAL"),
]


def test_every_domain_error_is_told_of_here() -> None:
    assert {type(error) for error, _, _ in FAILURES} >= set(errors.DomainError.__subclasses__())


@pytest.mark.parametrize(("error", "code", "status"), FAILURES, ids=[type(error).__name__ for error, _, _ in FAILURES])
def test_an_error_has_its_exit_code_and_names_itself_its_request_and_the_next_step(
    api: Any, cli: Any, error: Exception, code: int, status: str
) -> None:
    api.answer("GetTenant", error)
    told, as_json = cli("tenants", "get", "org_1"), cli("tenants", "get", "org_1", "--json")

    assert (told.code, as_json.code) == (code, code)
    assert (told.out, as_json.out) == ("", "")
    assert told.err.startswith(f"error: {status}")
    assert "request id: 0192f0c1d2e3" in told.err
    assert "\nnext: " in told.err
    assert (as_json.error["code"], as_json.error["exit_code"]) == (status, code)
    assert as_json.error["request_id"] == "0192f0c1d2e3"
    assert len(as_json.error["next"]) > 15
    assert "secret detail" not in told.err + as_json.err


def test_every_violated_field_is_named_with_what_is_wrong_with_it(api: Any, cli: Any) -> None:
    api.answer(
        "CreateTenant",
        errors.InvalidArgumentError(
            errors.FieldViolation(field="tenant_id", description="is reserved", reason="TENANT_ID"),
            errors.FieldViolation(field="tenant.tier", description="must be one of ours"),
        ),
    )
    told, as_json = cli("tenants", "create", "admin"), cli("tenants", "create", "admin", "--json")

    assert "\n  tenant_id: is reserved\n  tenant.tier: must be one of ours\n" in told.err
    assert as_json.error["violations"] == [
        {"field": "tenant_id", "description": "is reserved", "reason": "TENANT_ID"},
        {"field": "tenant.tier", "description": "must be one of ours", "reason": "INVALID"},
    ]


def test_an_error_says_how_long_to_wait(api: Any, cli: Any) -> None:
    api.answer("GetTenant", errors.UnavailableError("away", retry_after=timedelta(seconds=2)))

    assert "(after 2s)" in cli("tenants", "get", "org_1").err


def test_a_remedy_names_the_state_directory_that_the_caller_named(api: Any, cli: Any) -> None:
    api.answer("GetTenant", errors.UnavailableError("away"))

    assert f"`bulkhead --dir {cli.state_dir} up`" in cli("tenants", "get", "org_1").err


def test_a_server_cannot_write_on_the_terminal(api: Any, cli: Any) -> None:
    api.answer("GetTenant", errors.AlreadyExistsError("tenants/org_1", "\x1b[2Jall is well\n"))
    told = cli("tenants", "get", "org_1")

    assert "\\x1b[2Jall is well\\n" in told.err
    assert told.err.replace("\n", "").isprintable()


def test_without_a_server_the_call_is_unavailable(cli: Any) -> None:
    cli.find_at("127.0.0.1:1")
    told = cli("tenants", "get", "org_1")

    assert told.code == 6
    assert "status` shows what is away" in told.err


def test_a_server_that_the_authority_does_not_vouch_for_is_not_called(
    api: Any, cli: Any, server_identity: tuple[bytes, bytes], *, tmp_path: Path
) -> None:
    api.answer("GetTenant", TENANT)
    other = Path(grpc.__file__).parent / "_cython" / "_credentials" / "roots.pem"
    (cli.state_dir / "ca.pem").write_bytes(other.read_bytes())

    assert cli("tenants", "get", "org_1").code == 6
    assert api.received == []


def test_without_a_stack_the_next_step_is_to_start_one(cli: Any) -> None:
    (cli.state_dir / "endpoints.json").unlink()
    told = cli("tenants", "get", "org_1")

    assert told.code == 6
    assert f"next: `bulkhead --dir {cli.state_dir} up`" in told.err


@pytest.mark.parametrize("content", ["", "[]", '{"admin_grpc": 1}', '"x"'])
def test_a_damaged_endpoints_file_is_named(cli: Any, content: str) -> None:
    (cli.state_dir / "endpoints.json").write_text(content)
    told = cli("tenants", "get", "org_1")

    assert told.code == 6
    assert "endpoints.json cannot be used" in told.err


def test_a_missing_authority_is_named(cli: Any) -> None:
    (cli.state_dir / "ca.pem").unlink()
    told = cli("tenants", "get", "org_1")

    assert told.code == 6
    assert "ca.pem cannot be read" in told.err


def test_a_method_that_the_server_does_not_know_is_a_fault_of_ours(cli: Any) -> None:
    told = cli("tenants", "get", "org_1")

    assert told.code == 1
    assert told.err.startswith("error: UNIMPLEMENTED")


async def test_a_busy_server_is_given_its_time_to_shake_hands(api: Any, cli: Any) -> None:
    """What gRPC calls the least pause between attempts is also the most time that one of them has."""
    api.answer("GetTenant", TENANT)
    async with Relay(begins_after_s=1.5).opened(f"http://{cli.endpoints['admin_grpc']}") as relay:
        cli.find_at(relay.address.removeprefix("http://"))
        told = await asyncio.to_thread(cli, "tenants", "get", "org_1")

    assert told.code == 0, told.err
