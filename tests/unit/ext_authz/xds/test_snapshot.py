"""What there is follows from the index; what differs is found without a list of changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkhead.envoy.v3 import routes_pb2
from ext_authz.policies.model import Index, State, TenantPolicy
from ext_authz.xds.snapshot import (
    CLUSTER,
    LISTENER,
    ROUTES,
    SCOPE,
    SECRET,
    STATIC_TYPES,
    TENANT_TYPES,
    Renderer,
    Resource,
    Snapshot,
    Unrenderable,
    difference,
)
from tests.fixtures.edge_policies import DOMAIN, change, policy
from tests.fixtures.plain_resources import PlainResources, index_of


def snapshot_of(index: Index | None, source: PlainResources | None = None) -> Snapshot:
    renderer = Renderer(source or PlainResources())
    return Snapshot(renderer, renderer.statics(), index)


def contents(snapshot: Snapshot) -> dict[tuple[str, str], object]:
    return {
        (url, name): snapshot.find(url, name) for url in (*STATIC_TYPES, *TENANT_TYPES) for name in snapshot.names(url)
    }


def test_a_tenant_has_a_scope_for_its_id_and_one_for_each_host() -> None:
    snapshot = snapshot_of(index_of(policy(1, domains=["api.example.org"])))

    assert sorted(snapshot.names(SCOPE)) == ["host:api.example.org", "host:org-1.csm.example.com", "id:org_1"]
    assert list(snapshot.names(ROUTES)) == ["tenant:org_1"]


def test_each_scope_leads_to_its_tenants_routes() -> None:
    snapshot = snapshot_of(index_of(policy(1), policy(2)))
    found = {name: snapshot.find(SCOPE, name) for name in snapshot.names(SCOPE)}
    led = {
        name: routes_pb2.ScopedRouteConfiguration.FromString(scope.body).route_configuration_name
        for name, scope in found.items()
        if isinstance(scope, Resource)
    }

    assert led == {
        "id:org_1": "tenant:org_1",
        "host:org-1.csm.example.com": "tenant:org_1",
        "id:org_2": "tenant:org_2",
        "host:org-2.csm.example.com": "tenant:org_2",
    }


@pytest.mark.parametrize("name", ["id:org_9", "host:org_1", "org_1", "tenant:org_1", "", "other:org_1"])
def test_what_no_tenant_has_is_no_scope(name: str) -> None:
    assert snapshot_of(index_of(policy(1))).find(SCOPE, name) is None


@pytest.mark.parametrize("name", ["tenant:org_9", "id:org_1", "org_1", ""])
def test_what_no_tenant_has_are_no_routes(name: str) -> None:
    assert snapshot_of(index_of(policy(1))).find(ROUTES, name) is None


def test_the_same_bytes_have_the_same_version_everywhere() -> None:
    assert Resource.of(b"listener").version == "c4c05d40a8c3ebc0"
    assert Resource.of(b"listener") != Resource.of(b"listeners")


def test_before_the_first_index_nothing_is_known_of_tenants() -> None:
    snapshot = snapshot_of(None)

    assert [url for url in (*STATIC_TYPES, *TENANT_TYPES) if snapshot.knows(url)] == list(STATIC_TYPES)


def test_routes_that_cannot_be_made_say_why() -> None:
    source = PlainResources()
    source.unrenderable.add("org_1")
    snapshot = snapshot_of(index_of(policy(1)), source)

    assert snapshot.find(ROUTES, "tenant:org_1") == Unrenderable("ValueError: no routes can be made of this")


def test_routes_are_made_once_for_several_envoys() -> None:
    source = PlainResources()
    snapshot = snapshot_of(index_of(policy(1)), source)
    found = [snapshot.find(ROUTES, "tenant:org_1") for _ in range(3)]

    assert source.rendered == ["org_1"]
    assert found[0] == found[2]


def test_only_the_routes_of_the_last_thousand_tenants_are_kept() -> None:
    source = PlainResources()
    snapshot = snapshot_of(index_of(*(policy(number) for number in range(2000))), source)
    for number in range(2000):
        snapshot.find(ROUTES, f"tenant:org_{number}")
    source.rendered.clear()
    snapshot.find(ROUTES, "tenant:org_0")
    snapshot.find(ROUTES, "tenant:org_1999")

    assert source.rendered == ["org_0"]


def test_what_stands_in_for_routes_is_their_name_and_nothing_that_matches() -> None:
    stand_in = snapshot_of(index_of()).stand_in(ROUTES, "tenant:org_1")

    assert stand_in is not None
    assert routes_pb2.RouteConfiguration.FromString(stand_in.body) == routes_pb2.RouteConfiguration(name="tenant:org_1")


@pytest.mark.parametrize("url", [SCOPE, CLUSTER, LISTENER, SECRET])
def test_nothing_else_has_a_stand_in(url: str) -> None:
    assert snapshot_of(index_of()).stand_in(url, "name") is None


def test_one_tenants_change_touches_its_routes_alone() -> None:
    before = index_of(*(policy(number) for number in range(100)))
    after = before.after(change(policy(7, revision=2, state=State.SUSPENDED), revision=2))

    assert difference(snapshot_of(before), snapshot_of(after)) == {ROUTES: ["tenant:org_7"]}


def test_a_host_that_moves_touches_its_scope() -> None:
    before = index_of(policy(1, domains=["a.example"]), policy(2))
    after = before.after(change(policy(1, revision=2), policy(2, revision=2, domains=["a.example"]), revision=2))

    differs = difference(snapshot_of(before), snapshot_of(after))

    assert {url: sorted(names) for url, names in differs.items()} == {
        SCOPE: ["host:a.example"],
        ROUTES: ["tenant:org_1", "tenant:org_2"],
    }


def test_an_equal_index_that_was_read_anew_touches_nothing() -> None:
    policies = [policy(number) for number in range(100)]
    again = [policy(number) for number in reversed(range(100))]

    assert difference(snapshot_of(index_of(*policies)), snapshot_of(index_of(*again, revision=9))) == {}


def test_a_new_certificate_touches_its_secret_alone() -> None:
    source = PlainResources({"edge_http": b"listener"})
    source.secrets = {"edge_certificate": b"old", "edge_client_ca": b"ca"}
    before = snapshot_of(index_of(policy(1)), source)
    source.secrets["edge_certificate"] = b"new"
    after = Snapshot(before.renderer, before.renderer.statics(), before.index)

    assert difference(before, after) == {SECRET: ["edge_certificate"]}


TENANTS = st.dictionaries(
    st.integers(1, 5),
    st.tuples(st.integers(1, 3), st.lists(st.sampled_from(["a.example", "b.example", "c.example"]), unique=True)),
)


@given(TENANTS, TENANTS, TENANTS)
def test_what_differs_is_exactly_what_is_touched(
    first: dict[int, tuple[int, list[str]]],
    changed: dict[int, tuple[int, list[str]]],
    anew: dict[int, tuple[int, list[str]]],
) -> None:
    def policies(of: dict[int, tuple[int, list[str]]]) -> list[TenantPolicy]:
        return [policy(number, revision=revision, domains=hosts) for number, (revision, hosts) in of.items()]

    source = PlainResources()
    index = Index(domain=DOMAIN)
    for tenants, is_anew in ((first, False), (changed, False), (anew, True)):
        before = snapshot_of(index, source)
        index = index.after(change(*policies(tenants), revision=index.revision + 1, snapshot=is_anew))
        after = snapshot_of(index, source)
        was, is_now = contents(before), contents(after)
        touched = {(url, name) for url, names in difference(before, after).items() for name in names}

        assert {key for key in {**was, **is_now} if was.get(key) != is_now.get(key)} <= touched
        assert {key for key in touched if key[0] == SCOPE and was.get(key) == is_now.get(key)} == set()
