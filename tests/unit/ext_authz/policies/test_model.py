"""An index finds every tenant by all that is its own, after any history, and never changes."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ext_authz.policies.model import Change, Index, State, TenantPolicy, TenantToken
from tests.fixtures.edge_policies import DOMAIN, FEED, NOW, change, policy, token

HOSTS = [f"h{number}.example.net" for number in range(6)]
NUMBERS = st.integers(1, 5)
# More than there are tenants, so that some move.
OWNED = st.lists(st.tuples(NUMBERS, st.sampled_from(State)), min_size=1, max_size=4)


def contents(index: Index) -> tuple[Any, ...]:
    return (
        index.feed,
        index.revision,
        index.as_of,
        dict(index.by_id),
        dict(index.by_host),
        dict(index.by_kid),
        dict(index.revoked),
    )


class History(RuleBasedStateMachine):
    """Changes one after the other, against what is there worked out from nothing each time."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(domain=DOMAIN)
        self.revision = 0
        self.feed = FEED
        self.now = NOW
        self.tenants: dict[str, TenantPolicy] = {}
        self.revoked: dict[TenantToken, datetime] = {}
        self.before: list[tuple[Index, tuple[Any, ...]]] = []

    @rule(number=NUMBERS, others=st.booleans())
    def a_tenant_is_purged(self, number: int, *, others: bool) -> None:
        """Alone, or together with news of the others."""
        self.revision += 1
        name = f"org_{number}"
        self.tenants.pop(name, None)
        kept = [replace(held, revision=self.revision) for held in self.tenants.values()] if others else []
        self.tenants |= {held.tenant_id: held for held in kept}
        purged = change(*kept, feed=self.feed, revision=self.revision, as_of=self.now)
        self.apply(replace(purged, purged=(name,)))

    @rule(owned=OWNED, data=st.data(), snapshot=st.booleans())
    def tenants_change(self, owned: list[tuple[int, State]], data: st.DataObject, *, snapshot: bool) -> None:
        self.revision += 1
        if snapshot:
            self.tenants, self.revoked = {}, {}
        changing = {f"org_{number}" for number, _ in owned}
        taken = {host for name, held in self.tenants.items() if name not in changing for host in held.domains}
        free = data.draw(st.permutations([host for host in HOSTS if host not in taken]))
        policies = []
        for position, (number, state) in enumerate(owned):
            # A host is nobody else's at the end; on the way there it may be in two versions of one tenant.
            mine = [host for at, host in enumerate(free) if at % 5 == number - 1]
            domains = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
            kids = [number * 10 + data.draw(st.integers(0, 2)), 1000 * self.revision + position]
            policies.append(policy(number, revision=self.revision, state=state, domains=domains, kids=kids))
        self.tenants |= {held.tenant_id: held for held in policies}
        self.apply(change(*policies, feed=self.feed, revision=self.revision, snapshot=snapshot, as_of=self.now))

    @rule(number=st.integers(1, 9), tenant=NUMBERS, lives_s=st.integers(-5, 50))
    def a_token_is_revoked(self, number: int, tenant: int, lives_s: int) -> None:
        self.revision += 1
        revocation = {token(number, tenant=tenant): self.now + timedelta(seconds=lives_s)}
        self.revoked |= revocation
        self.apply(change(feed=self.feed, revision=self.revision, revocations=revocation, as_of=self.now))

    @rule(seconds=st.integers(1, 30))
    def nothing_changes_but_the_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.apply(change(feed=self.feed, revision=self.revision, as_of=self.now))

    @initialize()
    def a_feed_begins(self) -> None:
        self.another_feed_begins_anew()

    @rule()
    def another_feed_begins_anew(self) -> None:
        self.feed += "'"
        self.revision, self.tenants, self.revoked = 1, {}, {}
        self.apply(change(feed=self.feed, revision=1, snapshot=True, as_of=self.now))

    def apply(self, news: Change) -> None:
        assert self.index.refusal(news) is None

        self.before.append((self.index, contents(self.index)))
        self.index = self.index.after(news)

    @invariant()
    def every_tenant_is_found_by_all_that_is_its_own_and_by_nothing_else(self) -> None:
        tenants = self.tenants.values()

        assert self.index.by_id == self.tenants
        assert self.index.by_host == {host: held for held in tenants for host in held.hosts(DOMAIN)}
        assert self.index.by_kid == {kid: held for held in tenants for kid in held.token_keys}
        assert (self.index.feed, self.index.revision) == (self.feed, self.revision)

    @invariant()
    def a_revocation_is_held_until_its_token_has_expired(self) -> None:
        living = {one: until for one, until in self.revoked.items() if until > self.now}
        held: Mapping[TenantToken, datetime] = self.index.revoked

        assert living.items() <= held.items() <= self.revoked.items()

    @invariant()
    def indexes_of_before_are_as_they_were(self) -> None:
        assert all(contents(index) == was for index, was in self.before)


