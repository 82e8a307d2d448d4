"""What never reaches a log."""

import pytest

from control_plane.telemetry import black_out_secrets

_JWT = "eyJhbGciOiJFZERTQSJ9.eyJ0aWQiOiJvcmdfMSJ9.c2lnbmF0dXJl"
_PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----"
_HYBRID = "-----BEGIN MLKEM768-X25519 PRIVATE KEY-----\nAAECAw==\n-----END MLKEM768-X25519 PRIVATE KEY-----"


@pytest.mark.behaviour("T-H1")
@pytest.mark.parametrize("name", ["token", "admin_token", "client_secret", "Authorization", "private_pem", "api_key"])
def test_a_value_with_a_secrets_name_is_blacked_out(name: str) -> None:
    assert black_out_secrets(None, "info", {name: "anything"}) == {name: "[secret]"}


@pytest.mark.behaviour("T-H1")
@pytest.mark.parametrize("secret", [_JWT, "bulkhead_enrol_YWJjZGVm", _PEM, _HYBRID])
def test_a_value_that_looks_like_a_secret_is_blacked_out(secret: str) -> None:
    logged = black_out_secrets(None, "info", {"error": f"refused {secret} just now"})

    assert logged == {"error": "refused [secret] just now"}


def test_all_else_stays_readable() -> None:
    event = {"event": "step_done", "operation": "operations/01", "attempt": 1}

    assert black_out_secrets(None, "info", dict(event)) == event
