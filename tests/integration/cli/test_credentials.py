"""As whom a command calls."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bulkhead.v1 import tenants_pb2, tokens_pb2

TENANT = tenants_pb2.Tenant(name="tenants/org_1")


def authorizations(api: Any) -> list[str | None]:
    return [call.headers.get("authorization") for call in api.received]


def test_a_command_calls_as_the_administrator_of_the_state_directory(api: Any, cli: Any) -> None:
    api.answer("GetTenant", TENANT)
    cli("tenants", "get", "org_1")

    assert authorizations(api) == ["Bearer the-admin"]


def test_the_administrators_token_is_read_at_each_call(api: Any, cli: Any) -> None:
    def rotate(request: Any) -> tenants_pb2.ListTenantsResponse:
        (cli.state_dir / "admin.token").write_text(f"next-{len(api.received)}")
        return tenants_pb2.ListTenantsResponse(next_page_token="more" if len(api.received) < 3 else "")

    api.answer("ListTenants", rotate)
    cli("tenants", "list", "--all")

    assert authorizations(api) == ["Bearer the-admin", "Bearer next-1", "Bearer next-2"]


def test_a_token_file_is_used_instead(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("GetTenant", TENANT)
    (tmp_path / "alice").write_text("alices\n")
    (tmp_path / "bob").write_text("bobs\n")
    cli.environment.setenv("BULKHEAD_TOKEN_FILE", str(tmp_path / "bob"))
    cli("tenants", "get", "org_1")
    cli("tenants", "get", "org_1", "--token-file", str(tmp_path / "alice"))

    assert authorizations(api) == ["Bearer bobs", "Bearer alices"]


@pytest.mark.parametrize("content", [b"", b"two tokens", b"line\nline", b"\xff\xfe", "tökén".encode()])
def test_a_file_that_holds_no_token_is_denied_before_the_call(api: Any, cli: Any, content: bytes) -> None:
    (cli.state_dir / "admin.token").write_bytes(content)
    told = cli("tenants", "get", "org_1")

    assert told.code == 3
    assert "admin.token" in told.err
    assert "two tokens" not in told.err
    assert api.received == []


def test_a_missing_token_is_denied_before_the_call(api: Any, cli: Any) -> None:
    (cli.state_dir / "admin.token").unlink()
    told = cli("tenants", "get", "org_1")

    assert told.code == 3
    assert "cannot be read: No such file" in told.err
    assert api.received == []


def test_a_token_file_that_does_not_exist_is_a_usage_error(cli: Any) -> None:
    assert cli("tenants", "get", "org_1", "--token-file", "nowhere").code == 2


def test_a_proxy_for_the_web_is_not_used(api: Any, cli: Any) -> None:
    api.answer("GetTenant", TENANT)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        cli.environment.setenv(name, "http://127.0.0.1:1")

    assert cli("tenants", "get", "org_1").code == 0


def test_an_enrolment_token_is_redeemed_without_any_credential(api: Any, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "enrol").write_text("one-time\n")
    known = tokens_pb2.Token(name="tenants/org_1/tokens/1", subject="admin", expire_time=Timestamp(seconds=1))
    api.answer("RedeemEnrolmentToken", tokens_pb2.IssueTokenResponse(token="s3cret", metadata=known))
    done = cli("tokens", "redeem", "org_1", "--file", str(tmp_path / "enrol"))

    assert (done.code, done.out) == (0, "s3cret\n")
    assert authorizations(api) == [None]
    assert api.received[0].request.enrolment_token == "one-time"
