"""What is signed or sealed for callers, and what they may call by a name."""

from typing import Final

from tests.leaks.model import Mutation

CONTEXT: Final = "control_plane/serving/context.py"
NAMES: Final = "control_plane/serving/names.py"
PAGING: Final = "control_plane/serving/paging.py"
IDS: Final = "control_plane/ids.py"
CONTEXT_TESTS: Final = "tests/unit/serving/test_context.py"
PAGE_TESTS: Final = "tests/unit/serving/test_paging.py"
NAME_TESTS: Final = "tests/unit/serving/test_names.py"
TENANT_TESTS: Final = "tests/unit/tenants/test_model.py"

WALLS: Final = (
    Mutation(
        name="the signature of a context is not compared",
        file=CONTEXT,
        before="if not hmac.compare_digest(_signature(signed, key), signature):",
        after="if not signature:",
        noticed_by=(f"{CONTEXT_TESTS}::test_another_key_reads_nothing",),
    ),
    Mutation(
        name="a context never expires",
        file=CONTEXT,
        before="if type(expires) is not int or expires <= now_ms:",
        after="if type(expires) is not int:",
        noticed_by=(f"{CONTEXT_TESTS}::test_a_context_ends_at_its_expiry",),
    ),
    Mutation(
        name="a context lives for as long as it says",
        file=CONTEXT,
        before="if expires > now_ms + _LIFETIME_MS:",
        after="if not expires:",
        noticed_by=(f"{CONTEXT_TESTS}::test_a_context_for_more_than_five_minutes_is_refused",),
    ),
    Mutation(
        name="what the key has signed for others is a context",
        file=CONTEXT,
        before="hmac.digest(key, _LABEL + signed.encode()",
        after="hmac.digest(key, signed.encode()",
        noticed_by=(f"{CONTEXT_TESTS}::test_what_the_key_has_signed_for_another_purpose_is_no_context",),
    ),
    Mutation(
        name="a context is signed with a short key",
        file=CONTEXT,
        before="if len(key) < _SHORTEST_KEY:",
        after="if not signed:",
        noticed_by=(f"{CONTEXT_TESTS}::test_a_short_key_signs_and_reads_nothing",),
    ),
    Mutation(
        name="a context may name what is no tenant",
        file=CONTEXT,
        before="if tenant_id_violation(tenant) is not None:",
        after="if not tenant:",
        noticed_by=(f"{CONTEXT_TESTS}::test_a_signed_name_that_no_tenant_can_have_is_refused",),
    ),
    Mutation(
        name="a page token is good for every tenant",
        file=PAGING,
        before="return json.dumps([method, parent]).encode()",
        after="return json.dumps([method]).encode()",
        noticed_by=(f"{PAGE_TESTS}::test_a_token_is_good_for_its_own_list_and_a_day",),
    ),
    Mutation(
        name="a page token is good for every list",
        file=PAGING,
        before="return json.dumps([method, parent]).encode()",
        after="return json.dumps([parent]).encode()",
        noticed_by=(f"{PAGE_TESTS}::test_a_token_is_good_for_its_own_list_and_a_day",),
    ),
    Mutation(
        name="a page token is good for ever",
        file=PAGING,
        before="if now.timestamp() > expires:",
        after="if not expires:",
        noticed_by=(f"{PAGE_TESTS}::test_a_token_is_good_for_its_own_list_and_a_day",),
    ),
    Mutation(
        name="another spelling of a page token is that token",
        file=PAGING,
        before="        if not is_as_made:\n",
        after="        if is_as_made is None:\n",
        noticed_by=(f"{PAGE_TESTS}::test_another_spelling_of_a_token_is_refused",),
    ),
    Mutation(
        name="a name's tenant is read in part",
        file=NAMES,
        before="match = _pattern(pattern).fullmatch(name)",
        after="match = _pattern(pattern).match(name)",
        noticed_by=(f"{NAME_TESTS}::test_what_is_not_a_tenants_name_is_refused_by_field",),
    ),
    Mutation(
        name="a part of a name may have parts",
        file=NAMES,
        before='replace(r"\\*", "[^/]+")',
        after='replace(r"\\*", ".+")',
        noticed_by=("tests/integration/audit/test_audit_service.py::test_a_parent_is_a_tenant_and_nothing_below_it",),
    ),
    Mutation(
        name="a tenant's id may be anything",
        file=NAMES,
        before='(description := tenant_id_violation(parts["tenant"])) is not None',
        after='(description := parts["tenant"]) == ""',
        noticed_by=(f"{NAME_TESTS}::test_what_is_not_a_tenants_name_is_refused_by_field",),
    ),
    Mutation(
        name="a tenant may be called like the platform's own",
        file=IDS,
        before="if value in _RESERVED or value.startswith(_RESERVED_PREFIXES):",
        after="if not value:",
        noticed_by=(f"{TENANT_TESTS}::test_an_id_that_means_something_elsewhere_is_refused",),
    ),
    Mutation(
        name="a tenant's id is looked at in part",
        file=IDS,
        before="if not _TENANT_ID.fullmatch(value):",
        after="if not _TENANT_ID.match(value):",
        noticed_by=(f"{TENANT_TESTS}::test_an_id_that_means_something_elsewhere_is_refused",),
    ),
)
