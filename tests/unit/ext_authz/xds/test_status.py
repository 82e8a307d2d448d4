"""Envoys that went are remembered for an hour, and not too many."""

from datetime import UTC, datetime

from bulkhead.envoy.v3 import discovery_pb2
from ext_authz.xds.snapshot import Renderer, Snapshot
from ext_authz.xds.status import Departed
from ext_authz.xds.stream import Stream
from tests.fixtures.plain_resources import PlainResources


def stream_of(node: str) -> Stream:
    snapshot = Snapshot(Renderer(PlainResources()), {})
    stream = Stream(snapshot, generation=0, nonces=lambda: "1", now=datetime(2026, 1, 1, tzinfo=UTC))
    stream.receive(discovery_pb2.DeltaDiscoveryRequest(node=discovery_pb2.Node(id=node)))
    return stream


def test_an_envoy_is_forgotten_an_hour_after_it_went() -> None:
    now_s = 0.0
    departed = Departed(clock_s=lambda: now_s)
    departed.add(stream_of("first"))
    now_s = 3599.0
    departed.add(stream_of("second"))
    within_the_hour = set(departed.statuses())
    now_s = 3600.0

    assert within_the_hour == {"first", "second"}
    assert set(departed.statuses()) == {"second"}


def test_no_more_than_a_hundred_are_remembered() -> None:
    departed = Departed()
    for number in range(150):
        departed.add(stream_of(f"edge-{number}"))

    assert set(departed.statuses()) == {f"edge-{number}" for number in range(50, 150)}


def test_a_long_name_is_cut() -> None:
    departed = Departed()
    departed.add(stream_of("e" * 100_000))

    assert [len(node) for node in departed.statuses()] == [200]
