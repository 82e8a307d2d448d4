"""Where KEKs were found, and the gate before the library."""

import threading
from uuid import UUID

from control_plane.keys.model import KekRef
from control_plane.keys.pkcs11.cryptoki import Handle
from control_plane.keys.pkcs11.gate import Gate
from control_plane.keys.pkcs11.keks import Handles


def _kek(number: int) -> KekRef:
    return KekRef(tenant_uid=UUID(int=number), version=1)


def test_handles_are_those_of_the_library_as_it_was_opened_last() -> None:
    handles = Handles()
    handles.put(_kek(1), [Handle(7)], epoch=1)

    assert handles.get(_kek(1), epoch=1) == [7]
    assert handles.get(_kek(1), epoch=2) == ()
    assert handles.get(_kek(2), epoch=1) == ()


def test_handles_are_bounded_and_the_least_used_give_way() -> None:
    handles = Handles(capacity=3)
    for number in range(3):
        handles.put(_kek(number), [Handle(number)], epoch=0)
    handles.get(_kek(0), epoch=0)
    handles.put(_kek(3), [Handle(3)], epoch=0)

    assert [number for number in range(4) if handles.get(_kek(number), epoch=0)] == [0, 2, 3]
    assert len(handles) == 3


def test_a_kek_that_is_not_found_is_forgotten() -> None:
    handles = Handles()
    handles.put(_kek(1), [Handle(7)], epoch=0)
    handles.put(_kek(1), [], epoch=0)

    assert len(handles) == 0


def test_whoever_is_alone_behind_the_gate_has_waited_for_all_and_lets_nobody_in() -> None:
    gate, inside, alone, leave = Gate(), threading.Event(), threading.Event(), threading.Event()
    seen: list[str] = []

    def among_others() -> None:
        with gate.among_others():
            inside.set()
            leave.wait()
            seen.append("left")

    def late() -> None:
        with gate.among_others():
            seen.append("late")

    def be_alone() -> None:
        with gate.alone():
            seen.append("alone")
            alone.set()
            threads[2].start()
            threads[2].join(0.05)
            seen.append("not alone any more")

    threads = [threading.Thread(target=work) for work in (among_others, be_alone, late)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    assert not alone.wait(0.05)
    leave.set()
    for thread in threads[:2]:
        thread.join()
    threads[2].join()

    assert seen == ["left", "alone", "not alone any more", "late"]


def test_many_are_behind_the_gate_at_once() -> None:
    gate, both = Gate(), threading.Barrier(2)

    def among_others() -> None:
        with gate.among_others():
            both.wait(10)

    threads = [threading.Thread(target=among_others) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not both.broken
