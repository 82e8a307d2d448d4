"""Whatever happens between Envoys and the hub, and in whichever order: at last each has what it is to have.

Two Envoys subscribe and give up, go and come back, refuse and hang; tenants come, change, move their hosts, are
spoiled and mended; the hub begins anew. Then all is heard, and compared with what there is.
"""

from itertools import pairwise
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from bulkhead.envoy.v3 import discovery_pb2
from ext_authz.policies.model import Index, State, TenantPolicy
from ext_authz.xds import subscription
from ext_authz.xds.hub import Hub
from ext_authz.xds.snapshot import (
    CLUSTER,
    LISTENER,
    ORDER,
    ROUTES,
    SCOPE,
    SECRET,
    STATIC_TYPES,
    Renderer,
    Resource,
    Snapshot,
)
from tests.fixtures.edge_policies import DOMAIN, change, policy
from tests.fixtures.plain_resources import PlainResources
from tests.unit.ext_authz.xds.model_envoy import ModelEnvoy, is_poisoned

NUMBERS = st.integers(1, 5)
ENVOYS = st.sampled_from([0, 1])
STATICS = st.sampled_from(["a", "b", "c"])
CHANGES = st.dictionaries(
    NUMBERS,
    st.tuples(st.sampled_from(State), st.lists(st.sampled_from(["a.example", "b.example"]), unique=True)),
    min_size=1,
)
ASKED = st.one_of(
    st.tuples(st.just(ROUTES), st.sets(st.sampled_from([*(f"tenant:org_{n}" for n in range(1, 7)), "*"]), min_size=1)),
    st.tuples(st.just(SECRET), st.sets(STATICS, min_size=1)),
    st.tuples(st.just(SCOPE), st.sets(st.sampled_from(["id:org_1", "id:org_6", "*"]), min_size=1)),
)


