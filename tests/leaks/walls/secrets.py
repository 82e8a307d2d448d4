"""Who reads a tenant's secrets, what of them is kept in the clear, and what tells that they were read."""

from typing import Final

from tests.leaks.model import Mutation

PROTO: Final = "proto/bulkhead/v1/secrets.proto"
TABLES: Final = "control_plane/postgres/sql/tenant/0003_secrets.sql"
MODEL: Final = "control_plane/secrets/model.py"
SERVICE: Final = "control_plane/secrets/service.py"
GRANTS: Final = "control_plane/tokens/servicer.py"
COMMANDS: Final = "control_plane/cli/secrets/commands.py"
BOUNDS: Final = "tests/architecture/test_rule_bounds.py"
TABLE_TESTS: Final = "tests/architecture/test_tenant_tables.py"
MODEL_TESTS: Final = "tests/unit/secrets/test_model.py"
VALUES: Final = "tests/integration/secrets/test_values.py"
SECRETS: Final = "tests/integration/secrets/test_secrets.py"
CONCEALMENT: Final = "tests/integration/secrets/test_concealment.py"
TOKENS: Final = "tests/integration/tokens/test_token_service.py"
COMMAND_TESTS: Final = "tests/integration/cli/test_secrets.py"

WALLS: Final = (
    Mutation(
        name="the platform's administrators read secrets",
        file=PROTO,
        before="        ROLE_TENANT_MEMBER,\n        ROLE_SERVICE\n",
        after="        ROLE_TENANT_MEMBER,\n        ROLE_PLATFORM_ADMIN,\n        ROLE_SERVICE\n",
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="whoever may list secrets reads them",
        file=PROTO,
        before='      scope: "secrets.access"\n',
        after='      scope: "secrets.list"\n',
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="the platform grants the scope that reads secrets",
        file=GRANTS,
        before="    return SCOPES if principal and principal.role in TENANT_BOUND else PLATFORM_GRANTS\n",
        after="    return SCOPES if principal and principal.role in TENANT_BOUND else PLATFORM_GRANTS | SCOPES\n",
        noticed_by=(f"{TOKENS}::test_the_platform_gives_nobody_the_scope_that_reads_secrets",),
    ),
    Mutation(
        name="versions of secrets have no row-level security",
        file=TABLES,
        before="ALTER TABLE secret_versions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;\n",
        after="",
        noticed_by=(f"{TABLE_TESTS}::test_a_tenants_table_has_row_level_security_enabled_and_forced",),
    ),
    Mutation(
        name="a value is stored as it came",
        file=SERVICE,
        before="        sealed = await _sealed(tx.placement, wanted, addition.payload, keys=keys)\n",
        after="        sealed = addition.payload if keys else await _sealed(tx.placement, wanted, b'', keys=keys)\n",
        noticed_by=(f"{CONCEALMENT}::test_a_value_is_in_no_row_no_entry_no_log_and_no_error",),
    ),
    Mutation(
        name="a sealed value opens in another secret",
        file=MODEL,
        before='    return f"secrets/{secret_uid}"\n',
        after='    return f"secrets/{secret_uid and 0}"\n',
        noticed_by=(
            f"{VALUES}::test_a_sealed_value_opens_in_its_own_version_of_its_own_secret_of_its_own_tenant_only",
        ),
    ),
    Mutation(
        name="a disabled value is read",
        file=MODEL,
        before="        if self.state is not State.ENABLED:\n",
        after="        if self.state not in State:\n",
        noticed_by=(MODEL_TESTS,),
    ),
    Mutation(
        name="a value is read whatever its state",
        file=SERVICE,
        before="        version.check_readable(name=name)\n",
        after="",
        noticed_by=(f"{VALUES}::test_a_disabled_value_is_not_read_until_it_is_enabled",),
    ),
    Mutation(
        name="nobody is told that a value was read",
        file=SERVICE,
        before="        tx.record(Effect(resource=name, details={**asked, **said, **permit.details}))\n",
        after="        tx.unchanged()\n",
        noticed_by=(f"{VALUES}::test_a_value_is_read_by_number_or_as_the_latest_with_an_entry_each",),
    ),
    Mutation(
        name="a value can be guessed by the hash of its request",
        file=MODEL,
        before='    return hmac.digest(key, len(head).to_bytes(8, "big")',
        after='    return hmac.digest(key and b"", len(head).to_bytes(8, "big")',
        noticed_by=(f"{MODEL_TESTS}::test_a_fingerprint_without_the_key_tells_nothing_of_the_value",),
    ),
    Mutation(
        name="a value that was read shows itself",
        file=SERVICE,
        before="    number: int\n    payload: bytes = field(repr=False)\n",
        after="    number: int\n    payload: bytes\n",
        noticed_by=(f"{CONCEALMENT}::test_what_carries_a_value_does_not_show_it",),
    ),
    Mutation(
        name="a request id of one value is answered for another",
        file=SERVICE,
        before="    if earlier.request_hash not in hashes:\n",
        after="    if earlier.request_hash in ():\n",
        noticed_by=(f"{SECRETS}::test_a_request_id_is_good_for_one_request_of_one_caller",),
    ),
    Mutation(
        name="a value is written where others read it",
        file=COMMANDS,
        before="_PRIVATE: Final = 0o600\n",
        after="_PRIVATE: Final = 0o644\n",
        noticed_by=(f"{COMMAND_TESTS}::test_the_latest_value_is_read_into_a_file_for_its_owner_alone",),
    ),
)
