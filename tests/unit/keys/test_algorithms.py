"""Which algorithms go together, and that a tenant's wish is never weakened."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from control_plane.keys.algorithms import (
    AUTHORITIES,
    STORED_AS,
    CertificatePolicy,
    KeyAlgorithm,
    PostQuantum,
    algorithm_of,
    new_key,
)
from control_plane.token_keys import TokenAlgorithm, new_token_key, read_token_key, token_algorithm_of, write_token_key

POLICIES = st.builds(
    CertificatePolicy,
    authority=st.sampled_from(KeyAlgorithm),
    keys=st.frozensets(st.sampled_from(KeyAlgorithm)),
    post_quantum=st.sampled_from(PostQuantum),
)


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_a_new_key_is_what_was_asked_for(algorithm: KeyAlgorithm) -> None:
    assert algorithm_of(new_key(algorithm).public_key()) is algorithm


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
def test_a_key_for_tokens_is_read_as_it_was_written(algorithm: TokenAlgorithm) -> None:
    public = new_token_key(algorithm).public_key()

    assert token_algorithm_of(public) is algorithm
    assert read_token_key(write_token_key(public)) == public


@pytest.mark.parametrize("algorithm", sorted(set(KeyAlgorithm) - {KeyAlgorithm.EC_P256, KeyAlgorithm.ML_DSA_65}))
def test_what_is_no_key_for_tokens_is_not_read_as_one(algorithm: KeyAlgorithm) -> None:
    written = new_key(algorithm).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    damaged = write_token_key(new_token_key(TokenAlgorithm.ES256).public_key())[:-1]

    for other in (written, damaged, b"", bytes(33)):
        with pytest.raises(ValueError, match=r"."):
            read_token_key(other)
    assert token_algorithm_of(ec.generate_private_key(ec.SECP256K1())) is None


def test_an_authority_is_stored_under_a_name_of_its_own() -> None:
    assert len(set(STORED_AS.values())) == len(AUTHORITIES) == len(KeyAlgorithm) - 1
    # What there was before there was a choice.
    assert STORED_AS[CertificatePolicy().authority] == "ECDSA-P256-SHA256"


@pytest.mark.behaviour("I19")
@given(POLICIES, st.one_of(st.none(), st.sampled_from(KeyAlgorithm)))
def test_no_policy_without_contradictions_certifies_what_it_rules_out(
    policy: CertificatePolicy, algorithm: KeyAlgorithm | None
) -> None:
    sound, certified = not list(policy.contradictions()), policy.violation(algorithm, "it") is None
    is_post_quantum = algorithm is not None and algorithm.is_post_quantum

    if policy.post_quantum is PostQuantum.REQUIRED:
        assert not certified or is_post_quantum
        assert not sound or policy.authority.is_post_quantum
    if policy.post_quantum is PostQuantum.OFF:
        assert not certified or not is_post_quantum
    if policy.keys:
        assert not certified or algorithm in policy.keys
        assert not sound or all(policy.violation(one, "it") is None for one in policy.keys)


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        (CertificatePolicy(), []),
        (CertificatePolicy(authority=KeyAlgorithm.ML_DSA_87, post_quantum=PostQuantum.HYBRID), []),
        (CertificatePolicy(authority=KeyAlgorithm.RSA_2048), ["authority_algorithm"]),
        (CertificatePolicy(post_quantum=PostQuantum.REQUIRED), ["post_quantum"]),
        (CertificatePolicy(authority=KeyAlgorithm.ML_DSA_44), ["post_quantum"]),
        (CertificatePolicy(keys=frozenset({KeyAlgorithm.ML_DSA_44})), ["key_algorithms"]),
        (
            CertificatePolicy(keys=frozenset({KeyAlgorithm.ED25519}), post_quantum=PostQuantum.REQUIRED),
            ["post_quantum", "key_algorithms"],
        ),
    ],
)
def test_a_contradiction_is_told_by_its_field(policy: CertificatePolicy, fields: list[str]) -> None:
    assert [field for field, _ in policy.contradictions()] == fields
