"""`bulkhead top` shows what the edges decide at present."""

import time
from typing import Any

import pytest

from bulkhead.v1 import edges_pb2
from control_plane.cli import output

ANSWER = edges_pb2.ListTenantTrafficResponse(
    tenants=[
        edges_pb2.TenantTraffic(tenant="tenants/acme", admitted_per_second=120.4, leased_per_second=108.36),
        edges_pb2.TenantTraffic(tenant="tenants/globex", limited_per_second=3.2, denied_per_second=0.2),
    ],
    total=edges_pb2.TenantTraffic(
        admitted_per_second=120.4, limited_per_second=3.2, denied_per_second=0.2, leased_per_second=108.36
    ),
    live_tenants=2,
)
ANSWER.window.FromSeconds(5)


def test_tenants_are_shown_with_their_rates_and_the_share_that_was_leased(api: Any, cli: Any) -> None:
    api.answer("ListTenantTraffic", ANSWER)
    done = cli("top", "--once", "--tenants", "2")

    assert [line.split() for line in done.out.splitlines()] == [
        ["TENANT", "ADMITTED", "LIMITED", "DENIED", "LEASED"],
        ["acme", "120.4", "0.0", "0.0", "90%"],
        ["globex", "0.0", "3.2", "0.2", "-"],
        ["(all)", "120.4", "3.2", "0.2", "90%"],
    ]
    assert done.err == "requests a second, over the last 5s; 2 tenants have any\n"
    assert api.received[0].request.page_size == 2


def test_a_program_gets_the_whole_answer_once(api: Any, cli: Any) -> None:
    api.answer("ListTenantTraffic", ANSWER)
    done = cli("top", "--json")

    assert (done.code, done.err) == (0, "")
    assert done.json["tenants"][0]["leased_per_second"] == 108.36
    assert len(api.received) == 1


def test_a_terminal_is_repainted_until_it_is_interrupted(api: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answer("ListTenantTraffic", ANSWER)
    pauses: list[float] = []

    def interrupted(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(output, "repaints", lambda: True)
    monkeypatch.setattr(time, "sleep", interrupted)
    done = cli("top")

    assert (done.code, len(api.received), pauses) == (0, 3, [1.0] * 3)
    assert done.out.count("\x1b[H\x1b[2J") == 3


@pytest.mark.parametrize("tenants", ["0", "1001"])
def test_no_more_tenants_are_asked_for_than_are_told(api: Any, cli: Any, tenants: str) -> None:
    assert cli("top", "--tenants", tenants).code == 2
    assert not api.received
