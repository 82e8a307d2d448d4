"""The protocol of decision leases, small enough to look at every interleaving of it.

One tenant with one credential and a limit in each window. Agents hold calls that Valkey has counted, and grant them to
Envoy's workers; each worker has its own route, which is updated at some time, and one lease at most. A question and an
answer may be on their way for as long as they like. A step is anything that can happen next; `steps` returns all of
them, with what is admitted by each.

`Rules` are what the protocol does to be safe. Each can be left out, to see that it is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple

LIMIT: Final = 3
MOST_HELD: Final = 2
WINDOW: Final = 2
"""In ticks of the clock, as all times are."""
LONGEST: Final = 1
LAST_TICK: Final = 3
ACTIVE: Final = 1
"""The epoch in which the tenant is served; in the next one it is suspended."""
SUSPENDED: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is done to be safe."""

    prepaid: bool = True
    """Calls are counted before they are granted, and not when they are reported."""
    ends_with_window: bool = True
    """Neither what an agent holds nor a lease is spent in a later window than it was counted in."""
    absolute: bool = True
    """A lease ends at a time that the agent has named, and not so long after the answer has come."""
    by_epoch: bool = True
    """A route takes leases of its own epoch alone."""
    reported_once: bool = True
    """What is told to be unspent is no longer there to be spent."""
    returned_once: bool = True
    """What is told of a lease is given back once, however many agents are told."""

    @classmethod
    def names(cls) -> list[str]:
        """Return all of them."""
        return [field.name for field in fields(cls)]


class Agent(NamedTuple):
    """One that decides."""

    epoch: int
    held: int
    """Calls that are counted, and neither granted nor spent."""
    window: int
    """In which."""
    knows_revocation: bool


class Lease(NamedTuple):
    """Calls that a worker may spend, or that an answer brings."""

    epoch: int
    calls: int
    ends: int
    window: int


class Worker(NamedTuple):
    """One thread of an Envoy."""

    epoch: int
    """Of its route."""
    lease: Lease | None
    asked: bool
    """Whether a question is under way."""
    answer: Lease | None
    """What is on its way back."""
    told: Lease | None
    """What was last told to be unspent, and may come to an agent's ears for the first time, or once more."""
    is_returned: bool
    """Whether Valkey has had it back."""


class State(NamedTuple):
    """Everything, at one moment."""

    now: int
    counted: int
    """What Valkey has counted in this window."""
    agents: tuple[Agent, ...]
    workers: tuple[Worker, ...]
    admitted: int
    """In this window: what nobody in the protocol knows."""
    suspended: bool
    """Whether the control plane has moved to the next epoch."""
    revoked: int
    """How long ago every agent had heard that the token is revoked, up to the lifetime of a lease; -1 before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that happens."""

    name: str
    after: State
    leased_by: Worker | None = None
    """Whose lease was spent; None where no request was let by with one."""


def begin(agents: int, workers: int) -> State:
    """Return the state in which nothing has happened."""
    return State(
        now=0,
        counted=0,
        agents=(Agent(epoch=ACTIVE, held=0, window=0, knows_revocation=False),) * agents,
        workers=(Worker(epoch=ACTIVE, lease=None, asked=False, answer=None, told=None, is_returned=False),) * workers,
        admitted=0,
        suspended=False,
        revoked=-1,
    )


def is_applied(state: State) -> bool:
    """Whether the suspension is enforced everywhere: what `WaitApplied` waits for."""
    epochs = {*(agent.epoch for agent in state.agents), *(worker.epoch for worker in state.workers)}
    return epochs == {SUSPENDED}


def steps(state: State, rules: Rules, *, revoking: bool) -> Iterator[Step]:
    """Yield everything that may happen next; where not the token is revoked, the tenant is suspended."""
    if state.now < LAST_TICK:
        yield Step(name="a tick", after=_later(state))
    if not state.suspended and not revoking:
        yield Step(name="suspended", after=state._replace(suspended=True))
    for number, agent in enumerate(state.agents):
        yield from _of_agent(state, number, agent, rules=rules)
        if revoking and not agent.knows_revocation:
            yield _hears(state, number, agent)
    for number, worker in enumerate(state.workers):
        yield from _of_worker(state, number, worker, rules=rules)


def _later(state: State) -> State:
    now = state.now + 1
    if now % WINDOW == 0:
        state = state._replace(counted=0, admitted=0)
    return state._replace(now=now, revoked=min(state.revoked + 1, LONGEST) if state.revoked >= 0 else -1)


def _hears(state: State, number: int, agent: Agent) -> Step:
    heard = _agent(state, number, agent._replace(knows_revocation=True))
    if all(one.knows_revocation for one in heard.agents):
        heard = heard._replace(revoked=0)
    return Step(name="an agent hears of the revocation", after=heard)


