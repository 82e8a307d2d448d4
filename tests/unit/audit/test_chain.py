"""The chain of hashes over audit entries, and what it notices."""

import hashlib
import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from control_plane.audit.model import Chain, Position, Record, Seal, canonical

TENANT = UUID("01890000-0000-7000-8000-000000000001")
OTHER = UUID("01890000-0000-7000-8000-000000000002")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def record(number: int, **changes: Any) -> Record:
    unchanged = Record(
        id=UUID(int=number),
        xact=100 + number,
        create_time_us="1700000000000000",
        actor="tenant-admin:admin",
        method="/bulkhead.v1.TokenService/IssueToken",
        resource="tenants/org_1/tokens/1",
        outcome="EFFECT",
        reason="",
        request_id="r",
        count=1,
        details="{}",
    )
    return replace(unchanged, **changes)


def sealed(records: list[Record]) -> list[Seal]:
    chain = Chain(TENANT)
    return [chain.extend(item) for item in records]


def first_broken(seals: list[Seal], records: list[Record]) -> int:
    chain = Chain(TENANT)
    for seal, item in zip(seals, records, strict=True):
        expected = chain.sequence + 1
        if not chain.accepts(seal, item):
            return expected
    return 0


def test_a_link_covers_the_link_before_and_the_canonical_entry() -> None:
    first, second = record(1), record(2)
    genesis = hashlib.sha256(b"bulkhead audit log 1\n" + TENANT.bytes).digest()
    one = hashlib.sha256(genesis + canonical(first, TENANT, sequence=1)).digest()
    two = hashlib.sha256(one + canonical(second, TENANT, sequence=2)).digest()

    assert [seal.hash for seal in sealed([first, second])] == [one, two]


def test_the_canonical_form_is_jcs_over_every_column() -> None:
    text = canonical(record(1, details='{"b": 1.0, "a": "é"}'), TENANT, sequence=7)
    fields = json.loads(text)

    assert rfc8785.dumps(fields) == text
    assert fields["details"] == {"a": "é", "b": 1}
    assert fields.keys() == set(Record.__slots__) | {"tenant", "sequence"}


def test_a_chain_that_was_stopped_goes_on_as_if_it_had_not_been() -> None:
    records = [record(number) for number in range(1, 6)]
    whole = sealed(records)
    resumed = Chain(TENANT, whole[2])

    assert [resumed.extend(item) for item in records[3:]] == whole[3:]


def test_a_chain_refuses_an_entry_that_does_not_come_after_the_last() -> None:
    chain = Chain(TENANT)
    chain.extend(record(5))

    for late in (record(5), record(4), record(9, xact=104)):
        with pytest.raises(ValueError, match="does not come after"):
            chain.extend(late)


def test_the_same_entry_has_another_link_in_another_tenants_log() -> None:
    assert Chain(TENANT).extend(record(1)).hash != Chain(OTHER).extend(record(1)).hash


def test_positions_are_ordered_by_transaction_and_then_by_id() -> None:
    assert Position(1, UUID(int=9)) < Position(2, UUID(int=1)) < Position(2, UUID(int=2))


@pytest.mark.behaviour("T-L1")
@pytest.mark.parametrize(
    "change",
    [
        {"id": UUID(int=999)},
        {"xact": 1_000_000},
        {"create_time_us": "1700000000000001"},
        {"create_time_us": "Infinity"},
        {"actor": "tenant-admin:mallory"},
        {"method": "/bulkhead.v1.TokenService/RevokeToken"},
        {"resource": "tenants/org_1/tokens/2"},
        {"outcome": "DENIED"},
        {"reason": "R"},
        {"request_id": "s"},
        {"count": 2},
        {"count": 2**60},
        {"details": '{"a": 1}'},
        {"details": '{"a": 1' + 500 * "0" + "}"},
        {"details": "[" * 5000 + "]" * 5000},
    ],
    ids=lambda change: ",".join(f"{key}={str(value)[:20]}" for key, value in change.items()),
)
def test_a_change_of_any_column_breaks_the_chain_there(change: dict[str, Any]) -> None:
    records = [record(number) for number in range(1, 6)]
    seals = sealed(records)
    records[2] = replace(records[2], **change)

    assert first_broken(seals, records) == 3


@given(fields=st.fixed_dictionaries(dict.fromkeys(("actor", "resource", "reason", "request_id"), TEXT)))
def test_no_two_entries_share_a_canonical_form(fields: dict[str, str]) -> None:
    """What separates one column from the next cannot be part of a value."""
    one = record(1, **fields)
    shifted = record(
        1, **{**fields, "actor": fields["actor"] + fields["resource"][:1], "resource": fields["resource"][1:]}
    )

    assert (canonical(one, TENANT, sequence=1) == canonical(shifted, TENANT, sequence=1)) == (one == shifted)


def test_a_missing_entry_breaks_the_chain() -> None:
    (seal,) = sealed([record(1)])

    assert not Chain(TENANT).accepts(seal, None)
