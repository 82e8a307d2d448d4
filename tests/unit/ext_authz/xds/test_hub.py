"""Each Envoy is told what it asks for and lacks, in an order that breaks nothing."""

import pytest

from ext_authz.policies.model import State
from ext_authz.xds.hub import Hub
from ext_authz.xds.snapshot import CLUSTER, LISTENER, ROUTES, SCOPE, SECRET
from tests.fixtures.edge_policies import change, policy
from tests.fixtures.plain_resources import PlainResources, index_of
from tests.unit.ext_authz.xds.conversation import HUNDRED, Conversation, holding

ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


def test_an_envoy_that_names_nothing_is_told_of_everything(hub: Hub) -> None:
    envoy = Conversation(hub)

    assert envoy.ask(CLUSTER) == [("Cluster", ["certificates"], [])]
    assert envoy.ask(LISTENER) == [("Listener", ["edge_http"], [])]
    assert [(kind, len(names)) for kind, names, _ in envoy.ask(SCOPE)] == [("ScopedRouteConfiguration", 200)]


@pytest.mark.parametrize("url", [ROUTES, SECRET, ENDPOINTS])
def test_of_what_belongs_to_others_nothing_is_told_unasked(hub: Hub, url: str) -> None:
    assert Conversation(hub).ask(url) == []


def test_an_envoy_that_waits_for_everything_is_answered_though_there_is_nothing() -> None:
    assert Conversation(Hub(PlainResources())).ask(CLUSTER) == [("Cluster", [], [])]


@pytest.mark.parametrize("url", [SCOPE, SECRET, ENDPOINTS])
def test_a_name_that_is_not_there_is_answered_at_once(hub: Hub, url: str) -> None:
    assert [(names, gone) for _, names, gone in Conversation(hub).ask(url, "absent")] == [([], ["absent"])]


def test_routes_that_are_not_there_are_answered_by_routes_that_match_nothing(hub: Hub) -> None:
    assert Conversation(hub).ask(ROUTES, "tenant:org_999") == [("RouteConfiguration", ["tenant:org_999"], [])]


def test_before_the_first_index_nothing_is_said_of_tenants_and_nothing_taken_away(source: PlainResources) -> None:
    hub = Hub(source)
    envoy = Conversation(hub)
    before = [envoy.ask(SCOPE, held={"id:org_500": "v", "id:org_1": "v"}), envoy.ask(ROUTES, "tenant:org_1")]
    hub.use(index_of(policy(1)))

    assert before == [[], []]
    assert envoy.hear() == [
        ("ScopedRouteConfiguration", ["id:org_1", "host:org-1.csm.example.com"], ["id:org_500"]),
        ("RouteConfiguration", ["tenant:org_1"], []),
    ]


def test_a_tenants_change_is_told_to_those_alone_that_have_its_routes(hub: Hub) -> None:
    concerned, others = holding(hub, 1, 2), holding(hub, 3)
    hub.use(HUNDRED.after(change(policy(1, revision=2, state=State.SUSPENDED), revision=2)))

    assert concerned.hear() == [("RouteConfiguration", ["tenant:org_1"], [])]
    assert others.hear() == []


def test_a_slow_envoy_is_told_the_last_word_and_not_each(hub: Hub) -> None:
    envoy = holding(hub, 1)
    index = HUNDRED
    for revision in range(2, 50):
        index = index.after(change(policy(1, revision=revision), revision=revision))
        hub.use(index)
    said = envoy.hear()
    for revision in range(50, 100):
        index = index.after(change(policy(1, revision=revision), revision=revision))
        hub.use(index)

    assert said == [("RouteConfiguration", ["tenant:org_1"], [])]
    assert envoy.hear() == []
    assert envoy.answer() == [("RouteConfiguration", ["tenant:org_1"], [])]
    assert envoy.accept_all() == []


def test_what_changed_and_changed_back_is_not_told(hub: Hub) -> None:
    envoy = holding(hub, 1)
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    hub.use(HUNDRED)

    assert envoy.hear() == []


def test_an_envoy_that_comes_back_is_sent_nothing_that_it_has(hub: Hub, source: PlainResources) -> None:
    before = Conversation(hub)
    before.ask(SCOPE)
    before.ask(ROUTES, "tenant:org_1")
    before.accept_all()
    scopes = {name: version for name, version in before.versions.items() if not name.startswith("tenant:")}
    restarted = Hub(source)
    restarted.use(HUNDRED)
    after = Conversation(restarted)

    assert after.ask(SCOPE, held=scopes) == []
    assert after.ask(ROUTES, "tenant:org_1", held={"tenant:org_1": before.versions["tenant:org_1"]}) == []
    assert [(one.state, one.resources) for status in restarted.statuses() for one in status.types] == [(1, 200), (1, 1)]


def test_an_envoy_that_comes_back_is_told_what_is_different_and_gone(hub: Hub) -> None:
    scopes = {"id:org_1": "other", "id:org_777": "v"}
    ((_, names, gone),) = Conversation(hub).ask(SCOPE, held=scopes)

    assert len(names) == 200
    assert gone == ["id:org_777"]


def test_what_is_asked_for_again_is_told_again(hub: Hub) -> None:
    envoy = holding(hub, 1)

    assert envoy.ask(ROUTES, "tenant:org_1") == [("RouteConfiguration", ["tenant:org_1"], [])]


def test_what_is_asked_for_again_before_the_answer_is_told_again(hub: Hub) -> None:
    """The Envoy may have dropped what was on the way."""
    envoy = Conversation(hub)
    envoy.ask(ROUTES, "tenant:org_1")

    assert envoy.ask(ROUTES, "tenant:org_1") == []
    assert envoy.answer() == [("RouteConfiguration", ["tenant:org_1"], [])]
    assert envoy.accept_all() == []


