"""What notices a leak when all else has failed: markers, verifications, and what is done about what they find."""

from typing import Final

from tests.leaks.model import Mutation

CANARY: Final = "control_plane/canary.py"
WATCH: Final = "control_plane/postgres/watch.py"
TRANSACTIONS: Final = "control_plane/postgres/transactions.py"
OUTGOING: Final = "control_plane/serving/interceptors/outgoing.py"
STORE: Final = "control_plane/objects/store.py"
REACH: Final = "control_plane/postgres/schemas/reach.py"
PROBE: Final = "control_plane/isolation/probes/probe.py"
SERVICE: Final = "control_plane/isolation/service.py"
PLATFORM_KEYS: Final = "control_plane/keys/platform.py"
ENVELOPE: Final = "control_plane/cli/isolation/envelope.py"
CACHE_ACL: Final = "control_plane/cache/acl.py"
CACHE_PROBING: Final = "control_plane/cache/probing.py"
CANARY_TESTS: Final = "tests/unit/test_canary.py"
ROWS: Final = "tests/isolation/test_canaries.py"
BREACHES: Final = "tests/integration/breaches/test_breaches.py"
OBJECTS: Final = "tests/isolation/test_objects.py"
REACHES: Final = "tests/isolation/test_database_reach.py::test_every_hole_is_found"
PROBES: Final = "tests/integration/isolation/test_probes.py"
ATTESTATIONS: Final = "tests/integration/isolation/test_attestations.py"
CHECKS: Final = "tests/integration/cli/test_isolation.py"

