"""What a request at the edge says of itself, and what is believed of it."""

from typing import Final

from tests.leaks.model import Mutation

REQUEST: Final = "ext_authz/authz/request.py"
TOKENS: Final = "ext_authz/authz/tokens.py"
CERTIFICATE: Final = "ext_authz/authz/certificate.py"
DECISIONS: Final = "tests/unit/ext_authz/authz/test_decide.py"
REQUESTS: Final = "tests/unit/ext_authz/authz/test_request.py"
TOKEN_TESTS: Final = "tests/unit/ext_authz/authz/test_tokens.py"
CERTIFICATES: Final = "tests/unit/ext_authz/authz/test_certificate.py"

WALLS: Final = (
    Mutation(
        name="the last of two headers counts",
        file=REQUEST,
        before="            if name in found:\n",
        after="            if not name:\n",
        noticed_by=(f"{REQUESTS}::test_a_second_value_is_a_fault_even_where_it_is_the_same",),
    ),
    Mutation(
        name="a header that only we may send is believed",
        file=REQUEST,
        before='            reading.note("FORGED_HEADER")\n',
        after="            continue\n",
        noticed_by=(f"{REQUESTS}::test_a_header_that_only_we_may_send_is_a_fault",),
    ),
    Mutation(
        name="headers that Envoy joined are read",
        file=REQUEST,
        before=(
            '        raise UndecidableError("the Check has no raw headers: the listener lacks `encode_raw_headers`")\n'
        ),
        after='        return {_HOST: b""}\n',
        noticed_by=(f"{REQUESTS}::test_a_check_without_raw_headers_cannot_be_decided",),
    ),
    Mutation(
        name="Envoy's two words for a host may differ",
        file=REQUEST,
        before="    if headers.setdefault(_HOST, http.host) != http.host:\n",
        after="    if not headers.setdefault(_HOST, http.host):\n",
        noticed_by=(f"{REQUESTS}::test_a_host_that_envoy_tells_in_two_ways_is_a_fault",),
    ),
    Mutation(
        name="the header of a tenant is no claim",
        file=REQUEST,
        before='        reading.take_tenant_id("header", tenant)\n',
        after="        pass\n",
        noticed_by=(f"{REQUESTS}::test_what_a_request_says_is_read",),
    ),
    Mutation(
        name="what the routes were chosen by is no claim",
        file=REQUEST,
        before="        reading.take_scope(scope)\n",
        after="        pass\n",
        noticed_by=(f"{REQUESTS}::test_what_the_routes_were_selected_by_is_a_claim",),
    ),
    Mutation(
        name="the host of a request is no claim",
        file=REQUEST,
        before='    reading.take_host("host", headers[_HOST])\n',
        after="",
        noticed_by=(f"{REQUESTS}::test_what_a_request_says_is_read",),
    ),
    Mutation(
        name="the name that TLS asked for is no claim",
        file=REQUEST,
        before='        reading.take_host("sni", attributes.tls_session.sni)\n',
        after="        pass\n",
        noticed_by=(f"{REQUESTS}::test_what_a_request_says_is_read",),
    ),
    Mutation(
        name="a path is interpreted in any form",
        file=REQUEST,
        before="    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):\n",
        after="    if not _QUERY.fullmatch(query):\n",
        noticed_by=(f"{REQUESTS}::test_a_path_that_is_in_no_canonical_form_is_not_interpreted",),
    ),
    Mutation(
        name="a host is taken in any form",
        file=REQUEST,
        before="        if not _NAME.fullmatch(host):\n",
        after="        if not host:\n",
        noticed_by=(f"{REQUESTS}::test_a_host_of_another_form_is_a_fault",),
    ),
    Mutation(
        name="a token is taken out of any text",
        file=REQUEST,
        before="    read = _BEARER.fullmatch(raw)\n",
        after="    read = _BEARER.match(raw)\n",
        noticed_by=(f"{REQUESTS}::test_a_credential_of_another_form_is_a_fault",),
    ),
    Mutation(
        name="an identity is believed without its certificate",
        file=REQUEST,
        before="    if attributes.source.principal and not attributes.source.certificate:\n",
        after="    if not attributes:\n",
        noticed_by=(f"{REQUESTS}::test_an_identity_without_its_certificate_is_a_fault",),
    ),
    Mutation(
        name="a tenant's key speaks for another at the edge",
        file=TOKENS,
        before="        if claims.tenant_id != policy.tenant_id:\n",
        after="        if not claims.tenant_id:\n",
        noticed_by=(f"{DECISIONS}::test_a_tenant_s_key_under_another_tenant_s_name_is_told_to_both",),
    ),
    Mutation(
        name="a token outlives its key at the edge",
        file=TOKENS,
        before="if policy is not None and _is_same(policy.token_keys[credential.kid], credential.key):",
        after="if policy is not None:",
        noticed_by=(f"{TOKEN_TESTS}::test_what_is_remembered_of_a_token_is_nothing_that_can_change",),
    ),
    Mutation(
        name="a revoked token passes the edge",
        file=TOKENS,
        before="is_revoked = (policy.uid, claims.token_id) in index.revoked",
        after="is_revoked = False",
        noticed_by=(f"{TOKEN_TESTS}::test_a_token_is_revoked_by_its_own_tenant_alone",),
    ),
    Mutation(
        name="a token is revoked by any tenant",
        file=TOKENS,
        before="is_revoked = (policy.uid, claims.token_id) in index.revoked",
        after="is_revoked = claims.token_id in {token.token_id for token, _ in index.revoked.items()}",
        noticed_by=(f"{TOKEN_TESTS}::test_a_token_is_revoked_by_its_own_tenant_alone",),
    ),
    Mutation(
        name="a token of the platform's passes the edge",
        file=TOKENS,
        before="        return read_claims(payload, audience=TENANT_AUDIENCE, now=now)\n",
        after='        return read_claims(payload, audience=json.loads(payload)["aud"], now=now)\n',
        noticed_by=(f"{TOKEN_TESTS}::test_no_forged_token_is_anybody_s",),
    ),
    Mutation(
        name="a token is remembered by a part of it",
        file=TOKENS,
        before="digest = hashlib.sha256(token.encode()).digest()",
        after='digest = hashlib.sha256(token.rpartition(".")[0].encode()).digest()',
        noticed_by=(f"{TOKEN_TESTS}::test_a_token_is_remembered_whole",),
    ),
    Mutation(
        name="one of several names of a certificate counts",
        file=CERTIFICATE,
        before="_IDENTITY.fullmatch(uris[0].value) if len(uris) == 1 else None",
        after="_IDENTITY.fullmatch(uris[0].value) if uris else None",
        noticed_by=(f"{CERTIFICATES}::test_any_other_name_names_nobody",),
    ),
    Mutation(
        name="a client certificate's name is read in part",
        file=CERTIFICATE,
        before="_IDENTITY.fullmatch(uris[0].value)",
        after="_IDENTITY.match(uris[0].value)",
        noticed_by=(f"{CERTIFICATES}::test_any_other_name_names_nobody",),
    ),
)