def test_whoever_has_everything_is_told_what_a_name_is_that_it_gave_up(hub: Hub) -> None:
    envoy = Conversation(hub)
    envoy.ask(SCOPE, "*", "id:org_1", "id:absent")
    envoy.accept_all()

    assert envoy.ask(SCOPE, give_up=["id:org_1", "id:absent"]) == [
        ("ScopedRouteConfiguration", ["id:org_1"], ["id:absent"])
    ]


def test_an_envoy_counts_for_nothing_what_it_has_and_did_not_ask_for(hub: Hub) -> None:
    envoy = Conversation(hub)
    envoy.ask(ROUTES, "tenant:org_1", held={"tenant:org_2": "v"})
    envoy.accept_all()

    assert [one.resources for status in hub.statuses() for one in status.types] == [1]


def test_what_was_given_up_is_not_told_any_more(hub: Hub) -> None:
    envoy = holding(hub, 1, 2)
    envoy.ask(ROUTES, give_up=["tenant:org_1"])
    hub.use(HUNDRED.after(change(policy(1, revision=2), policy(2, revision=2), revision=2)))

    assert envoy.hear() == [("RouteConfiguration", ["tenant:org_2"], [])]


def test_a_tenant_that_is_gone_loses_its_scopes_and_then_its_routes(hub: Hub) -> None:
    envoy = holding(hub, 1)
    envoy.ask(SCOPE)
    envoy.accept_all()
    hub.use(index_of(*(policy(number) for number in range(100) if number != 1), revision=2))

    assert envoy.hear() == [
        ("ScopedRouteConfiguration", [], ["id:org_1", "host:org-1.csm.example.com"]),
        ("RouteConfiguration", ["tenant:org_1"], []),
    ]


def test_a_response_holds_a_thousand_resources_at_most() -> None:
    hub = Hub(PlainResources())
    hub.use(index_of(*(policy(number) for number in range(1250))))
    envoy = Conversation(hub)

    assert [len(names) for _, names, _ in envoy.ask(SCOPE) + envoy.accept_all()] == [1000, 1000, 500]


def test_a_response_is_a_megabyte_and_one_resource_at_most() -> None:
    source = PlainResources()
    source.secrets = {f"secret-{number}": bytes(400_000) for number in range(7)}
    envoy = Conversation(Hub(source))
    said = envoy.ask(SECRET, *source.secrets) + envoy.accept_all()

    assert [len(names) for _, names, _ in said] == [3, 3, 1]
    assert max(envoy.sizes) < 1_500_000


def test_what_refers_waits_for_what_it_refers_to(hub: Hub, source: PlainResources) -> None:
    envoy = Conversation(hub)
    for url in (CLUSTER, LISTENER, SCOPE):
        envoy.ask(url)
    envoy.ask(SECRET, "edge_certificate")
    envoy.ask(ROUTES, "tenant:org_1")
    envoy.accept_all()
    source.clusters = {"certificates": b"other"}
    source.secrets = {"edge_certificate": b"other"}
    source.listeners = {"edge_http": b"other"}
    hub.use_statics()
    hub.use(HUNDRED.after(change(policy(1, revision=2, domains=["a.example"]), revision=2)))

    assert [kind for kind, _, _ in envoy.hear()] == [
        "Cluster",
        "Secret",
        "Listener",
        "ScopedRouteConfiguration",
        "RouteConfiguration",
    ]


def test_routes_are_not_sent_before_the_cluster_that_waits_for_an_answer(hub: Hub, source: PlainResources) -> None:
    envoy = holding(hub, 1)
    envoy.ask(CLUSTER)
    source.clusters["second"] = b"cluster"
    hub.use_statics()
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    said = envoy.hear()

    assert said == []
    assert envoy.answer() == [("Cluster", ["second"], []), ("RouteConfiguration", ["tenant:org_1"], [])]


def test_a_cluster_goes_when_everything_that_may_refer_to_it_is_up_to_date(hub: Hub, source: PlainResources) -> None:
    envoy = holding(hub, 1)
    envoy.ask(CLUSTER)
    envoy.accept_all()
    source.clusters = {"new": b"cluster"}
    hub.use_statics()
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    said = envoy.hear()

    assert said == [("Cluster", ["new"], []), ("RouteConfiguration", ["tenant:org_1"], [])]
    assert envoy.answer() == []
    assert envoy.answer() == [("Cluster", [], ["certificates"])]


def test_a_cluster_that_comes_back_before_it_went_does_not_go(hub: Hub, source: PlainResources) -> None:
    envoy = holding(hub, 1)
    envoy.ask(CLUSTER)
    envoy.accept_all()
    source.clusters = {}
    hub.use(HUNDRED.after(change(policy(1, revision=2), revision=2)))
    hub.use_statics()
    envoy.hear()
    source.clusters = {"certificates": b"cluster"}
    hub.use_statics()

    assert envoy.accept_all() == []


def test_statics_that_cannot_be_made_change_nothing(
    hub: Hub, source: PlainResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> dict[str, dict[str, bytes]]:
        message = "no such file"
        raise OSError(message)

    envoy = Conversation(hub)
    envoy.ask(SECRET, "edge_certificate")
    envoy.accept_all()
    monkeypatch.setattr(source, "statics", fail)

    with pytest.raises(OSError, match="no such file"):
        hub.use_statics()

    assert envoy.hear() == []
