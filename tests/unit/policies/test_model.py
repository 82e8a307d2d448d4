"""What edges are told, and how far they are."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from control_plane.policies.model import Changes, Edge, Position, Revocation, Standing, denial_id

NOW = datetime(2030, 1, 2, tzinfo=UTC)
REPORTER = UUID(int=7)


def revocation(revision: int) -> Revocation:
    return Revocation(token_id=UUID(int=revision), tenant_uid=UUID(int=1), expire_time=NOW, revision=revision)


def changes(*revisions: int, is_snapshot: bool = False) -> Changes:
    return Changes(
        head=Position(feed="f", revision=max(revisions, default=9)),
        is_snapshot=is_snapshot,
        policies=(),
        revocations=[revocation(revision) for revision in revisions],
        as_of=NOW,
    )


def edge(name: str, revision: int, *, feed: str = "f", is_live: bool = True) -> Edge:
    return Edge(name=name, position=Position(feed=feed, revision=revision), is_live=is_live, last_seen=NOW)


def test_changes_beyond_a_revision_are_those_that_come_after_it() -> None:
    left = changes(3, 4, 5).beyond(4, not_before=NOW)

    assert [one.revision for one in left.revocations] == [5]
    assert left.head.revision == 5


def test_time_does_not_go_back() -> None:
    later, earlier = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)

    assert changes(3).beyond(2, not_before=later).as_of == later
    assert changes(3).beyond(2, not_before=earlier).as_of == NOW


def test_a_snapshot_says_something_even_without_tenants() -> None:
    assert changes().is_empty
    assert not changes(is_snapshot=True).is_empty
    assert not changes(1).is_empty


def test_live_edges_of_this_history_that_are_behind_lag() -> None:
    standing = Standing(
        head=Position(feed="f", revision=5),
        edges=[
            edge("there", 5),
            edge("ahead", 6),
            edge("behind", 4),
            edge("dead", 4, is_live=False),
            edge("elsewhere", 9, feed="g"),
        ],
    )

    assert standing.lagging(5) == ["behind", "elsewhere"]
    assert standing.lagging(5, expected={"dead", "there"}) == ["behind", "dead", "elsewhere"]
    assert standing.live_edges == 4


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1)), st.integers(1, 2**62), st.integers(0, 2000))  # noqa: DTZ001 given its zone below
def test_a_denials_id_is_a_uuid_7_of_its_moment_and_the_same_each_time(
    moment: datetime, sequence: int, index: int
) -> None:
    moment = moment.replace(tzinfo=UTC)
    made = denial_id(REPORTER, sequence, index, moment=moment)

    assert made == denial_id(REPORTER, sequence, index, moment=moment)
    assert (made.version, made.variant) == (7, UUID(int=0x8 << 60).variant)
    # Not by `timestamp`: a float is no longer exact to the millisecond that far from 1970.
    assert made.int >> 80 == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def test_each_denial_of_each_report_has_an_id_of_its_own() -> None:
    ids = {
        denial_id(UUID(int=reporter), sequence, index, moment=NOW)
        for reporter in range(5)
        for sequence in range(5)
        for index in range(5)
    }

    assert len(ids) == 125
