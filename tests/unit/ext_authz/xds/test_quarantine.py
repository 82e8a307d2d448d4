"""What an Envoy refuses, or what cannot be made, stays behind alone."""

import pytest

from ext_authz.xds.hub import Hub
from ext_authz.xds.snapshot import ROUTES, SCOPE
from tests.fixtures.edge_policies import change, policy
from tests.fixtures.plain_resources import PlainResources
from tests.unit.ext_authz.xds.conversation import HUNDRED, Conversation, holding


def test_of_refused_routes_only_the_bad_ones_stay_behind(hub: Hub) -> None:
    envoy = holding(hub, *range(100))
    hub.use(HUNDRED.after(change(*(policy(number, revision=2) for number in range(100)), revision=2)))
    responses, accepted = 0, set[str]()
    said = envoy.hear()
    while said:
        ((_, names, _),) = said
        responses += 1
        is_bad = "tenant:org_42" in names
        accepted |= set() if is_bad else set(names)
        said = envoy.answer("org_42 is bad" if is_bad else "")

    assert accepted == {f"tenant:org_{number}" for number in range(100) if number != 42}
    assert responses <= 1 + 2 * 7
    ((routes,),) = (status.types for status in hub.statuses())
    assert (routes.state, routes.resources, routes.revision) == (routes.NACK, 100, 2)
    assert routes.error == "tenant:org_42: org_42 is bad"


def test_what_was_refused_in_company_may_have_been_taken_over_and_is_told_even_if_it_is_as_before(hub: Hub) -> None:
    envoy = holding(hub, 1, 2)
    hub.use(HUNDRED.after(change(policy(1, revision=2), policy(2, revision=2), revision=2)))
    envoy.hear()
    hub.use(HUNDRED)

    said = envoy.answer("one of them is bad") + envoy.accept_all()

    assert sorted(names for _, names, _ in said) == [["tenant:org_1"], ["tenant:org_2"]]


def test_what_was_given_up_is_not_sent_again_to_find_out_whether_it_is_to_blame(hub: Hub) -> None:
    envoy = holding(hub, 1, 2)
    hub.use(HUNDRED.after(change(policy(1, revision=2), policy(2, revision=2), revision=2)))
    envoy.hear()
    envoy.ask(ROUTES, give_up=["tenant:org_1"])

    assert envoy.answer("one of them is bad") == [("RouteConfiguration", ["tenant:org_2"], [])]


def test_what_was_given_up_meanwhile_is_not_sent_either(hub: Hub) -> None:
    envoy = holding(hub, 1, 2)
    hub.use(HUNDRED.after(change(policy(1, revision=2), policy(2, revision=2), revision=2)))
    envoy.hear()
    ((_, (first,), _),) = envoy.answer("one of them is bad")
    envoy.ask(ROUTES, give_up=[{"tenant:org_1": "tenant:org_2", "tenant:org_2": "tenant:org_1"}[first]])

    assert envoy.answer() == []


def test_what_was_refused_is_sent_again_when_it_differs_and_alone(hub: Hub) -> None:
    envoy = holding(hub, 1, 2)
    index = HUNDRED.after(change(policy(1, revision=2), revision=2))
    hub.use(index)
    envoy.hear()
    refused = envoy.answer("bad")
    index = index.after(change(policy(2, revision=3), revision=3))
    hub.use(index)
    other = envoy.hear() + envoy.accept_all()
    hub.use(index.after(change(policy(1, revision=4), policy(2, revision=4), revision=4)))

    assert refused == []
    assert other == [("RouteConfiguration", ["tenant:org_2"], [])]
    assert envoy.hear() + envoy.accept_all() == [
        ("RouteConfiguration", ["tenant:org_2"], []),
        ("RouteConfiguration", ["tenant:org_1"], []),
    ]
    assert [one.state for status in hub.statuses() for one in status.types] == [1]


def test_whoever_refuses_its_first_routes_is_given_some_that_match_nothing(hub: Hub) -> None:
    envoy = Conversation(hub)
    envoy.ask(ROUTES, "tenant:org_1")
    refused = envoy.versions["tenant:org_1"]
    said = envoy.answer("bad")

    assert said == [("RouteConfiguration", ["tenant:org_1"], [])]
    assert envoy.versions["tenant:org_1"] != refused
    assert envoy.accept_all() == []
    assert [one.state for status in hub.statuses() for one in status.types] == [3]


def test_whoever_refuses_even_those_is_left_in_peace(hub: Hub) -> None:
    envoy = Conversation(hub)
    envoy.ask(ROUTES, "tenant:org_1")
    envoy.answer("bad")

    assert envoy.answer("bad too") == []


def test_a_tenant_whose_routes_cannot_be_made_keeps_its_old_ones_alone(hub: Hub, source: PlainResources) -> None:
    envoy = holding(hub, 1, 2)
    source.unrenderable.add("org_1")
    index = HUNDRED.after(change(policy(1, revision=2), policy(2, revision=2), revision=2))
    hub.use(index)
    spoilt = envoy.hear() + envoy.accept_all()
    ((status,),) = (status.types for status in hub.statuses())
    source.unrenderable.clear()
    hub.use(index.after(change(policy(1, revision=3), revision=3)))

    assert spoilt == [("RouteConfiguration", ["tenant:org_2"], [])]
    assert (status.state, status.error) == (3, "tenant:org_1: ValueError: no routes can be made of this")
    assert envoy.hear() == [("RouteConfiguration", ["tenant:org_1"], [])]
    envoy.accept_all()
    assert [one.state for status in hub.statuses() for one in status.types] == [1]


def test_a_scope_that_cannot_be_made_keeps_no_other_back(
    hub: Hub, source: PlainResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = source.scope

    def fail_for_one(name: str, tenant_id: str) -> bytes:
        return make(name, tenant_id) if tenant_id != "org_7" else bytes(name, "no such encoding")

    monkeypatch.setattr(source, "scope", fail_for_one)
    envoy = Conversation(hub)
    ((_, names, gone),) = envoy.ask(SCOPE)

    assert (len(names), gone) == (198, [])
    assert [one.state for status in hub.statuses() for one in status.types] == [3]


def test_an_answer_to_an_older_response_says_nothing(hub: Hub) -> None:
    envoy = holding(hub, 1)
    envoy.nonces.append((ROUTES, "other-boot:1"))
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    envoy.hear()

    assert envoy.answer("bad") == []
    assert [one.state for status in hub.statuses() for one in status.types] == [2]
