"""What a key signed it signed, whatever its kind; and no key answers for what another kind of signature says."""

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest

from control_plane.token_keys import TokenAlgorithm, TokenPrivateKey, new_token_key
from control_plane.tokens.claims import LONGEST_TOKEN, TENANT_AUDIENCE, Claims, RefusedTokenError, read_claims, read_kid
from control_plane.tokens.model import SCOPES
from control_plane.tokens.signature import sign, verified_payload

KID: Final = UUID(int=7)
NOW: Final = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
LONGEST: Final = Claims(
    audience=TENANT_AUDIENCE,
    subject="s" * 200,
    role="tenant-member",
    scopes=tuple(sorted(SCOPES)),
    token_id=UUID(int=1),
    issue_time=NOW,
    not_before=NOW,
    expire_time=NOW + timedelta(hours=1),
    tenant_id="t" * 41,
)
NAMES: Final = {"EDDSA": "EdDSA", "ES256": "ES256", "ML_DSA_65": "ML-DSA-65"}
KEYS: Final[dict[TokenAlgorithm, TokenPrivateKey]] = {one: new_token_key(one) for one in TokenAlgorithm}
PAIRS: Final = list(itertools.permutations(TokenAlgorithm, 2))


def signed(algorithm: TokenAlgorithm) -> str:
    return sign(LONGEST, KID, private_key=KEYS[algorithm])


def refused(token: str, algorithm: TokenAlgorithm) -> str:
    with pytest.raises(RefusedTokenError) as error:
        verified_payload(token, KEYS[algorithm].public_key())
    return error.value.cause


@pytest.mark.behaviour("S2.9")
@pytest.mark.parametrize("algorithm", TokenAlgorithm)
def test_a_token_is_opened_with_the_key_that_signed_it(algorithm: TokenAlgorithm) -> None:
    token = signed(algorithm)
    payload = verified_payload(token, KEYS[algorithm].public_key())

    assert read_kid(token) == KID
    assert read_claims(payload, audience=TENANT_AUDIENCE, now=NOW) == LONGEST
    # With what else a call brings it has to fit into gRPC's 8 KiB of metadata.
    assert len(token) < LONGEST_TOKEN


@pytest.mark.parametrize("algorithm", [TokenAlgorithm.EDDSA, TokenAlgorithm.ES256])
def test_the_same_claims_and_key_give_the_same_token(algorithm: TokenAlgorithm) -> None:
    assert signed(algorithm) == signed(algorithm)


@pytest.mark.behaviour("S2.9", "T-E9")
@pytest.mark.parametrize(("algorithm", "other"), PAIRS)
def test_a_token_never_chooses_what_its_key_verifies_with(algorithm: TokenAlgorithm, other: TokenAlgorithm) -> None:
    token = signed(algorithm)
    _, claims, signature = token.split(".")
    header = json.dumps({"alg": NAMES[other], "kid": str(KID), "typ": "JWT"}).encode()
    renamed = f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{claims}.{signature}"

    assert refused(token, other) == "TOKEN_ALGORITHM"
    assert refused(renamed, algorithm) == "TOKEN_ALGORITHM"
    assert refused(renamed, other) == "TOKEN_SIGNATURE"


@pytest.mark.behaviour("S2.9", "T-E9")
@pytest.mark.parametrize("algorithm", TokenAlgorithm)
def test_what_was_changed_is_signed_by_nobody(algorithm: TokenAlgorithm) -> None:
    header, claims, signature = signed(algorithm).split(".")
    stranger = sign(LONGEST, KID, private_key=new_token_key(algorithm))
    more = base64.urlsafe_b64encode(b"{}").decode().rstrip("=")
    tokens = [f"{header}.{more}.{signature}", f"{header}.{claims}.AAAA", f"{header}.{claims}.", stranger]

    assert {refused(token, algorithm) for token in tokens} == {"TOKEN_SIGNATURE"}