class Told:
    """What the hub knows of one Envoy's stream: what it may and may not say follows from it."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}
        self.everything: set[str] = set()
        self.versions: dict[tuple[str, str], str] = {}
        self.refused: dict[tuple[str, str], str] = {}
        self.unanswered: dict[str, discovery_pb2.DeltaDiscoveryResponse] = {}
        self.asked_again: dict[str, set[str]] = {}
        self._begun: set[str] = set()

    def hear(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        url = request.type_url
        if request.response_nonce:
            self._answer(request, self.unanswered.pop(url))
        names = [*request.resource_names_subscribe, *request.resource_names_unsubscribe]
        if url not in self._begun and not names and url in (CLUSTER, LISTENER, SCOPE):
            self.everything.add(url)
        if url not in self._begun:
            self.versions |= {(url, name): one for name, one in request.initial_resource_versions.items()}
        for name in request.resource_names_unsubscribe:
            self._change(url, name, wants=False)
        for name in request.resource_names_subscribe:
            self._change(url, name, wants=True)
        self._begun.add(url)

    def _answer(
        self, request: discovery_pb2.DeltaDiscoveryRequest, response: discovery_pb2.DeltaDiscoveryResponse
    ) -> None:
        url, asked_again = request.type_url, self.asked_again.pop(request.type_url, set())
        said = {one.name: one.version for one in response.resources}
        is_single = len(said) + len(response.removed_resources) == 1
        assert response.nonce == request.response_nonce
        for name, version in said.items():
            if not request.HasField("error_detail"):
                self.versions[url, name] = version
            elif is_single:
                self.refused[url, name] = version
            if name in asked_again or (request.HasField("error_detail") and not is_single):
                self._forget(url, name)
        for name in () if request.HasField("error_detail") else response.removed_resources:
            self._forget(url, name)

    def _forget(self, url: str, name: str) -> None:
        self.versions.pop((url, name), None)
        self.refused.pop((url, name), None)

    def _change(self, url: str, name: str, *, wants: bool) -> None:
        if name == "*":
            (self.everything.add if wants else self.everything.discard)(url)
            gone = [] if wants else [key for key in self.versions if key[0] == url]
        else:
            names = self.names.setdefault(url, set())
            (names.add if wants else names.discard)(name)
            gone = [(url, name)] if url in self._begun or not wants else []
        for key in gone:
            self._forget(*key)
            if url in self.unanswered:
                # What is on the way says nothing about what the Envoy has when it has asked once more.
                self.asked_again.setdefault(url, set()).add(key[1])

    def check(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        """Check that the hub may say this now."""
        url = response.type_url
        names = [*(one.name for one in response.resources), *response.removed_resources]

        assert url not in self.unanswered, "one response at a time"
        assert len(names) == len(set(names)) <= 3
        assert url in self.everything or set(names) <= self.names.get(url, set()), "only what was asked for"
        for one in response.resources:
            assert self.versions.get((url, one.name)) != one.version, "nothing that it has already"
            assert self.refused.get((url, one.name)) != one.version, "nothing that it has refused"
        self.unanswered[url] = response


KEPT: Final = {CLUSTER, SECRET}


class Protocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(subscription, "_MOST_RESOURCES", 3)
        self.source = PlainResources({"edge_http": b"one"})
        self.index: Index | None = None
        self.revision = 0
        self.hub = Hub(self.source)
        self.envoys = [ModelEnvoy("edge-1"), ModelEnvoy("edge-2")]
        self.told = [Told(), Told()]

    @override
    def teardown(self) -> None:
        self.settle()
        for envoy in self.envoys:
            envoy.disconnect()
        self.patch.undo()

    @rule(which=ENVOYS)
    def connects(self, which: int) -> None:
        self.envoys[which].connect(self.hub)
        self.told[which] = Told()

    @rule(which=ENVOYS)
    def goes(self, which: int) -> None:
        self.envoys[which].disconnect()

    @rule(knows=st.booleans())
    def the_hub_begins_anew(self, *, knows: bool) -> None:
        for envoy in self.envoys:
            envoy.disconnect()
        self.hub = Hub(self.source)
        if knows and self.index is not None:
            self.hub.use(self.index)

    @rule(which=ENVOYS, asked=ASKED)
    def subscribes(self, which: int, asked: tuple[str, set[str]]) -> None:
        self.envoys[which].subscribe(*asked)

    @rule(which=ENVOYS, asked=ASKED)
    def gives_up(self, which: int, asked: tuple[str, set[str]]) -> None:
        self.envoys[which].unsubscribe(*asked)

    @rule(changes=CHANGES, is_anew=st.booleans())
    def tenants_change(self, changes: dict[int, tuple[State, list[str]]], *, is_anew: bool) -> None:
        self.revision += 1
        tenants = [
            policy(number, revision=self.revision, state=state, domains=hosts)
            for number, (state, hosts) in changes.items()
        ]
        self._use(*tenants, is_anew=is_anew)

    @rule(number=NUMBERS, way=st.sampled_from(["poisoned", "unrenderable"]), spoilt=st.booleans())
    def a_tenant_is_spoilt_or_mended(self, number: int, way: str, *, spoilt: bool) -> None:
        self.revision += 1
        tenants: set[str] = getattr(self.source, way)
        (tenants.add if spoilt else tenants.discard)(f"org_{number}")
        self._use(policy(number, revision=self.revision), is_anew=False)

    @rule(url=st.sampled_from(["clusters", "secrets", "listeners"]), name=STATICS, body=st.binary(max_size=1))
    def statics_change(self, url: str, name: str, body: bytes) -> None:
        resources: dict[str, bytes] = getattr(self.source, url)
        if body:
            resources[name] = body
        else:
            resources.pop(name, None)
        self.hub.use_statics()

    @rule(which=ENVOYS)
    def the_hub_hears(self, which: int) -> None:
        envoy, told = self.envoys[which], self.told[which]
        if envoy.stream and envoy.requests:
            request = envoy.requests.popleft()
            told.hear(request)
            envoy.stream.receive(request)

    @rule(which=ENVOYS)
    def the_hub_speaks(self, which: int) -> None:
        envoy = self.envoys[which]
        for response in envoy.stream.turns() if envoy.stream else ():
            if response is not None:
                self.told[which].check(response)
                envoy.responses.append(response)

    @rule(which=ENVOYS)
    def the_envoy_hears(self, which: int) -> None:
        if self.envoys[which].responses:
            self.envoys[which].hear()

    @precondition(lambda self: any(envoy.stream for envoy in self.envoys))
    @rule()
    def settle(self) -> None:
        for which, envoy in enumerate(self.envoys):
            if envoy.stream is None:
                continue
            said = True
            while said:
                while envoy.requests:
                    self.the_hub_hears(which)
                self.the_hub_speaks(which)
                said = bool(envoy.responses)
                while envoy.responses:
                    self.the_envoy_hears(which)
            self._has_what_it_is_to_have(envoy)

    @invariant()
    def statuses_can_be_told(self) -> None:
        nodes = [status.node for status in self.hub.statuses()]

        assert all(one < other for one, other in pairwise(nodes))

    def _use(self, *tenants: TenantPolicy, is_anew: bool) -> None:
        index = self.index or Index(domain=DOMAIN)
        self.index = index.after(change(*tenants, revision=self.revision, snapshot=is_anew or self.index is None))
        self.hub.use(self.index)

    def _has_what_it_is_to_have(self, envoy: ModelEnvoy) -> None:
        renderer = Renderer(self.source)
        # What the hub uses: it may not have been given the index yet.
        snapshot = Snapshot(renderer, renderer.statics(), envoy.stream.snapshot.index if envoy.stream else None)
        for url in ORDER:
            if not snapshot.knows(url):
                continue
            names = {*snapshot.names(url)} if url in envoy.everything else set()
            asked = envoy.asked.get(url, set())
            for name in names | asked:
                self._has(envoy, snapshot, (url, name))

            # As long as nothing is known of tenants, their routes may still lead to a cluster that is gone.
            kept = KEPT if snapshot.index is None else set()
            has = set(envoy.bodies.get(url, {}))
            assert has <= names | asked or url in kept, "nothing that is gone, or was given up"
            assert asked <= envoy.told.get(url, set()) | set(envoy.bodies.get(url, {})), "an answer for each name"

    @staticmethod
    def _has(envoy: ModelEnvoy, snapshot: Snapshot, key: tuple[str, str]) -> None:
        url, name = key
        body = envoy.bodies.get(url, {}).get(name)
        found = snapshot.find(url, name)
        if found is None and name in envoy.asked.get(url, set()):
            found = snapshot.stand_in(url, name)
        if found is None:
            assert body is None or (snapshot.index is None and url in KEPT)
        elif isinstance(found, Resource) and not (url == ROUTES and is_poisoned(found.body)):
            assert body == found.body
            assert envoy.versions[url][name] == found.version
        else:
            assert body is not None or name not in envoy.asked.get(url, set()), "whoever waits is answered"
            assert body is None or not is_poisoned(body)


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(max_examples=100, stateful_step_count=40)


def test_the_types_of_statics_come_before_those_of_tenants() -> None:
    assert ORDER[: len(STATIC_TYPES)] == STATIC_TYPES == (CLUSTER, SECRET, LISTENER)
