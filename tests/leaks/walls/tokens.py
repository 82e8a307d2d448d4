"""Whom a bearer token stands for, at the platform's own doors."""

from typing import Final

from tests.leaks.model import Mutation

CLAIMS: Final = "control_plane/tokens/claims.py"
VERIFIER: Final = "control_plane/tokens/verifier.py"
SIGNATURE: Final = "control_plane/tokens/signature.py"
SIGNATURE_TESTS: Final = "tests/unit/tokens/test_signature.py"
STORE: Final = "control_plane/tokens/store.py"
CLAIM_TESTS: Final = "tests/unit/tokens/test_claims.py"
VERIFIER_TESTS: Final = "tests/integration/tokens/test_verifier.py"
FORGERIES: Final = "tests/unit/ext_authz/authz/test_tokens.py"
ENROLMENTS: Final = "tests/integration/tokens/test_enrolment.py"

WALLS: Final = (
    Mutation(
        name="a token of the platform is a tenant's",
        file=CLAIMS,
        before='if raw.get("iss") != ISSUER or raw.get("aud") != audience:',
        after='if raw.get("iss") != ISSUER:',
        noticed_by=(f"{CLAIM_TESTS}::test_claims_that_are_not_of_this_kind_or_time_are_refused",),
    ),
    Mutation(
        name="anybody issues tokens",
        file=CLAIMS,
        before='if raw.get("iss") != ISSUER or raw.get("aud") != audience:',
        after='if raw.get("aud") != audience:',
        noticed_by=(f"{CLAIM_TESTS}::test_claims_that_are_not_of_this_kind_or_time_are_refused",),
    ),
    Mutation(
        name="a tenant's token has a role of the platform's",
        file=CLAIMS,
        before="    if claims.role not in roles or subject_violation",
        after="    if subject_violation",
        noticed_by=(f"{CLAIM_TESTS}::test_claims_that_are_not_of_this_kind_or_time_are_refused",),
    ),
    Mutation(
        name="a token of the platform names a tenant",
        file=CLAIMS,
        before=' or ("tid" in raw) != is_tenant:',
        after=":",
        noticed_by=(f"{CLAIM_TESTS}::test_a_platform_token_has_a_platform_role_and_no_tenant",),
    ),
    Mutation(
        name="a token never expires",
        file=CLAIMS,
        before="    if now >= claims.expire_time:\n",
        after="    if not claims.expire_time:\n",
        noticed_by=(f"{CLAIM_TESTS}::test_a_token_is_accepted_from_its_issue_to_its_expiry",),
    ),
    Mutation(
        name="a token lives for as long as it says",
        file=CLAIMS,
        before="> LONGEST_LIFETIME:",
        after="> 365 * LONGEST_LIFETIME:",
        noticed_by=(f"{CLAIM_TESTS}::test_claims_that_are_not_of_this_kind_or_time_are_refused",),
    ),
    Mutation(
        name="a token may bring its own key",
        file=CLAIMS,
        before='if header.keys() != {"alg", "kid", "typ"} or',
        after='if header.keys() < {"alg", "kid", "typ"} or',
        noticed_by=(f"{CLAIM_TESTS}::test_a_header_that_is_not_ours_is_refused",),
    ),
    Mutation(
        name="a token may ask for another algorithm",
        file=CLAIMS,
        before='if not isinstance(algorithm := header.get("alg"), str) or algorithm not in ALGORITHMS:',
        after='if not header.get("alg"):',
        noticed_by=(f"{CLAIM_TESTS}::test_a_header_that_is_not_ours_is_refused",),
    ),
    Mutation(
        name="a claim is there twice",
        file=CLAIMS,
        before="    if len(found) != len(pairs):\n",
        after="    if not pairs:\n",
        noticed_by=(f"{CLAIM_TESTS}::test_a_claim_that_is_there_twice_is_refused_at_any_depth",),
    ),
    Mutation(
        name="another spelling of a token is that token",
        file=CLAIMS,
        before='if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != segment:',
        after="if not segment:",
        noticed_by=(f"{CLAIM_TESTS}::test_another_spelling_of_a_token_is_not_that_token",),
    ),
    Mutation(
        name="a token has any number of parts",
        file=CLAIMS,
        before="    if len(segments) != _SEGMENTS:\n",
        after="    if not segments:\n",
        noticed_by=(f"{CLAIM_TESTS}::test_a_token_has_three_parts",),
    ),
    Mutation(
        name="the signature of a token is not verified",
        file=SIGNATURE,
        before="_JWS[algorithm].decode(token, key, algorithms=[_NAMES[algorithm]])",
        after='_JWS[algorithm].decode(token, key, algorithms=[_NAMES[algorithm]], options={"verify_signature": False})',
        noticed_by=(f"{FORGERIES}::test_no_forged_token_is_anybody_s",),
    ),
    Mutation(
        name="what ML-DSA-65 did not sign is signed",
        file=SIGNATURE,
        before="        except InvalidSignature:\n            return False\n",
        after="        except InvalidSignature:\n            return True\n",
        noticed_by=(f"{SIGNATURE_TESTS}::test_what_was_changed_is_signed_by_nobody",),
    ),
    Mutation(
        name="a key speaks for the tenant that its token names",
        file=VERIFIER,
        before="        if claims.tenant_id != entry.placement.tenant_id:\n",
        after="        if not claims.tenant_id:\n",
        noticed_by=(f"{VERIFIER_TESTS}::test_a_mix_up_of_tenants_is_told_to_both_and_names_neither_to_the_other",),
    ),
    Mutation(
        name="a token that nobody issued is accepted",
        file=VERIFIER,
        before='raise RefusedTokenError("TOKEN_NOT_ISSUED")',
        after="return",
        noticed_by=(
            f"{VERIFIER_TESTS}::test_a_key_in_the_wrong_hands_makes_no_token_that_the_tenant_does_not_remember",
        ),
    ),
    Mutation(
        name="a token may say more than was issued",
        file=VERIFIER,
        before="if token is None or tenant_claims(token, placement.tenant_id) != claims:",
        after="if token is None:",
        noticed_by=(
            f"{VERIFIER_TESTS}::test_a_key_in_the_wrong_hands_makes_no_token_that_the_tenant_does_not_remember",
        ),
    ),
    Mutation(
        name="a revoked token is accepted",
        file=VERIFIER,
        before="if token.revoke_time is not None:",
        after="if not token:",
        noticed_by=(f"{VERIFIER_TESTS}::test_a_revoked_token_is_refused_once_the_answer_before_is_forgotten",),
    ),
    Mutation(
        name="a token that was accepted is accepted for ever",
        file=VERIFIER,
        before="        if now_s >= until_s or self._now() >= accepted.expire_time:\n",
        after="        if not until_s:\n",
        noticed_by=(f"{VERIFIER_TESTS}::test_a_token_is_refused_from_its_expire_time_on_also_where_it_is_remembered",),
    ),
    Mutation(
        name="a revocation goes unnoticed while its token is remembered",
        file=VERIFIER,
        before="        if now_s >= until_s or self._now()",
        after="        if self._now()",
        noticed_by=(f"{VERIFIER_TESTS}::test_a_revoked_token_is_refused_once_the_answer_before_is_forgotten",),
    ),
    Mutation(
        name="a tenant's token is verified as the platform's",
        file=VERIFIER,
        before="        if kid == self._platform_kid:\n",
        after="        if kid:\n",
        noticed_by=(f"{VERIFIER_TESTS}::test_a_token_stands_for_whom_it_was_issued_to",),
    ),
    Mutation(
        name="an invitation is redeemed twice",
        file=STORE,
        before="WHERE id = %(id)s AND redeem_time IS NULL AND expire_time > %(now)s",
        after="WHERE id = %(id)s AND expire_time > %(now)s",
        noticed_by=(f"{ENROLMENTS}::test_of_many_at_once_one_redeems",),
    ),
    Mutation(
        name="an invitation never expires",
        file=STORE,
        before="WHERE id = %(id)s AND redeem_time IS NULL AND expire_time > %(now)s",
        after="WHERE id = %(id)s AND redeem_time IS NULL",
        noticed_by=(f"{ENROLMENTS}::test_the_token_expires_after_a_day",),
    ),
)
