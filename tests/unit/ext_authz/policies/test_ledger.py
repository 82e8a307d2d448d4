"""Whoever follows a ledger, from wherever, ends up with what the ledger has."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies import ledger as ledgers
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.messages import Parts
from ext_authz.policies.model import Index
from tests.fixtures.edge_policies import DOMAIN, NOW, change, policy, token


class Follower:
    def __init__(self) -> None:
        self.index = Index(domain=DOMAIN)
        self.position: int | None = None
        self.snapshots = 0

    def reconnect(self, ledger: Ledger) -> None:
        self.position = ledger.position_of(self.index.feed, self.index.revision)

    def follow(self, ledger: Ledger) -> None:
        parts = Parts()
        for encoded in ledger.since(self.position):
            news = parts.add(policies_pb2.FollowPoliciesResponse.FromString(encoded))
            if news:
                assert self.index.refusal(news) is None

                self.index = self.index.after(news)
                self.snapshots += news.snapshot
        self.position = ledger.position


def first_ledger() -> Ledger:
    return Ledger(Index(domain=DOMAIN).after(change(policy(1), policy(2), revision=10, snapshot=True)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tenant", "purge", "token", "life", "snapshot", "feed", "follow", "reconnect"]),
        st.integers(1, 6),
    ),
    max_size=30,
)


@given(steps=STEPS, log_changes=st.integers(0, 4))
def test_a_follower_ends_up_with_what_the_ledger_has(steps: list[tuple[str, int]], log_changes: int) -> None:
    ledger, follower = first_ledger(), Follower()
    revision, feed, now = 10, "feed-1", NOW
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_LOG_CHANGES", log_changes)
        for kind, number in steps:
            revision += kind in {"tenant", "purge", "token", "snapshot"}
            now += timedelta(seconds=1)
            revoked = {token(number, tenant=number % 2): NOW + timedelta(seconds=number * 5)}
            if kind == "tenant":
                ledger.take(change(policy(number, revision=revision), feed=feed, revision=revision, as_of=now))
            elif kind == "purge":
                gone = change(feed=feed, revision=revision, as_of=now)
                ledger.take(replace(gone, purged=(f"org_{number}",)))
            elif kind == "token":
                ledger.take(change(feed=feed, revision=revision, as_of=now, revocations=revoked))
            elif kind == "life":
                ledger.take(change(feed=feed, revision=revision, as_of=now))
            elif kind == "snapshot":
                ledger.take(change(policy(number), feed=feed, revision=revision, as_of=now, snapshot=True))
            elif kind == "feed":
                revision, feed = number, feed + "'"
                ledger.take(change(policy(number), feed=feed, revision=revision, as_of=now, snapshot=True))
            elif kind == "follow":
                follower.follow(ledger)
            else:
                follower.reconnect(ledger)
        follower.follow(ledger)

    assert (follower.index.feed, follower.index.revision) == (ledger.index.feed, ledger.index.revision)
    assert follower.index.as_of == ledger.index.as_of
    assert follower.index.by_id == ledger.index.by_id
    assert follower.index.by_host == ledger.index.by_host
    living = {one for one, until in ledger.index.revoked.items() if until > now}
    assert living <= follower.index.revoked.keys()


def test_who_comes_back_is_given_only_what_it_lacks() -> None:
    ledger, follower = first_ledger(), Follower()
    follower.follow(ledger)
    ledger.take(change(policy(3, revision=11), revision=11))
    follower.reconnect(ledger)
    follower.follow(ledger)

    assert follower.index.by_id.keys() == {"org_1", "org_2", "org_3"}
    assert follower.snapshots == 1


def test_who_says_a_feed_or_a_revision_that_is_unknown_is_given_everything() -> None:
    ledger = first_ledger()

    assert ledger.position_of("feed-2", 10) is None
    assert ledger.position_of("feed-1", 9) is None
    assert ledger.position_of("feed-1", 11) is None
    assert ledger.position_of("feed-1", 10) is not None


@pytest.mark.parametrize(("bound", "value"), [("_LOG_CHANGES", 2), ("_LOG_SIZE", 1)])
def test_who_lacks_more_than_is_kept_is_given_everything(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, bound, value)
    ledger = first_ledger()
    start = ledger.position
    for revision in (11, 12, 13):
        ledger.take(change(policy(3, revision=revision), revision=revision))
    first = policies_pb2.FollowPoliciesResponse.FromString(next(ledger.since(start)))

    assert ledger.position_of("feed-1", 10) is None
    assert first.snapshot


def test_a_large_ledger_is_sent_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_PART_SIZE", 500)
    many = [policy(number) for number in range(1, 50)]
    ledger = Ledger(Index(domain=DOMAIN).after(change(*many, revision=1, snapshot=True)))
    parts = list(ledger.everything())
    follower = Follower()
    follower.follow(ledger)

    assert len(parts) > 10
    assert max(map(len, parts)) < 1000
    assert len(follower.index.by_id) == 49


def test_what_is_sent_is_what_was_there_when_it_was_asked_for() -> None:
    ledger = first_ledger()
    parts = ledger.everything()
    ledger.take(change(policy(3, revision=11), revision=11))

    assert sum(len(policies_pb2.FollowPoliciesResponse.FromString(part).tenants) for part in parts) == 2
