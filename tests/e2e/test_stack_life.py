"""The stack as people run it: up, twice, status, down, and what is left of it."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.stack.components import State
from control_plane.stack.processes.locks import is_held
from tests.fixtures.stack import Stack, empty_stack_dir

COMPONENTS = ["postgres", "valkey", "control-plane", "certificates", "agent", "envoy"]


@pytest.fixture
def fresh() -> Iterator[Stack]:
    """A state directory where nothing was started yet. Whatever runs there in the end is stopped."""
    with empty_stack_dir() as directory:
        stack = Stack(directory)
        yield stack
        if is_held(directory / "lock"):
            stack.bulkhead("down")


def test_up_and_down_in_the_background(fresh: Stack) -> None:
    up = fresh.bulkhead("up", "--detach", "--json")
    status = json.loads(fresh.bulkhead("status", "--json").stdout)
    endpoints = fresh.endpoints
    down = fresh.bulkhead("down")
    again = fresh.bulkhead("down")

    assert up.returncode == 0, up.stderr
    assert json.loads(up.stdout) == endpoints == status["endpoints"]
    assert status["state"] == "ready"
    assert [part["name"] for part in status["components"]] == COMPONENTS
    assert "the control plane answers on " in up.stderr
    assert down.returncode == 0, down.stderr
    assert (again.returncode, again.stderr) == (0, f"no stack runs in {fresh.dir}\n")
    assert fresh.census() == []
    assert not (fresh.dir / "endpoints.json").exists()


def test_up_with_a_demo_prints_how_each_of_its_tenants_calls_the_edge(fresh: Stack) -> None:
    for _ in range(2):
        up = fresh.bulkhead("up", "--detach", "--demo", "--proxy-workers", "1", "--check-workers", "1", "--json")
        told = json.loads(up.stdout)
        curls = told.pop("demo")
        fresh.bulkhead("down")

        assert up.returncode == 0, up.stderr
        assert set(told) >= {"edge_http", "edge_https", "edge_authority", "edge_ca_file", "envoy_admin"}
        assert list(curls) == ["acme", "globex"]
        assert all(told["edge_http"] in curl and str(fresh.dir / "demo") in curl for curl in curls.values())


def test_a_demo_tenant_that_is_suspended_is_named_and_the_stack_is_up_all_the_same(fresh: Stack) -> None:
    fresh.bulkhead("up", "--detach", "--demo")
    fresh.bulkhead("tenants", "suspend", "acme")
    fresh.bulkhead("down")
    up = fresh.bulkhead("up", "--detach", "--demo")

    assert up.returncode == 0
    assert "tenants/acme is SUSPENDED" in up.stderr
    assert "tenants reactivate acme" in up.stderr
    assert fresh.status().state is State.READY


def test_nothing_runs_before_the_first_up(fresh: Stack) -> None:
    status = fresh.bulkhead("status", "--json")
    down = fresh.bulkhead("down", "--json")

    assert status.returncode == 6
    assert json.loads(status.stdout)["state"] == "stopped"
    assert (down.returncode, json.loads(down.stdout)) == (0, {"was_running": False})
    assert not fresh.dir.exists()


def test_ctrl_c_ends_a_stack_in_order_and_it_is_where_it_was_next_time(fresh: Stack) -> None:
    up = fresh.spawn("up", "--json")
    fresh.wait_ready(up)
    first = fresh.endpoints
    up.send_signal(signal.SIGINT)
    output, talk = up.communicate(timeout=60)
    left = fresh.census()
    again = fresh.bulkhead("up", "--detach")

    assert up.returncode == 0, talk
    assert json.loads(output) == first
    assert [line.partition(" stopped")[0] for line in talk.splitlines() if " stopped" in line] == [
        "Envoy",
        "the agent",
        "the control plane and the certificate service",
        "Valkey",
        "PostgreSQL",
    ]
    assert left == []
    assert again.returncode == 0, again.stderr
    assert fresh.endpoints == first


def test_ctrl_c_before_it_is_ready_leaves_nothing(fresh: Stack) -> None:
    up = fresh.spawn("up")
    assert up.stderr is not None
    up.stderr.readline()
    up.send_signal(signal.SIGINT)
    _, talk = up.communicate(timeout=60)

    assert up.returncode == 0, talk
    assert fresh.census() == []
    assert fresh.status().state is State.STOPPED


def test_a_port_that_is_taken_is_left_to_whoever_has_it(fresh: Stack) -> None:
    fresh.bulkhead("up", "--detach")
    first = fresh.endpoints
    fresh.bulkhead("down")
    host, _, port = first["admin_grpc"].rpartition(":")
    with socket.create_server((host, int(port))):
        up = fresh.bulkhead("up", "--detach")
        second = fresh.endpoints

    assert up.returncode == 0, up.stderr
    assert second["admin_grpc"] != first["admin_grpc"]
    assert second["certificates_grpc"] == first["certificates_grpc"]


def test_a_second_up_says_who_runs_already(stack: Stack) -> None:
    before = stack.pids()
    attached = stack.bulkhead("up", "--json")
    detached = stack.bulkhead("up", "--detach")

    assert (attached.returncode, detached.returncode) == (4, 4)
    error = json.loads(attached.stderr)["error"]
    assert error["reason"] == "ALREADY_RUNNING"
    for said in (error["message"], detached.stderr):
        assert f"supervisor {before['supervisor']}" in said
        assert stack.endpoints["admin_grpc"] in said
    assert "down`" in error["next"]
    assert stack.pids() == before


def test_what_is_in_the_state_directory_is_for_its_owner_alone(stack: Stack) -> None:
    open_to_others = [
        str(path)
        for path in [stack.dir, *stack.dir.iterdir(), *(stack.dir / "ca").iterdir(), *(stack.dir / "secrets").iterdir()]
        if path.stat().st_mode & 0o077
    ]

    assert open_to_others == []
    paths = [value for name, value in stack.endpoints.items() if name.endswith(("_file", "_dir"))]
    assert len(paths) == 4
    assert all(Path(path).is_absolute() for path in paths)


def test_no_process_listens_beyond_loopback(stack: Stack) -> None:
    # Each of Envoy's threads has sockets of its own, on the same ports.
    listening = {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in stack.census()
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    }

    assert len(listening) == 7
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_it_runs_in_the_private_home_of_whoever_starts_it_from_a_deep_directory() -> None:
    """Sockets have to be elsewhere then, and every program has to get through."""
    with empty_stack_dir() as directory:
        home = directory.parent
        deep = Stack(home / ("deep" * 20) / "state")
        try:
            up = deep.bulkhead("up", "--detach")
            sockets = (deep.dir / "run").readlink()
            down = deep.bulkhead("down")
        finally:
            deep.bulkhead("down")

        assert up.returncode == 0, up.stderr
        assert down.returncode == 0, down.stderr
        assert not sockets.exists()
        assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("command", [("up",), ("up", "--detach"), ("status",), ("down",)])
def test_a_directory_of_other_things_is_not_touched(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused = Stack(tmp_path).bulkhead(*command, "--json")

    assert refused.returncode == 4
    assert json.loads(refused.stderr)["error"]["reason"] == "STATE_DIRECTORY"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_service_that_cannot_start_stops_everything_and_shows_its_log(fresh: Stack) -> None:
    fresh.bulkhead("up", "--detach")
    fresh.bulkhead("down")
    key = fresh.dir / "secrets" / "platform-tokens.key"
    key.write_bytes(b"damaged")
    up = fresh.bulkhead("up", "--detach")

    assert up.returncode == 6
    assert "did not start" in up.stderr
    assert "the end of " in up.stderr
    assert fresh.census() == []


def test_two_starts_at_once_give_one_stack(fresh: Stack) -> None:
    both = [fresh.spawn("up", "--detach") for _ in range(2)]
    for up in both:
        up.communicate(timeout=60)

    assert sorted(up.returncode for up in both) == [0, 4]
    assert fresh.status().state is State.READY
