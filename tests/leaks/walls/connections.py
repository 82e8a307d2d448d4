"""What a connection is, as which role it works, what is sent over it, and what it leaves behind."""

from typing import Final

from tests.leaks.model import Mutation

HANDLES: Final = "control_plane/postgres/handles.py"
TRANSACTIONS: Final = "control_plane/postgres/transactions.py"
STATEMENTS: Final = "control_plane/postgres/statements.py"
POOLS: Final = "control_plane/postgres/pools.py"
ADMISSION: Final = "control_plane/postgres/admission.py"
PLACEMENT: Final = "control_plane/postgres/placement.py"
DIRECTORY: Final = "control_plane/postgres/directory.py"
ATTACKS: Final = "tests/isolation/test_database_attacks.py"
LAYERS: Final = "tests/isolation/test_database_layers.py"
RESIDUE: Final = "tests/isolation/test_database_residue.py"
STRICT: Final = "tests/isolation/test_strict_sessions.py"
ENTRANCES: Final = "tests/unit/postgres/test_entrances.py"
NAMES: Final = "tests/isolation/test_database_names.py"
DIRECTORY_TESTS: Final = "tests/integration/postgres/test_directory.py"
STATEMENT_TESTS: Final = "tests/unit/postgres/test_statements.py"
ADMISSION_TESTS: Final = "tests/unit/postgres/test_admission.py"
PLACEMENT_TESTS: Final = "tests/unit/postgres/test_placement.py"
POOL_TESTS: Final = "tests/integration/postgres/test_pools.py"
TRANSACTION_TESTS: Final = "tests/integration/postgres/test_transactions.py"

