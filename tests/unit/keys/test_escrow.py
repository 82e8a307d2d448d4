"""Copies of keys for an escrow."""

from dataclasses import replace
from typing import Final
from uuid import UUID

import pytest

from control_plane.keys.escrow import EscrowKey, check, check_voucher, copied, opened, root_check, voucher
from control_plane.keys.model import Binding, IntegrityError
from control_plane.recipients.hpke import PrivateKey

KEY: Final = PrivateKey(seed=bytes(range(32)))
ESCROW: Final = EscrowKey(id=UUID(int=1), public=KEY.public, terms_digest=b"terms", check_key_id=UUID(int=2))
BINDING: Final = Binding(tenant_uid=UUID(int=3), purpose="key/storage/AES-256-GCM", version=1, object_name="a")
PRIVATE: Final = b"the private half of a key"
CHECK_KEY: Final = bytes(32)
COPY: Final = copied(ESCROW, BINDING, PRIVATE, check_key=CHECK_KEY)
OTHERS: Final = [
    replace(BINDING, tenant_uid=UUID(int=9)),
    replace(BINDING, purpose="key/services/AES-256-GCM"),
    replace(BINDING, version=2),
    replace(BINDING, object_name="b"),
]


def test_a_copy_opens_with_the_escrows_private_key_and_is_known_to_be_ours() -> None:
    assert opened(COPY, BINDING, key=KEY) == PRIVATE
    check(COPY, BINDING, PRIVATE, check_key=CHECK_KEY)


@pytest.mark.parametrize("other", OTHERS)
def test_a_copy_opens_for_no_other_tenant_purpose_version_or_row(other: Binding) -> None:
    with pytest.raises(IntegrityError):
        opened(COPY, other, key=KEY)


def test_a_copy_opens_for_no_other_escrow_and_with_no_other_key() -> None:
    with pytest.raises(IntegrityError):
        opened(replace(COPY, escrow_id=UUID(int=9)), BINDING, key=KEY)
    with pytest.raises(IntegrityError):
        opened(COPY, BINDING, key=PrivateKey(seed=bytes(32)))


@pytest.mark.parametrize("other", OTHERS)
def test_a_check_value_is_of_one_row(other: Binding) -> None:
    with pytest.raises(IntegrityError):
        check(COPY, other, PRIVATE, check_key=CHECK_KEY)


def test_what_somebody_else_has_sealed_to_the_escrow_is_not_ours() -> None:
    """Everybody may know the public key, but not the check key."""
    theirs = copied(ESCROW, BINDING, b"a key of theirs", check_key=b"\1" * 32)

    assert opened(theirs, BINDING, key=KEY) == b"a key of theirs"
    with pytest.raises(IntegrityError):
        check(theirs, BINDING, b"a key of theirs", check_key=CHECK_KEY)
    with pytest.raises(IntegrityError):
        check(replace(COPY, escrow_id=UUID(int=9)), BINDING, PRIVATE, check_key=CHECK_KEY)


def test_the_check_key_is_known_by_who_has_the_escrows_private_key_alone() -> None:
    assert root_check(KEY, CHECK_KEY) != root_check(KEY, b"\1" * 32)
    assert root_check(KEY, CHECK_KEY) != root_check(PrivateKey(seed=bytes(32)), CHECK_KEY)


def test_nothing_is_sealed_to_an_escrow_that_is_not_as_we_made_it() -> None:
    vouched = replace(ESCROW, voucher=voucher(ESCROW, check_key=CHECK_KEY))
    check_voucher(vouched, check_key=CHECK_KEY)

    for changed in (
        ESCROW,
        replace(vouched, id=UUID(int=9)),
        replace(vouched, public=PrivateKey(seed=bytes(32)).public),
        replace(vouched, terms_digest=b"others"),
        replace(ESCROW, voucher=voucher(ESCROW, check_key=b"\1" * 32)),
    ):
        with pytest.raises(IntegrityError):
            check_voucher(changed, check_key=CHECK_KEY)


def test_a_copy_does_not_show_itself() -> None:
    assert repr(COPY.sealed) not in repr(COPY)
    assert repr(COPY.check_value) not in repr(COPY)
