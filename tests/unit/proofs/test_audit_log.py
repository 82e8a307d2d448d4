"""What is signed of an audit log, and what does not pass for it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from control_plane.proofs.audit_log import (
    KEY_TYPE,
    OVERLAP,
    AuditKey,
    Checkpoint,
    ForgedError,
    LogKeys,
    PublishedKey,
    Signature,
    Signatures,
    SignedCheckpoint,
)
from control_plane.proofs.envelope import signed_bytes

TENANT: Final = UUID("01890000-0000-7000-8000-000000000001")
OTHER: Final = UUID("01890000-0000-7000-8000-000000000002")
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Signer:
    """A key pair that signs as DSSE has it."""

    number: int
    private_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def key_id(self) -> UUID:
        return UUID(int=self.number)

    @property
    def public(self) -> bytes:
        return self.private_key.public_key().public_bytes_raw()

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        return self.private_key.sign(signed_bytes(payload_type, payload))


PLATFORM: Final = Signer(100)
SIGNERS: Final = [Signer(number) for number in (1, 2, 3)]


def audit_key(version: int, **changes: Any) -> AuditKey:
    """Say that a version signs from the day of its number on."""
    signer = SIGNERS[version - 1]
    unchanged = AuditKey(
        tenant="tenants/org_1",
        tenant_uid=TENANT,
        version=version,
        key_id=signer.key_id,
        public=signer.public,
        start_time=START + version * DAY,
        previous_version=version - 1,
    )
    return replace(unchanged, **changes)


def published(key: AuditKey, *signers: Signer) -> PublishedKey:
    payload = key.payload()
    return PublishedKey(
        payload=payload,
        signatures=[Signature(key_id=each.key_id, signature=each.sign(KEY_TYPE, payload)) for each in signers],
    )


def vouchers_of(version: int) -> list[Signer]:
    return [PLATFORM, *SIGNERS[max(version - 2, 0) : version]]


ALL: Final = [published(audit_key(version), *vouchers_of(version)) for version in (1, 2, 3)]


def vouched(keys: Sequence[PublishedKey] = ALL, *, by: Sequence[Signer] = (PLATFORM,)) -> LogKeys:
    return LogKeys.vouched(TENANT, keys, given=[each.public for each in by])


def checkpoint(version: int = 1, **changes: Any) -> Checkpoint:
    unchanged = Checkpoint(
        tenant="tenants/org_1",
        tenant_uid=TENANT,
        sequence=7,
        head=bytes(range(32)),
        time=START + version * DAY,
        key_version=version,
        key_id=SIGNERS[version - 1].key_id,
    )
    return replace(unchanged, **changes)


def refused(signed: SignedCheckpoint, keys: LogKeys | None = None) -> str:
    with pytest.raises(ForgedError) as raised:
        (keys or vouched()).accepted(signed)
    return str(raised.value)


def test_a_checkpoint_is_canonical_json() -> None:
    assert checkpoint().payload() == (
        b'{"head":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",'
        b'"key_id":"00000000-0000-0000-0000-000000000001","key_version":1,"sequence":"7","tenant":"tenants/org_1",'
        b'"tenant_uid":"01890000-0000-7000-8000-000000000001","time":"2026-01-02T00:00:00+00:00"}'
    )


def test_a_published_key_says_until_when_the_one_before_it_signed() -> None:
    assert b'"previous":null' in audit_key(1).payload()
    assert b'"previous":{"end_time":"2026-01-03T00:01:00+00:00","version":1}' in audit_key(2).payload()


@given(sequence=st.integers(1, 2**63 - 1), head=st.binary(min_size=32, max_size=32), time=st.datetimes())
def test_what_is_written_is_read(sequence: int, head: bytes, time: datetime) -> None:
    said = checkpoint(sequence=sequence, head=head, time=time.replace(tzinfo=UTC))

    assert Checkpoint.read(said.payload()) == said


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_published_key_is_read_as_it_was_written(version: int) -> None:
    assert AuditKey.read(audit_key(version).payload()) == audit_key(version)


@given(st.one_of(st.binary(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)))
def test_what_is_none_is_forged_and_no_fault(payload: bytes) -> None:
    for kind in (Checkpoint, AuditKey):
        with pytest.raises(ForgedError):
            kind.read(payload)


@given(st.sampled_from(["tenant_uid", "sequence", "head", "time", "key_version", "key_id"]), st.none() | st.floats())
def test_a_checkpoint_with_something_else_in_a_field_is_forged(name: str, value: object) -> None:
    said = {**_said(checkpoint().payload()), name: value}
    with pytest.raises(ForgedError):
        Checkpoint.read(repr(said).replace("None", "null").replace("'", '"').encode())


def _said(payload: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(payload)
    return said


@pytest.mark.behaviour("S2.14")
def test_a_checkpoint_is_accepted_of_each_version_for_as_long_as_it_signed() -> None:
    for version in (1, 2, 3):
        first = checkpoint(version)
        assert vouched().accepted(first.signed(SIGNERS[version - 1].sign)) == first
    for version in (1, 2):
        last = checkpoint(version, time=START + (version + 1) * DAY + OVERLAP - MICROSECOND)
        assert vouched().accepted(last.signed(SIGNERS[version - 1].sign)) == last
    later = checkpoint(3, time=START + 9999 * DAY)
    assert vouched().accepted(later.signed(SIGNERS[2].sign)) == later


@pytest.mark.behaviour("S2.14")
@pytest.mark.parametrize(
    ("version", "time"), [(1, START + DAY - MICROSECOND), (1, START + 2 * DAY + OVERLAP), (3, START + 2 * DAY)]
)
def test_a_checkpoint_of_a_time_at_which_its_key_did_not_sign_is_forged(version: int, time: datetime) -> None:
    signed = checkpoint(version, time=time).signed(SIGNERS[version - 1].sign)

    assert refused(signed) == "a checkpoint is of a time at which its key did not sign"


def test_a_checkpoint_of_another_key_tenant_or_place_is_forged() -> None:
    by_another = checkpoint(1).signed(SIGNERS[1].sign)
    by_none = checkpoint(1, key_version=4).signed(SIGNERS[0].sign)
    by_another_id = checkpoint(1, key_id=SIGNERS[1].key_id).signed(SIGNERS[0].sign)
    of_another_tenant = checkpoint(1, tenant_uid=OTHER).signed(SIGNERS[0].sign)
    elsewhere = replace(checkpoint(1).signed(SIGNERS[0].sign), sequence=8)

    assert refused(by_another) == "a checkpoint was not signed by its key"
    assert refused(by_none) == refused(by_another_id) == "a checkpoint names a key that nobody vouches for"
    assert refused(of_another_tenant) == "a checkpoint is of another tenant"
    assert refused(elsewhere) == "a checkpoint is of another place"


@given(st.data())
def test_of_a_signed_checkpoint_no_bit_can_be_changed(data: st.DataObject) -> None:
    signed = checkpoint(1).signed(SIGNERS[0].sign)
    content = bytearray(signed.payload + signed.signature)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    size = len(signed.payload)

    assert refused(replace(signed, payload=bytes(content[:size]), signature=bytes(content[size:])))


def test_a_signature_over_another_kind_of_payload_is_none() -> None:
    payload = checkpoint(1).payload()
    signed = SignedCheckpoint(sequence=7, payload=payload, signature=SIGNERS[0].sign(KEY_TYPE, payload))

    assert refused(signed) == "a checkpoint was not signed by its key"


@pytest.mark.behaviour("S2.14")
def test_who_has_the_platforms_key_believes_all_versions() -> None:
    assert [key.version for key in vouched().keys] == [1, 2, 3]
    assert vouched().first_forged == 0
    assert [vouched().end_time(version) for version in (1, 2, 3)] == [
        START + 2 * DAY + OVERLAP,
        START + 3 * DAY + OVERLAP,
        None,
    ]


def test_who_has_kept_a_key_of_the_logs_own_believes_what_follows_from_it() -> None:
    by_the_first = vouched(by=SIGNERS[:1])
    by_the_second = vouched(by=SIGNERS[1:2])

    assert [key.version for key in by_the_first.keys] == [1, 2, 3]
    # Nothing says that the first was its own.
    assert (by_the_second.keys, by_the_second.first_forged) == ([], 1)


@pytest.mark.parametrize(
    ("number", "key", "signers"),
    [
        (1, audit_key(1), [SIGNERS[0]]),
        (1, audit_key(1), [PLATFORM]),
        (1, audit_key(1, tenant_uid=OTHER), vouchers_of(1)),
        (2, audit_key(2), [SIGNERS[0], SIGNERS[1]]),
        (2, audit_key(2), [PLATFORM, SIGNERS[1]]),
        (2, audit_key(2), [PLATFORM, SIGNERS[0]]),
        (2, audit_key(2, tenant_uid=OTHER), vouchers_of(2)),
        (2, audit_key(2, previous_version=0), vouchers_of(2)),
        (2, replace(audit_key(2), version=1, previous_version=1), vouchers_of(2)),
        (2, audit_key(2, start_time=START + DAY), vouchers_of(2)),
        (2, audit_key(2, public=SIGNERS[2].public), vouchers_of(2)),
        (3, audit_key(3, previous_version=1), vouchers_of(3)),
    ],
)
def test_a_version_that_is_not_vouched_for_is_named_and_ends_what_is_believed(
    number: int, key: AuditKey, signers: list[Signer]
) -> None:
    keys = [*ALL[: number - 1], published(key, *signers), *ALL[number:]]

    assert vouched(keys).first_forged == number
    assert [each.version for each in vouched(keys).keys] == list(range(1, number))


def test_a_stolen_version_makes_no_newer_one_for_who_asks_the_platform() -> None:
    thief = Signer(2)
    made = published(audit_key(2, public=thief.public), SIGNERS[0], thief)

    assert vouched([ALL[0], made]).first_forged == 2
    # Who believes the log's own keys alone has to renew what was kept after each rotation.
    assert vouched([ALL[0], made], by=SIGNERS[:1]).first_forged == 0


@pytest.mark.parametrize("missing", [0, 1])
def test_a_version_that_is_missing_is_noticed_but_at_the_end(missing: int) -> None:
    keys = [*ALL[:missing], *ALL[missing + 1 :]]

    assert vouched(keys).first_forged == missing + 1
    assert vouched(ALL[:2]).first_forged == 0


def test_without_keys_nothing_is_believed() -> None:
    assert vouched(by=[]).first_forged == 1
    assert vouched([]).first_forged == 0
    assert refused(checkpoint(1).signed(SIGNERS[0].sign), vouched([]))


def test_how_far_a_log_is_signed_is_its_newest_checkpoint_that_holds() -> None:
    signatures = Signatures(vouched())
    first, second = checkpoint(1), checkpoint(2, sequence=9, head=bytes(32))
    held = [
        signatures.hold(first.signed(SIGNERS[0].sign), head=first.head),
        signatures.hold(second.signed(SIGNERS[1].sign), head=second.head),
    ]

    assert held == [True, True]
    assert (signatures.sequence, signatures.last, signatures.first_forged) == (9, second, 0)


def test_a_head_that_was_not_signed_is_told_from_a_checkpoint_that_is_forged() -> None:
    signatures = Signatures(vouched())
    genuine, forged = checkpoint(1).signed(SIGNERS[0].sign), checkpoint(1).signed(SIGNERS[1].sign)

    assert signatures.hold(forged, head=bytes(32))
    assert (signatures.sequence, signatures.first_forged) == (0, 7)
    assert not signatures.hold(genuine, head=bytes(32))


def test_payloads_are_as_rfc_8785_has_them() -> None:
    for payload in (checkpoint().payload(), audit_key(2).payload()):
        assert rfc8785.dumps(_said(payload)) == payload