def _of_agent(state: State, number: int, agent: Agent, *, rules: Rules) -> Iterator[Step]:
    window = state.now // WINDOW
    if state.suspended and agent.epoch == ACTIVE:
        yield Step(name="an agent hears", after=_agent(state, number, agent._replace(epoch=SUSPENDED)))
    for calls in (
        range(1, min(LIMIT - state.counted, MOST_HELD) + 1) if not agent.held and agent.epoch == ACTIVE else ()
    ):
        taken = state._replace(counted=state.counted + (calls if rules.prepaid else 0))
        yield Step(name="an agent reserves", after=_agent(taken, number, agent._replace(held=calls, window=window)))
    # A crash: what it had is counted for ever, and what it knew of the policy it reads again.
    if agent.held:
        yield Step(name="an agent crashes", after=_agent(state, number, agent._replace(held=0)))


def _of_worker(state: State, number: int, worker: Worker, *, rules: Rules) -> Iterator[Step]:
    if state.suspended and worker.epoch == ACTIVE:
        yield Step(name="a route is updated", after=_worker(state, number, worker._replace(epoch=SUSPENDED)))
    if worker.answer is not None:
        answer = worker.answer
        ends = answer.ends if rules.absolute else state.now + LONGEST
        kept = worker._replace(lease=answer._replace(ends=ends), answer=None)
        if worker.lease is not None:
            # What is left of the one that was renewed is spent no more, and told in its turn.
            kept = kept._replace(told=worker.lease, is_returned=False)
        yield Step(name="an answer comes", after=_worker(state, number, kept))
        yield Step(name="an answer is lost", after=_worker(state, number, worker._replace(answer=None)))
    elif worker.asked:
        yield from _answers(state, number, worker, rules=rules)
    lease = worker.lease
    if lease is not None and _serves(lease, worker, state, rules):
        spent = worker._replace(lease=lease._replace(calls=lease.calls - 1) if lease.calls > 1 else None)
        admitted = state._replace(admitted=state.admitted + 1)
        yield Step(name="a lease is spent", after=_worker(admitted, number, spent), leased_by=worker)
    # Also while there is a lease, to renew it.
    if not worker.asked and worker.answer is None and worker.epoch == ACTIVE:
        yield Step(name="an agent is asked", after=_worker(state, number, worker._replace(asked=True)))
    if lease is not None and not worker.asked and worker.answer is None:
        left = worker._replace(lease=None if rules.reported_once else lease, told=lease, is_returned=False)
        yield Step(name="what is unspent is told", after=_worker(state, number, left))
    if worker.told is not None:
        yield from _returned(state, number, worker, worker.told, rules=rules)


def _serves(lease: Lease, worker: Worker, state: State, rules: Rules) -> bool:
    if rules.by_epoch and lease.epoch != worker.epoch:
        return False
    return state.now < lease.ends and (not rules.ends_with_window or state.now // WINDOW == lease.window)


def _answers(state: State, number: int, worker: Worker, *, rules: Rules) -> Iterator[Step]:
    """Yield what each agent may make of the question, and that none does."""
    nothing = worker._replace(asked=False)
    yield Step(name="no agent answers", after=_worker(state, number, nothing))
    for place, agent in enumerate(state.agents):
        good = not rules.ends_with_window or agent.window == state.now // WINDOW
        if agent.epoch != ACTIVE or agent.knows_revocation or not agent.held or not good:
            continue
        ends = state.now + LONGEST
        if rules.ends_with_window:
            ends = min(ends, (agent.window + 1) * WINDOW)
        lease = Lease(epoch=agent.epoch, calls=agent.held, ends=ends, window=agent.window)
        granted = _agent(state, place, agent._replace(held=0))
        yield Step(name="a lease is granted", after=_worker(granted, number, nothing._replace(answer=lease)))


def _returned(state: State, number: int, worker: Worker, told: Lease, *, rules: Rules) -> Iterator[Step]:
    """Yield that an agent hears what is unspent, whichever it is, and gives it back in its window."""
    if told.window == state.now // WINDOW and not (rules.returned_once and worker.is_returned):
        counted = max(state.counted - (told.calls if rules.prepaid else 0), 0)
        heard = worker._replace(is_returned=True)
        yield Step(name="unspent calls are given back", after=_worker(state._replace(counted=counted), number, heard))


def _agent(state: State, number: int, agent: Agent) -> State:
    return state._replace(agents=(*state.agents[:number], agent, *state.agents[number + 1 :]))


def _worker(state: State, number: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:number], worker, *state.workers[number + 1 :]))


def without(rule: str) -> Rules:
    """Return all rules but one."""
    return replace(Rules(), **{rule: False})
