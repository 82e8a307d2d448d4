"""What must not go on after the call that asked for it is over when that is, cancelled or not."""

import asyncio
import threading

import pytest

from control_plane.threads import run_to_end, wait_to_end


async def test_the_result_or_the_error_of_the_work_is_the_calls() -> None:
    def fail() -> None:
        raise KeyError("work")

    assert await run_to_end(lambda: 7) == 7
    with pytest.raises(KeyError):
        await run_to_end(fail)


async def test_the_work_is_not_the_loops() -> None:
    assert await run_to_end(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_is_let_go_once_the_work_is_over(*, fails: bool) -> None:
    begun, may_end, done = threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        begun.set()
        may_end.wait(10)
        done.append("work")
        if fails:
            raise KeyError("nobody waits for this")

    call = asyncio.create_task(run_to_end(work))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        call.cancel()
        await asyncio.sleep(0.01)
    assert not call.done()
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert done == ["work"]


async def test_what_is_waited_for_to_its_end_is_not_cancelled_with_its_caller() -> None:
    may_end, done = asyncio.Event(), list[str]()

    async def work() -> int:
        await may_end.wait()
        done.append("work")
        return 7

    call = asyncio.create_task(wait_to_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        call.cancel()
    await asyncio.sleep(0)
    assert not call.done()
    may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert done == ["work"]
    assert await wait_to_end(work()) == 7
