"""It can be told how far each Envoy is, and waited for."""

import asyncio
from collections.abc import Callable

import pytest

from bulkhead.envoy.v3 import discovery_pb2
from ext_authz.xds.hub import Hub
from ext_authz.xds.snapshot import LISTENER, ROUTES, SCOPE
from tests.fixtures.edge_policies import change, policy
from tests.fixtures.plain_resources import PlainResources, index_of
from tests.unit.ext_authz.xds.conversation import HUNDRED, Conversation, holding


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_applied_waits_until_each_envoy_has_answered(hub: Hub) -> None:
    envoys = [holding(hub, 1), holding(hub, 1), holding(hub, 2)]
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    waiting = asyncio.create_task(hub.applied(2))
    for envoy in envoys:
        envoy.hear()
    done = []
    for envoy in envoys[:2]:
        await asyncio.sleep(0)
        done.append(waiting.done())
        envoy.accept_all()
        hub.note_answer()
    await asyncio.wait_for(waiting, 10)

    assert done == [False, False]


async def test_a_refusal_does_not_keep_applied_waiting(hub: Hub) -> None:
    envoy = holding(hub, 1)
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    envoy.hear()
    envoy.answer("bad")

    await asyncio.wait_for(hub.applied(2), 10)


async def test_an_envoy_that_goes_is_waited_for_until_it_has_what_it_missed(hub: Hub) -> None:
    holding(hub, 1).go()
    hub.use(HUNDRED.after(change(policy(1, revision=2, domains=["a.example"]), revision=2)))
    waiting = asyncio.create_task(hub.applied(2))
    back = Conversation(hub)
    done = []
    steps: tuple[Callable[[], object], ...] = (lambda: back.ask(LISTENER), lambda: back.ask(SCOPE), back.accept_all)
    for news in steps:
        await asyncio.sleep(0)
        done.append(waiting.done())
        news()
        hub.note_answer()
    await asyncio.wait_for(waiting, 10)

    assert done == [False, False, False]


async def test_an_envoy_that_does_not_come_back_is_not_waited_for(source: PlainResources) -> None:
    clock = Clock()
    hub = Hub(source, clock_s=clock)
    hub.use(HUNDRED)
    holding(hub, 1).go()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hub.applied(1), 0.01)
    clock.now_s += 3

    await asyncio.wait_for(hub.applied(1), 10)


async def test_an_envoy_that_another_hub_told_is_waited_for(source: PlainResources) -> None:
    clock = Clock()
    hub = Hub(source, expected=["edge-1"], clock_s=clock)
    hub.use(HUNDRED)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hub.applied(1), 0.01)
    envoy = Conversation(hub)
    envoy.ask(SCOPE)
    envoy.accept_all()

    await asyncio.wait_for(hub.applied(1), 10)


async def test_an_envoy_that_is_given_up_is_noticed_by_whoever_waits(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_authz.xds.hub._RETURNS_WITHIN_S", 0.01)
    holding(hub, 1).go()

    await asyncio.wait_for(hub.applied(1), 10)


async def test_applied_waits_for_no_later_change(hub: Hub) -> None:
    envoy = holding(hub, 1, 2)
    index = HUNDRED.after(change(policy(1, revision=2), revision=2))
    hub.use(index)
    envoy.hear()
    hub.use(index.after(change(policy(2, revision=3), revision=3)))
    envoy.answer()

    await asyncio.wait_for(hub.applied(2), 10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hub.applied(3), 0.01)


async def test_revisions_of_another_feed_are_counted_anew(hub: Hub) -> None:
    envoy = holding(hub, 1)
    hub.use(HUNDRED.after(change(policy(2, revision=100), revision=100)))
    hub.use(HUNDRED.after(change(policy(1, revision=3), feed="feed-2", revision=3, snapshot=True)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hub.applied(3), 0.01)
    envoy.hear()
    envoy.accept_all()

    await asyncio.wait_for(hub.applied(3), 10)


async def test_what_is_to_be_sent_once_more_in_halves_is_waited_for(hub: Hub) -> None:
    envoy = holding(hub, 1, 2)
    hub.use(HUNDRED.after(change(policy(1, revision=2), policy(2, revision=2), revision=2)))
    envoy.hear()
    refusal = discovery_pb2.DeltaDiscoveryRequest(type_url=ROUTES, response_nonce=envoy.nonces.pop()[1])
    refusal.error_detail.message = "one of them is bad"
    envoy.stream.receive(refusal)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hub.applied(2), 0.01)


async def test_nothing_is_waited_for_where_no_envoy_is_connected(hub: Hub) -> None:
    await asyncio.wait_for(hub.applied(1), 10)


def test_each_type_has_its_status(hub: Hub) -> None:
    envoy = holding(hub, 1)
    envoy.ask(LISTENER)
    (status,) = hub.statuses()

    assert (status.node, status.version, status.connect_time.seconds) == ("edge-1", "1.40.0", 1_767_225_600)
    assert [(one.type_url, one.state, one.resources, one.revision) for one in status.types] == [
        (LISTENER, 2, 0, 0),
        (ROUTES, 1, 1, 1),
    ]


def test_what_an_envoy_has_taken_away_it_has_no_more(hub: Hub) -> None:
    envoy = Conversation(hub)
    envoy.ask(SCOPE)
    envoy.accept_all()
    hub.use(index_of(*(policy(number) for number in range(99))))
    envoy.hear()
    envoy.accept_all()

    assert [one.resources for status in hub.statuses() for one in status.types] == [198]


@pytest.mark.parametrize(("error", "told"), [("x" * 5000, "x" * 1000), ("", "refused")])
def test_a_refusal_is_told_and_not_at_any_length(hub: Hub, error: str, told: str) -> None:
    envoy = holding(hub, 1)
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    envoy.hear()
    refusal = discovery_pb2.DeltaDiscoveryRequest(type_url=ROUTES, response_nonce=envoy.nonces.pop()[1])
    refusal.error_detail.message = error
    refusal.error_detail.SetInParent()
    envoy.stream.receive(refusal)

    assert [one.error for status in hub.statuses() for one in status.types] == [f"tenant:org_1: {told}"]


def test_an_envoy_that_has_nothing_to_take_over_has_the_newest_revision(hub: Hub) -> None:
    _envoy = holding(hub, 1)
    hub.use(HUNDRED.after(change(policy(2, revision=2), revision=2)))

    assert [one.revision for status in hub.statuses() for one in status.types] == [2]


def test_an_envoy_that_is_behind_has_the_revision_before(hub: Hub) -> None:
    envoy = holding(hub, 1)
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    envoy.hear()

    assert [(one.state, one.revision) for status in hub.statuses() for one in status.types] == [(2, 1)]


def test_an_envoy_that_went_is_still_told_of(hub: Hub) -> None:
    envoy = holding(hub, 1)
    envoy.go()
    (gone,) = hub.statuses()
    _envoy = holding(hub, 1)
    (back,) = hub.statuses()

    assert (gone.node, gone.HasField("connect_time"), [one.state for one in gone.types]) == ("edge-1", False, [2])
    assert (back.HasField("connect_time"), [one.state for one in back.types]) == (True, [1])


def test_nonces_of_another_hub_are_never_ours(source: PlainResources) -> None:
    nonces = []
    for _ in range(2):
        envoy = Conversation(Hub(source))
        envoy.ask(LISTENER)
        nonces += envoy.nonces

    assert len({nonce for _, nonce in nonces}) == 2
