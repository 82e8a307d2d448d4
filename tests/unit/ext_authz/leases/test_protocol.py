"""At no interleaving is more admitted than the limit, nor anything after it was revoked; and each rule is needed."""

from collections import deque

import pytest

from tests.unit.ext_authz.leases.protocol import (
    LIMIT,
    LONGEST,
    WINDOW,
    Rules,
    State,
    Step,
    Worker,
    begin,
    is_applied,
    steps,
    without,
)


def broken(before: State, step: Step) -> str:
    """Say which promise a step breaks; empty where it keeps all."""
    if step.after.admitted > LIMIT:
        return "more than the limit"
    if step.leased_by is None:
        return ""
    if is_applied(before):
        return "after the suspension was applied"
    if before.revoked >= LONGEST:
        return "after the token was revoked, and longer than a lease lasts"
    return ""


def explored(rules: Rules, *, agents: int, workers: int, revoking: bool) -> tuple[int, set[str]]:
    """Go through every state that can be reached; say how many there are, and which promises are broken."""
    first = _same(begin(agents, workers), rules)
    known, waiting, found = {first}, deque([first]), set[str]()
    while waiting:
        state = waiting.popleft()
        for step in steps(state, rules, revoking=revoking):
            if problem := broken(state, step):
                found.add(problem)
                continue
            after = _same(step.after, rules)
            if after not in known:
                known.add(after)
                waiting.append(after)
    return len(known), found


def _same(state: State, rules: Rules) -> State:
    """Return what stands for all states that differ in nothing that matters.

    Agents, and workers, are alike; what is worth nothing any more is as good as gone.
    """
    window = state.now // WINDOW
    agents = [
        agent._replace(held=0, window=0) if rules.ends_with_window and agent.window != window else agent
        for agent in state.agents
    ]
    workers = [_rest(worker, state.now, rules) for worker in state.workers]
    return state._replace(agents=tuple(sorted(agents)), workers=tuple(sorted(workers, key=_order)))


def _rest(worker: Worker, now: int, rules: Rules) -> Worker:
    """Return it without what can be neither spent nor given back any more."""
    lease, told, window = worker.lease, worker.told, now // WINDOW
    if lease is not None and lease.ends <= now and lease.window != window:
        worker = worker._replace(lease=None)
    if told is not None and (told.window != window or (worker.is_returned and rules.returned_once)):
        worker = worker._replace(told=None, is_returned=False)
    return worker


def _order(worker: Worker) -> tuple[object, ...]:
    told = (worker.lease or (), worker.answer or (), worker.told or ())
    return worker.epoch, worker.asked, worker.is_returned, *told


@pytest.mark.behaviour("S3.4", "I6")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("revoking", [False, True])
@pytest.mark.parametrize(("agents", "workers"), [(1, 1), (1, 2), (2, 2), (3, 2)])
def test_no_interleaving_admits_more_than_the_limit_nor_anything_that_was_revoked(
    agents: int, workers: int, *, revoking: bool
) -> None:
    states, found = explored(Rules(), agents=agents, workers=workers, revoking=revoking)

    assert found == set()
    assert states > 100


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("prepaid", "more than the limit"),
        ("ends_with_window", "more than the limit"),
        ("reported_once", "more than the limit"),
        ("returned_once", "more than the limit"),
        ("by_epoch", "after the suspension was applied"),
        ("absolute", "after the token was revoked, and longer than a lease lasts"),
    ],
)
def test_each_rule_is_needed(rule: str, problem: str) -> None:
    assert rule in Rules.names()
    found = [explored(without(rule), agents=1, workers=1, revoking=revoking)[1] for revoking in (False, True)]

    assert problem in found[0] | found[1]


def test_there_is_no_other_rule() -> None:
    assert len(Rules.names()) == 6
