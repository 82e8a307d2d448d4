"""Policies and edges as messages."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from bulkhead.edge.v1 import policies_pb2
from bulkhead.v1 import edges_pb2
from control_plane.policies import wire
from control_plane.policies.model import Changes, Position, Purged, Revocation, TenantPolicy

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def policy(number: int) -> TenantPolicy:
    return TenantPolicy(
        tenant_id=f"org_{number}",
        uid=UUID(int=number),
        revision=number,
        state="ACTIVE",
        tier="standard",
        isolation_level="POOLED",
        dns_label=f"org-{number}",
        domains=(),
        requests_per_minute=60,
        token_keys={},
        max_policy_age=timedelta(minutes=15),
    )


def changes(tenants: int, revocations: int) -> Changes:
    return Changes(
        head=Position(feed="f", revision=9),
        is_snapshot=True,
        policies=[policy(number) for number in range(tenants)],
        revocations=[
            Revocation(token_id=UUID(int=n), tenant_uid=UUID(int=n), expire_time=NOW, revision=n)
            for n in range(revocations)
        ],
        as_of=NOW,
    )


@pytest.mark.parametrize(
    ("tenants", "revocations", "parts"),
    [(0, 0, 1), (500, 0, 1), (501, 0, 2), (0, 5001, 2), (1, 5001, 2), (1001, 1, 3)],
)
def test_changes_are_cut_into_parts_of_which_all_but_the_last_go_on(tenants: int, revocations: int, parts: int) -> None:
    messages = list(wire.to_responses(changes(tenants, revocations)))

    assert [message.continues for message in messages] == [True] * (parts - 1) + [False]
    assert [message.snapshot for message in messages] == [True] + [False] * (parts - 1)
    assert {(message.feed, message.revision) for message in messages} == {("f", 9)}
    assert [t.uid for m in messages for t in m.tenants] == [str(UUID(int=n)) for n in range(tenants)]
    assert [r.token_id for m in messages for r in m.revocations] == [str(UUID(int=n)) for n in range(revocations)]


def test_who_is_no_more_is_told_once_and_with_the_change_that_it_belongs_to() -> None:
    gone = replace(changes(501, 0), is_snapshot=False, purged=[Purged(tenant_id="org_9", revision=9)])
    messages = list(wire.to_responses(gone))

    assert [list(message.purged_tenants) for message in messages] == [["org_9"], []]
    assert not gone.is_empty
    assert not gone.beyond(9, not_before=NOW).purged


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (policies_pb2.ProxyStatus.DESCRIPTOR, edges_pb2.Edge.Proxy.DESCRIPTOR),
        (policies_pb2.ResourceTypeStatus.DESCRIPTOR, edges_pb2.Edge.ResourceType.DESCRIPTOR),
    ],
    ids=["proxy", "resource type"],
)
def test_what_an_edge_says_of_a_proxy_is_what_people_are_shown(said: object, shown: object) -> None:
    def fields(descriptor: object) -> dict[int, tuple[str, int]]:
        return {field.number: (field.name, field.type) for field in descriptor.fields}  # type: ignore[attr-defined]  # a descriptor

    assert fields(said) == fields(shown)


def test_what_an_edge_says_of_a_proxy_is_short() -> None:
    resources = policies_pb2.ResourceTypeStatus(type_url="t" * 1000, error="e" * 1000)
    said = policies_pb2.ProxyStatus(node="n" * 1000, version="v" * 1000, types=[resources])
    kept = edges_pb2.Edge.FromString(wire.proxies_of(policies_pb2.AcknowledgePoliciesRequest(proxies=[said])))
    (shown,) = kept.proxies

    assert (shown.node, shown.version) == ("n" * 300, "v" * 300)
    assert (shown.types[0].type_url, shown.types[0].error) == ("t" * 300, "e" * 300)


def test_the_states_of_a_resource_type_are_the_same_on_both_sides() -> None:
    said: dict[str, int] = dict(policies_pb2.ResourceTypeStatus.State.items())

    assert said == dict(edges_pb2.Edge.ResourceType.State.items())