WALLS: Final = (
    Mutation(
        name="another tenant's marker is taken for one's own",
        file=CANARY,
        before="if owner != own and hmac",
        after="if own is None and owner != own and hmac",
        noticed_by=(f"{CANARY_TESTS}::test_another_tenants_marker_is_found_wherever_it_stands",),
    ),
    Mutation(
        name="anybody makes another tenant look guilty",
        file=CANARY,
        before="hmac.compare_digest(found[2].decode(), self._mac(owner))",
        after="hmac.compare_digest(found[2].decode(), found[2].decode())",
        noticed_by=(f"{CANARY_TESTS}::test_whoever_does_not_know_the_key_cannot_make_another_tenant_look_guilty",),
    ),
    Mutation(
        name="rows are not looked at for markers",
        file=WATCH,
        before="        for row in rows:",
        after="        for row in list(rows)[:0]:",
        noticed_by=(f"{ROWS}::test_a_marker_is_found_in_any_value_of_a_row",),
    ),
    Mutation(
        name="lists in rows are not looked at for markers",
        file=WATCH,
        before="                    for part in value:",
        after="                    for part in value[:0]:",
        noticed_by=(f"{ROWS}::test_a_marker_is_found_in_any_value_of_a_row",),
    ),
    Mutation(
        name="no transaction is asked whose it is",
        file=WATCH,
        before="return self._transactions % _ASKED_EVERY == 1",
        after="return self._transactions % _ASKED_EVERY == _ASKED_EVERY",
        noticed_by=(f"{ROWS}::test_a_transaction_that_has_become_another_tenants_does_not_commit",),
    ),
    Mutation(
        name="answers are not looked at for markers",
        file=OUTGOING,
        before='        self._canaries.check(data, own=placement.uid if placement else None, channel="response")\n',
        after='        self._canaries.check(data[:0], own=placement.uid if placement else None, channel="response")\n',
        noticed_by=(f"{BREACHES}::test_a_breach_in_a_call_is_an_event_before_the_second_is_over",),
    ),
    Mutation(
        name="objects are not looked at for markers",
        file=STORE,
        before="self._canaries.check(plaintext, own",
        after="self._canaries.check(plaintext[:0], own",
        noticed_by=(f"{OBJECTS}::test_another_tenants_marker_in_an_object_is_held_back",),
    ),
    Mutation(
        name="a marker that lies across two parts of an object is not found",
        file=STORE,
        before="self._canaries.check(last + part, own",
        after="self._canaries.check(part, own",
        noticed_by=(f"{OBJECTS}::test_another_tenants_marker_in_an_object_is_held_back",),
    ),
    Mutation(
        name="the prover looks at no powers",
        file=REACH,
        before="_QUERIES: Final = (_POWERS, ",
        after="_QUERIES: Final = (",
        noticed_by=(f"{REACHES}[a power]",),
    ),
    Mutation(
        name="the prover looks at nobody who may become a tenant",
        file=REACH,
        before="(_POWERS, _WHO_BECOMES, ",
        after="(_POWERS, ",
        noticed_by=(f"{REACHES}[another tenant's role]",),
    ),
    Mutation(
        name="the prover lets a tenant be a member of anything",
        file=REACH,
        before="_WHAT_BECOMES, _OWNED",
        after="_OWNED",
        noticed_by=(f"{REACHES}[the owner]",),
    ),
    Mutation(
        name="the prover does not ask who owns what",
        file=REACH,
        before="_OWNED, _GRANTED)",
        after="_GRANTED)",
        noticed_by=(f"{REACHES}[a table of its own]",),
    ),
    Mutation(
        name="the prover looks at no grants",
        file=REACH,
        before="_OWNED, _GRANTED)",
        after="_OWNED)",
        noticed_by=(f"{REACHES}[another's schema]",),
    ),
    Mutation(
        name="the prover takes a login with its tenants' rights for sound",
        file=REACH,
        before="      NOT m.admin_option AND NOT m.inherit_option\n      AND EXISTS",
        after="      NOT m.admin_option\n      AND EXISTS",
        noticed_by=(f"{REACHES}[its own login with its rights at once]",),
    ),
    Mutation(
        name="the prover looks at no rights of columns",
        file=REACH,
        before="ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL",
        after="ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL AND a.attnum < 0",
        noticed_by=(f"{REACHES}[a right on another's column]",),
    ),
    Mutation(
        name="the prover takes any right of all tenants for sound",
        file=REACH,
        before="r.rolname IN ('csm_tenant', 'csm_login'))\n",
        after="r.rolname IN ('csm_login'))\n",
        noticed_by=(f"{REACHES}[a right of all tenants]",),
    ),
    Mutation(
        name="what cannot be asked passes",
        file=PROBE,
        before='return Outcome.UNKNOWN, "what is asked could not be reached"',
        after='return Outcome.PASSED, "what is asked could not be reached"',
        noticed_by=(f"{PROBES}::test_what_cannot_be_reached_is_unknown_and_nothing_else",),
    ),
    Mutation(
        name="a probe that breaks passes",
        file=PROBE,
        before='return Outcome.UNKNOWN, "the probe itself broke; the logs tell more"',
        after='return Outcome.PASSED, "the probe itself broke; the logs tell more"',
        noticed_by=(f"{PROBES}::test_a_probe_that_breaks_does_not_pass",),
    ),
    Mutation(
        name="a tenant in danger is written to as before",
        file=SERVICE,
        before="            if report.failed:",
        after="            if report.failed and report.passed:",
        noticed_by=(f"{ATTESTATIONS}::test_a_tenant_whose_wall_is_down_becomes_read_only_and_its_log_says_why",),
    ),
    Mutation(
        name="a key that was put in the platform's place signs",
        file=PLATFORM_KEYS,
        before="        object_name=str(key.id),\n    )",
        after="        object_name=str(PLATFORM_UID),\n    )",
        noticed_by=(f"{ATTESTATIONS}::test_a_key_that_was_put_in_the_place_of_the_platforms_signs_nothing",),
    ),
    Mutation(
        name="a forged attestation is believed",
        file=ENVELOPE,
        before="    except InvalidSignature:\n        return False",
        after="    except InvalidSignature:\n        return True",
        noticed_by=(f"{CHECKS}::test_a_forged_attestation_is_told_from_one_that_says_a_wall_is_down",),
    ),
    Mutation(
        name="a right too many in Valkey is not found",
        file=CACHE_ACL,
        before='keys=" ".join(answer["keys"])',
        after='keys=" ".join(answer["keys"]).partition(" ")[0]',
        noticed_by=(f"{PROBES}::test_a_right_too_many_in_valkey_is_noticed[another tenant's keys]",),
    ),
    Mutation(
        name="more rights in Valkey, with other keys, are not found",
        file=CACHE_ACL,
        before='selectors=tuple(answer["selectors"])',
        after='selectors=tuple(answer["selectors"][:0])',
        noticed_by=(f"{PROBES}::test_a_right_too_many_in_valkey_is_noticed[more rights, with other keys]",),
    ),
    Mutation(
        name="users of nobody in Valkey are not found",
        file=CACHE_PROBING,
        before="!= wanted.get(name):",
        after="!= wanted.get(name, _rights(told)):",
        noticed_by=(f"{PROBES}::test_a_user_that_is_nobodys_is_noticed",),
    ),
    Mutation(
        name="a probe takes any failure of Valkey for a refusal",
        file=CACHE_PROBING,
        before="if not (isinstance(answer, RefusedError) and answer.is_forbidden)",
        after="if not (isinstance(answer, RefusedError) or answer is not None)",
        noticed_by=(f"{PROBES}::test_a_right_too_many_in_valkey_is_noticed[a command that shows keys]",),
    ),
)