TestHistory = History.TestCase


def test_a_host_that_moves_leads_to_its_new_tenant_whichever_comes_first() -> None:
    first = Index(domain=DOMAIN).after(change(policy(1, domains=["a.net"]), policy(2), revision=1, snapshot=True))
    giver, taker = policy(1, revision=2), policy(2, revision=2, domains=["a.net"])

    for pair in ((giver, taker), (taker, giver)):
        assert first.after(change(*pair, revision=2)).by_host["a.net"] is taker


def test_a_host_and_a_key_that_were_given_up_lead_nowhere() -> None:
    first = Index(domain=DOMAIN).after(change(policy(1, domains=["a.net"], kids=[10, 11]), revision=1, snapshot=True))
    kept = policy(1, revision=2, kids=[11])
    after = first.after(change(kept, revision=2))

    assert "a.net" not in after.by_host
    assert dict(after.by_kid) == dict.fromkeys(kept.token_keys, kept)
    assert len(first.by_kid) == 2


def test_a_snapshot_forgets_what_it_does_not_hold() -> None:
    hour = NOW + timedelta(hours=1)
    first = Index(domain=DOMAIN).after(
        change(policy(1, domains=["a.net"], kids=[10]), revision=1, snapshot=True, revocations={token(7): hour})
    )
    after = first.after(change(policy(2), revision=2, snapshot=True))

    assert after.by_id.keys() == {"org_2"}
    assert "a.net" not in after.by_host
    assert dict(after.by_kid) == dict.fromkeys(after.by_id["org_2"].token_keys, after.by_id["org_2"])
    assert dict(after.revoked) == {}


def test_hosts_that_change_places_lead_to_their_new_tenants() -> None:
    first = Index(domain=DOMAIN).after(
        change(policy(1, domains=["a.net"]), policy(2, domains=["b.net"]), revision=1, snapshot=True)
    )
    one, two = policy(1, revision=2, domains=["b.net"]), policy(2, revision=2, domains=["a.net"])
    after = first.after(change(one, two, revision=2))

    assert (after.by_host["a.net"], after.by_host["b.net"]) == (two, one)


def test_tenants_revoke_the_same_id_each_for_itself() -> None:
    hour = NOW + timedelta(hours=1)
    index = Index(domain=DOMAIN).after(change(policy(1), policy(2), revision=1, snapshot=True))
    by_two = index.after(change(revision=2, revocations={token(7, tenant=2): hour}))
    by_both = by_two.after(change(revision=3, revocations={token(7, tenant=1): hour}))

    assert by_two.revoked.keys() == {token(7, tenant=2)}
    assert by_both.revoked.keys() == {token(7, tenant=1), token(7, tenant=2)}


def test_revocations_of_expired_tokens_are_dropped_as_others_come() -> None:
    hour = timedelta(hours=1)
    first = change(policy(1), revision=1, snapshot=True, revocations={token(7): NOW + hour})
    later = change(revision=2, as_of=NOW + hour, revocations={token(8): NOW + 2 * hour})

    assert Index(domain=DOMAIN).after(first).after(later).revoked.keys() == {token(8)}


def test_a_change_that_goes_back_is_refused() -> None:
    index = Index(domain=DOMAIN).after(change(policy(1), revision=5, snapshot=True))

    assert index.refusal(change(policy(1), revision=4)) == "it goes back from revision 5 to 4"
    assert index.refusal(change(policy(1), revision=4, snapshot=True)) is not None
    assert index.refusal(change(revision=5)) is None


def test_another_feed_is_taken_whole_or_not_at_all() -> None:
    index = Index(domain=DOMAIN).after(change(policy(1), revision=5, snapshot=True))

    assert index.refusal(change(policy(1), feed="feed-2", revision=6)) == "it continues a feed that is not held"
    assert index.refusal(change(policy(1), feed="feed-2", revision=1, snapshot=True)) is None
    assert index.refusal(change(policy(1), feed="", revision=6, snapshot=True)) == "it belongs to no feed"


def test_a_purged_tenant_is_found_by_nothing_of_its_own() -> None:
    known = Index(domain=DOMAIN).after(change(policy(1, kids=[11]), policy(2), revision=1, snapshot=True))
    index = known.after(replace(change(revision=2), purged=("org_1", "org_7")))

    assert list(index.by_id) == ["org_2"]
    assert {held.tenant_id for held in (*index.by_host.values(), *index.by_kid.values())} == {"org_2"}
    assert "org_1" in known.by_id
