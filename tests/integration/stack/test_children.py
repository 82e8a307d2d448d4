"""Processes that live no longer than we do."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from control_plane.stack.components import Component, State
from control_plane.stack.failures import StackError
from control_plane.stack.processes.children import Child, Program


def program(tmp_path: Path, script: str, **options: object) -> Program:
    options = {"patience_s": 0.3} | options
    return Program(arguments=("sh", "-c", script), log=tmp_path / "log", **options)  # type: ignore[arg-type]  # by name


async def test_a_child_has_the_pid_that_was_started(tmp_path: Path) -> None:
    child = Child.start(program(tmp_path, "echo $$"))
    await child.ended()

    assert (tmp_path / "log").read_text() == f"{child.pid}\n"


async def test_an_end_is_told_as_often_as_it_is_asked_for(tmp_path: Path) -> None:
    child = Child.start(program(tmp_path, "exit 3"))
    first, second = await asyncio.gather(child.ended(), child.ended())

    assert (first, second, await child.ended()) == (3, 3, 3)


async def test_stopping_asks_first_and_uses_force_when_patience_is_over(tmp_path: Path) -> None:
    waits = "echo ready; while sleep 0.02; do :; done"
    obedient = Child.start(program(tmp_path, f"trap 'exit 0' TERM; {waits}"))
    stubborn = Child.start(program(tmp_path, f"trap '' TERM; {waits}"))

    async def both_are_ready() -> bool:
        return (tmp_path / "log").read_text().count("ready") == 2

    assert await stubborn.answers(both_are_ready, within_s=5, every_s=0.01)
    await obedient.stop()
    await stubborn.stop()

    assert await obedient.ended() == 0
    assert await stubborn.ended() == -signal.SIGKILL


async def test_a_family_is_gone_when_the_last_descendant_is(tmp_path: Path) -> None:
    child = Child.start(program(tmp_path, "sleep 0.4 & exit 0"))
    await child.ended()
    at_once = await child.family_gone(within_s=0.05)
    in_the_end = await child.family_gone(within_s=5)

    assert (at_once, in_the_end) == (False, True)


async def test_a_child_that_never_answers_is_stopped(tmp_path: Path) -> None:
    child = Child.start(program(tmp_path, "exec sleep 20"))

    async def silence() -> bool:
        return False

    assert not await child.answers(silence, within_s=0.1, every_s=0.01)
    assert not child.is_running


async def test_a_child_leads_a_session_of_its_own_so_that_ctrl_c_reaches_us_alone(tmp_path: Path) -> None:
    child = Child.start(program(tmp_path, "exec sleep 20"))
    session = os.getsid(child.pid)
    await child.stop()

    assert session == child.pid


async def test_our_shell_misleads_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("LANG", "tlh")
    child = Child.start(program(tmp_path, "env"))
    await child.ended()

    assert "elsewhere" not in (tmp_path / "log").read_text()
    assert "tlh" not in (tmp_path / "log").read_text()


async def test_what_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    async def launch() -> Child:
        return Child.start(program(tmp_path, "exit 1"))

    part = Component(name="part", title="Part", log=tmp_path / "log", launch=launch, changed=lambda: None)
    await part.start()

    async def live() -> None:
        while True:
            await part.lost()
            await part.revive()

    with pytest.raises(StackError, match="Part died 6 times within a minute"):
        await live()

    assert part.restarts == 5
    assert part.state is State.RECOVERING
