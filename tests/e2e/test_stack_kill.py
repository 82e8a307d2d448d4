"""`kill -9` of any process of the stack, and of all: it comes back by itself, or with the next `up`."""

import json
import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from control_plane.stack.components import State
from tests.fixtures.stack import Stack, empty_stack_dir


@pytest.fixture(scope="module")
def killed() -> Iterator[Stack]:
    """A stack that is there to be killed; each test leaves it ready."""
    with empty_stack_dir() as directory:
        stack = Stack(directory)
        up = stack.bulkhead("up", "--detach")
        assert up.returncode == 0, up.stderr
        created = stack.bulkhead("tenants", "create", "org_1", "--json")
        assert created.returncode == 0, created.stderr
        issue = ("tokens", "issue", "org_1", "--subject", "alice", "--scope", "certificates.read", "--ttl", "1h")
        issued = stack.bulkhead(*issue, "--out", str(stack.dir / "alice.token"))
        assert issued.returncode == 0, issued.stderr
        yield stack
        stack.bulkhead("down")


def tenants(stack: Stack) -> list[str]:
    listed = stack.bulkhead("tenants", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    return [tenant["name"] for tenant in json.loads(listed.stdout)["tenants"]]


def reads_through_the_edge(stack: Stack) -> bool:
    token = (stack.dir / "alice.token").read_text().strip()
    url = f"http://{stack.endpoints['edge_http']}/api/v1/tenants/org_1/certificates"
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("name", ["postgres", "valkey", "control-plane", "certificates", "agent", "envoy"])
def test_a_process_that_is_killed_is_started_again(name: str, killed: Stack) -> None:
    before = killed.pids()
    os.kill(before[name], signal.SIGKILL)
    killed.wait_until(lambda: killed.pids().get(name, before[name]) != before[name])
    killed.wait_ready()
    after = killed.pids()

    assert {part for part in before if before[part] != after[part]} == {name}
    assert tenants(killed) == ["tenants/org_1"]
    killed.wait_until(lambda: reads_through_the_edge(killed))


def test_a_second_up_says_that_a_lost_process_is_just_started_again(killed: Stack) -> None:
    # Without its interpreter's answer the control plane is away for as long as it takes to start.
    os.kill(killed.pids()["control-plane"], signal.SIGKILL)
    refused = killed.bulkhead("up", "--detach")
    killed.wait_ready()

    assert refused.returncode == 4
    assert "starting control-plane again" in refused.stderr


def test_nothing_outlives_a_supervisor_that_is_killed(killed: Stack) -> None:
    os.kill(killed.pids()["supervisor"], signal.SIGKILL)
    killed.wait_until(lambda: killed.census() == [], within_s=10)
    state = killed.status().state
    up = killed.bulkhead("up", "--detach")

    assert state is State.STOPPED
    assert up.returncode == 0, up.stderr
    assert tenants(killed) == ["tenants/org_1"]


def test_up_right_after_everything_was_killed_brings_everything_back(killed: Stack) -> None:
    for pid in killed.pids().values():
        os.kill(pid, signal.SIGKILL)
    up = killed.bulkhead("up", "--detach")

    assert up.returncode == 0, up.stderr
    assert tenants(killed) == ["tenants/org_1"]
    killed.wait_until(lambda: reads_through_the_edge(killed))


def test_the_edge_serves_on_while_the_control_plane_is_away(killed: Stack) -> None:
    before = {name: pid for name, pid in killed.pids().items() if name in {"agent", "envoy"}}
    os.kill(killed.pids()["control-plane"], signal.SIGKILL)
    killed.wait_until(lambda: killed.status().state is State.RECOVERING)
    served = reads_through_the_edge(killed)
    killed.wait_ready()

    assert served
    assert before.items() <= killed.pids().items()


def test_what_dies_again_and_again_stops_the_stack_with_a_reason() -> None:
    with empty_stack_dir() as directory:
        stack = Stack(directory)
        up = stack.spawn("up")
        stack.wait_ready(up)
        killed: set[int] = set()
        while up.poll() is None:
            pid = stack.pids().get("valkey")
            if pid and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        _, talk = up.communicate()

        assert up.returncode == 6
        assert len(killed) == 6
        assert "Valkey died 6 times within a minute" in talk
        assert stack.census() == []
