"""What the demo makes of the edge's answers."""

from pathlib import Path

import pytest

from control_plane.cli.calls.edge import Answer
from control_plane.cli.calls.endpoints import Endpoints
from control_plane.cli.calls.failures import CallFailedError
from control_plane.cli.edge.demo_tenants import DemoTenant
from control_plane.cli.edge.scenes import denied_alike, rate_parameters


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    return Answer(
        method="GET",
        path="/",
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=body,
        seconds=0.001,
    )


def test_the_printed_command_survives_a_shell_whatever_the_directory_is_called() -> None:
    endpoints = Endpoints(
        admin_grpc="", certificates_grpc="", ca_file=Path(), admin_token_file=Path(), edge_http="127.0.0.1:7448"
    )
    tenant = DemoTenant(tenant_id="acme", token_file=Path("/srv/it's here/acme.token"), endpoints=endpoints)

    assert tenant.curl == (
        """curl -H "authorization: Bearer $(cat '/srv/it'"'"'s here/acme.token')" """
        "http://127.0.0.1:7448/api/v1/tenants/acme/certificates"
    )


def test_the_numbers_of_a_rate_are_read() -> None:
    said = answer(ratelimit_policy='"minute";q=600;w=60', ratelimit='"minute";r=597;t=18')

    assert rate_parameters(said, "ratelimit-policy") == {"q": 600, "w": 60}
    assert rate_parameters(said, "ratelimit") == {"r": 597, "t": 18}


@pytest.mark.parametrize("value", ["", '"minute"', '"minute";q=many'])
def test_an_answer_that_says_nothing_of_a_rate_ends_the_demo(value: str) -> None:
    with pytest.raises(CallFailedError, match="says nothing of its limit"):
        rate_parameters(answer(ratelimit=value), "ratelimit")


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (answer(403, b'{"code":"ACCESS_DENIED","instance":"2"}', date="tomorrow", x_request_id="2"), True),
        (answer(404, b'{"code":"ACCESS_DENIED","instance":"2"}', date="today"), False),
        (answer(403, b'{"code":"NOT_FOUND","instance":"2"}', date="today"), False),
        (answer(403, b'{"code":"ACCESS_DENIED","instance":"2"}', x_bulkhead_reason="TENANT_MISMATCH"), False),
        (answer(403, b'{"code":"ACCESS_DENIED"} and more', date="today"), False),
    ],
)
def test_two_denials_are_alike_but_for_their_request(other: Answer, *, alike: bool) -> None:
    one = answer(403, b'{"code":"ACCESS_DENIED","instance":"1"}', date="today", x_request_id="1")

    assert denied_alike(one, other) is alike
