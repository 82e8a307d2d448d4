"""An emergency: every tenant is given a new KEK, once, however often the command that does it is ended."""

import json
import signal
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import pytest

from tests.fixtures.stack import Stack, running_stack

# More than a command begins at once.
TENANTS: Final = [f"kek_{number}" for number in range(10)]


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """Give every tenant of it a new KEK, which no other test's would like."""
    with running_stack() as stack:
        yield stack


def _json(stack: Stack, *arguments: str) -> Any:
    done = stack.bulkhead(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _states(stack: Stack, tenant: str) -> list[tuple[str, bool]]:
    versions = _json(stack, "keys", "versions", f"tenants/{tenant}/keys/kek")["key_versions"]
    return [(version["state"], version["primary"]) for version in versions]


def _interrupted(stack: Stack, campaign: str, number: signal.Signals, *, after: str) -> int:
    """End the command when it has said something; return how it ended."""
    command = stack.spawn("keys", "rotate-keks", "--campaign", campaign)
    assert command.stderr is not None
    while after not in command.stderr.readline():
        pass
    command.send_signal(number)
    command.communicate()
    return command.returncode


@pytest.mark.behaviour("S2.6")
@pytest.mark.timeout(240)
def test_a_campaign_that_is_killed_or_interrupted_goes_on_and_rotates_nobody_twice(own_stack: Stack) -> None:
    for tenant in TENANTS:
        _json(own_stack, "tenants", "create", tenant)
    ends = []
    for round_, (number, after) in enumerate(
        [(signal.SIGKILL, "campaign"), (signal.SIGINT, "campaign"), (signal.SIGKILL, "8 rotated")], start=1
    ):
        campaign = str(uuid4())
        ends.append(_interrupted(own_stack, campaign, number, after=after))
        whole = _json(own_stack, "keys", "rotate-keks", "--campaign", campaign)
        again = _json(own_stack, "keys", "rotate-keks", "--campaign", campaign)

        # It may have been done before it was ended, where this process was slow to see what it said.
        assert ends[-1] in {0, 130 if number is signal.SIGINT else -signal.SIGKILL}, after
        assert whole == again == {"campaign": campaign, "rotated": len(TENANTS), "failed": []}
        for tenant in TENANTS:
            assert _states(own_stack, tenant) == [("ENABLED", True), *[("DESTROYED", False)] * round_]
    assert set(ends) != {0}