WALLS: Final = (
    Mutation(
        name="the tenant's role is not taken on",
        file=HANDLES,
        before="    if not placement.is_strict:\n        statements += (",
        after="    if not placement.is_strict:\n        (",
        noticed_by=(f"{ATTACKS}::test_the_database_refuses_every_single_statement",),
    ),
    Mutation(
        name="the role outlives its transaction",
        file=HANDLES,
        before='"SET LOCAL ROLE {}"',
        after='"SET ROLE {}"',
        noticed_by=(f"{ENTRANCES}::test_all_that_a_transaction_begins_with_ends_with_it",),
    ),
    Mutation(
        name="the search path outlives its transaction",
        file=HANDLES,
        before='"SET LOCAL search_path',
        after='"SET search_path',
        noticed_by=(f"{ENTRANCES}::test_all_that_a_transaction_begins_with_ends_with_it",),
    ),
    Mutation(
        name="the context outlives its transaction",
        file=HANDLES,
        before='"SET LOCAL app.tenant_id',
        after='"SET app.tenant_id',
        noticed_by=(f"{ENTRANCES}::test_all_that_a_transaction_begins_with_ends_with_it",),
    ),
    Mutation(
        name="temporary tables come before the tenant's",
        file=HANDLES,
        before="search_path = pg_catalog, {}, pg_temp",
        after="search_path = pg_catalog, {}",
        noticed_by=(f"{NAMES}::test_a_temporary_table_does_not_stand_before_the_tenants",),
    ),
    Mutation(
        name="the tenant's tables come before the catalogue",
        file=HANDLES,
        before="search_path = pg_catalog, {}, pg_temp",
        after="search_path = {}, pg_catalog, pg_temp",
        noticed_by=(f"{NAMES}::test_a_function_of_the_tenants_schema_does_not_stand_before_the_catalogues",),
    ),
    Mutation(
        name="a transaction says not whose it is",
        file=HANDLES,
        before=(
            '        sql.SQL("SET LOCAL app.tenant_id = {}").format(sql.Literal(str(placement.uid))).as_bytes(),\n'
        ),
        after="",
        noticed_by=(f"{ENTRANCES}::test_a_transaction_says_whose_it_is",),
    ),
    Mutation(
        name="a tenant's transaction begins without a tenant",
        file=HANDLES,
        before="    _check_placement(placement)\n    level =",
        after="    level =",
        noticed_by=(f"{LAYERS}::test_a_handle_cannot_be_made_without_a_tenant",),
    ),
    Mutation(
        name="a handle is made without a tenant",
        file=HANDLES,
        before="        _check_placement(self.placement)",
        after="        return",
        noticed_by=(f"{LAYERS}::test_a_handle_cannot_be_made_without_a_tenant",),
    ),
    Mutation(
        name="the sealer enters without a tenant",
        file=HANDLES,
        before="    _check_placement(placement)\n    statements = _begin(placement, Isolation.READ_COMMITTED)",
        after="    statements = _begin(placement, Isolation.READ_COMMITTED)",
        noticed_by=(f"{LAYERS}::test_a_handle_cannot_be_made_without_a_tenant",),
    ),
    Mutation(
        name="pipeline mode is left out",
        file=HANDLES,
        before="async with connection.pipeline() as pipeline:",
        after="async with connection.cursor() as pipeline:",
        noticed_by=(f"{ATTACKS}::test_the_protocol_refuses_a_second_statement_that_the_handle_overlooked",),
    ),
    Mutation(
        name="a transaction is used after its end",
        file=TRANSACTIONS,
        before="        self._connection = None\n",
        after="        pass\n",
        noticed_by=(f"{LAYERS}::test_a_transaction_cannot_be_used_after_its_end",),
    ),
    Mutation(
        name="statements are not checked",
        file=TRANSACTIONS,
        before="        check_statement(query)\n",
        after="",
        noticed_by=(f"{ATTACKS}::test_the_handle_sends_no_command",),
    ),
    Mutation(
        name="whoever enters a tenant finds temporary tables first",
        file=TRANSACTIONS,
        before="csm_jobs, {}, pg_temp",
        after="csm_jobs, {}",
        noticed_by=(f"{NAMES}::test_a_temporary_table_does_not_stand_before_the_registrys_or_an_entered_tenants",),
    ),
    Mutation(
        name="whoever enters a tenant says not whose it is",
        file=TRANSACTIONS,
        before='            sql.SQL("SET LOCAL app.tenant_id = {}").format(sql.Literal(str(placement.uid))),\n',
        after="",
        noticed_by=(
            f"{TRANSACTION_TESTS}::test_a_system_transaction_that_enters_a_tenant_writes_its_audit_log_and_the_registry",
        ),
    ),
    Mutation(
        name="the check of statements returns at once",
        file=STATEMENTS,
        before="    code = _code(query).strip()",
        after="    return",
        noticed_by=(f"{STATEMENT_TESTS}::test_anything_else_is_refused",),
    ),
    Mutation(
        name="a second statement is sent",
        file=STATEMENTS,
        before='if ";" in code.removesuffix(";"):',
        after="if not code:",
        noticed_by=(f"{STATEMENT_TESTS}::test_a_second_statement_is_refused_behind_whatever_comments",),
    ),
    Mutation(
        name="commands are sent like queries",
        file=STATEMENTS,
        before='frozenset({"SELECT",',
        after='frozenset({"SET", "RESET", "SELECT",',
        noticed_by=(f"{STATEMENT_TESTS}::test_anything_else_is_refused",),
    ),
    Mutation(
        name="comments do not nest",
        file=STATEMENTS,
        before='        depth += 1 if mark.group() == "/*" else -1',
        after="        depth = 0",
        noticed_by=(f"{STATEMENT_TESTS}::test_one_query_is_sent",),
    ),
    Mutation(
        name="a session is lent as it is",
        file=POOLS,
        before="            await self.connection.execute(_RESET)\n",
        after="",
        noticed_by=(f"{RESIDUE}::test_whatever_a_session_was_made_to_keep_is_gone_when_it_is_lent_again",),
    ),
    Mutation(
        name="an open transaction is lent",
        file=POOLS,
        before='                await self.connection.execute("ROLLBACK")',
        after="                pass",
        noticed_by=(f"{RESIDUE}::test_whatever_a_session_was_made_to_keep_is_gone_when_it_is_lent_again",),
    ),
    Mutation(
        name="a connection that a task was torn out of is mended",
        file=POOLS,
        before="            except Exception:\n                is_clean",
        after="            except BaseException:\n                is_clean",
        noticed_by=(f"{RESIDUE}::test_a_connection_that_a_task_was_torn_out_of_is_closed_and_never_mended",),
    ),
    Mutation(
        name="another login role's session is lent",
        file=POOLS,
        before="[session for session in self._resting if session.login == login]",
        after="self._resting",
        noticed_by=(f"{STRICT}::test_a_strict_tenants_session_serves_nobody_else",),
    ),
    Mutation(
        name="a connection serves any number of tenants",
        file=POOLS,
        before="if self.connection.closed or len(self.tenants) > settings.tenants_per_connection:",
        after="if self.connection.closed:",
        noticed_by=(f"{POOL_TESTS}::test_a_connection_that_has_served_many_tenants_is_retired",),
    ),
    Mutation(
        name="psycopg prepares statements",
        file=POOLS,
        before="        prepare_threshold=None,\n",
        after="        prepare_threshold=1,\n",
        noticed_by=(f"{RESIDUE}::test_a_session_is_as_new_after_a_transaction",),
    ),
    Mutation(
        name="a tenant has more connections than it may",
        file=ADMISSION,
        before="party.held >= party.pooling.max_connections",
        after="party.held > party.pooling.max_connections",
        noticed_by=(f"{ADMISSION_TESTS}::test_nobody_has_more_than_its_maximum_though_there_is_room",),
    ),
    Mutation(
        name="nothing is kept free for who may claim it",
        file=ADMISSION,
        before="elif self._above and self._free > min(self._claims, self._most_kept):",
        after="elif self._above:",
        noticed_by=(f"{ADMISSION_TESTS}::test_what_the_active_could_claim_is_kept_free_and_not_for_long",),
    ),
    Mutation(
        name="one tenant may fill the queue",
        file=ADMISSION,
        before="if len(party.waiting) >= _MOST_WAITING:",
        after="if not party:",
        noticed_by=(f"{POOL_TESTS}::test_who_waits_beyond_all_measure_is_told_so_at_once",),
    ),
    Mutation(
        name="a placement may name any schema",
        file=PLACEMENT,
        before="if not pattern.fullmatch(name):",
        after="if not pattern.match(name):",
        noticed_by=(f"{PLACEMENT_TESTS}::test_a_placement_cannot_name_what_belongs_to_no_tenant",),
    ),
    Mutation(
        name="a placement may name any login role",
        file=PLACEMENT,
        before="if not self.is_strict and not _LOGIN.fullmatch(self.login):",
        after="if not self.login:",
        noticed_by=(f"{PLACEMENT_TESTS}::test_a_placement_cannot_name_what_belongs_to_no_tenant",),
    ),
    Mutation(
        name="a suspension goes unnoticed for ever",
        file=DIRECTORY,
        before="return entry if self._clock() - read_at < MAXIMUM_AGE.total_seconds() else None",
        after="return entry",
        noticed_by=(f"{DIRECTORY_TESTS}::test_what_was_found_is_remembered_for_a_second",),
    ),
    Mutation(
        name="an id is looked up that no tenant can have",
        file=DIRECTORY,
        before="        if tenant_id_violation(tenant_id):\n            return None\n",
        after="",
        noticed_by=(f"{DIRECTORY_TESTS}::test_an_absent_tenant_is_not_found_whatever_was_asked_for",),
    ),
    Mutation(
        name="the uid of a former tenant leads to who has its id now",
        file=DIRECTORY,
        before="        self.forget(entry.placement.tenant_id)  #",
        after="        #",
        noticed_by=(f"{DIRECTORY_TESTS}::test_a_uid_never_leads_to_the_tenant_that_has_its_id_now",),
    ),
)
