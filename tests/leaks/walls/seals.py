"""The kill switch: what is shut when a tenant is sealed, and stays shut."""

from typing import Final

from tests.leaks.model import Mutation

AUTHORIZATION: Final = "control_plane/serving/interceptors/authorization.py"
HANDLES: Final = "control_plane/postgres/handles.py"
SQL: Final = "control_plane/postgres/sql/system/0014_seals.sql"
KEYS: Final = "control_plane/keys/opened/opening.py"
PROCESS: Final = "control_plane/app/process.py"
SERVICE: Final = "control_plane/tenants/service.py"
SERVICER: Final = "control_plane/tenants/servicer.py"
MODEL: Final = "control_plane/tenants/model.py"
WIRE: Final = "control_plane/policies/wire.py"
SEALS: Final = "tests/integration/tenants/test_seals.py"
STACK: Final = "tests/e2e/test_seal.py"
RULE_TESTS: Final = "tests/unit/serving/test_authorization.py"

WALLS: Final = (
    Mutation(
        name="a sealed tenant is served",
        file=AUTHORIZATION,
        before="if entry.state == SEALED and not rule.serves_sealed:",
        after="if entry.state == SEALED and not rule:",
        noticed_by=(f"{RULE_TESTS}::test_a_sealed_tenant_is_served_only_where_the_rule_says_so",),
    ),
    Mutation(
        name="what was found before a seal is told after it",
        file=AUTHORIZATION,
        before="            await self._leave(call.rule, tenant_id)\n",
        after="",
        noticed_by=(f"{SEALS}::test_what_a_call_found_is_not_told_once_its_tenant_is_sealed",),
    ),
    Mutation(
        name="transactions do not ask whether their tenant is sealed",
        file=HANDLES,
        before="statements = (*_begin(placement, level), admit)",
        after="statements = (*_begin(placement, level), admit)[:-1]",
        noticed_by=(f"{SEALS}::test_a_sealed_tenants_transactions_are_not_admitted",),
    ),
    Mutation(
        name="the database admits a sealed tenant",
        file=SQL,
        before="WHERE tenants.number = tenant AND tenants.state = 'SEALED' AND",
        after="WHERE tenants.number = tenant AND tenants.state = 'CLOSED' AND",
        noticed_by=(f"{SEALS}::test_a_sealed_tenants_transactions_are_not_admitted",),
    ),
    Mutation(
        name="a strict tenant learns who is sealed",
        file=SQL,
        before=" AND tenants.login_role = session_user",
        after="",
        noticed_by=(f"{SEALS}::test_a_strict_tenant_does_not_learn_who_else_is_sealed",),
    ),
    Mutation(
        name="nobody knows whose transaction it is",
        file=SQL,
        before='pg_try_advisory_xact_lock_shared(1936024940, tenant)  -- "seal" as a number',
        after="true",
        noticed_by=(f"{SEALS}::test_a_transaction_from_before_the_seal_never_commits_and_a_neighbours_does",),
    ),
    Mutation(
        name="whoever is not sealed has its transactions ended",
        file=SQL,
        before="ON t.number = tenant AND t.state = 'SEALED'",
        after="ON t.number = tenant",
        noticed_by=(f"{SEALS}::test_a_tenant_that_is_not_sealed_has_none_of_its_transactions_ended",),
    ),
    Mutation(
        name="all transactions end with the sealed tenant's",
        file=SQL,
        before="AND l.objid = tenant::oid",
        after="",
        noticed_by=(f"{SEALS}::test_a_transaction_from_before_the_seal_never_commits_and_a_neighbours_does",),
    ),
    Mutation(
        name="a sealed tenant's keys are opened",
        file=KEYS,
        before="            await store.check_unsealed(tx, tenant_uid)\n",
        after="",
        noticed_by=(f"{SEALS}::test_a_sealed_tenants_keys_are_not_opened_by_anybody",),
    ),
    Mutation(
        name="what is open of a sealed tenant stays open",
        file=KEYS,
        before="await self._system.run(lambda tx: store.sealed(tx, owners)):\n",
        after="await self._system.run(lambda tx: store.sealed(tx, ())):\n",
        noticed_by=(f"{SEALS}::test_what_is_open_of_a_sealed_tenant_is_dropped_and_of_others_is_not",),
    ),
    Mutation(
        name="nobody looks who is sealed",
        file=PROCESS,
        before="                process.keys.run(),\n",
        after="",
        noticed_by=(f"{STACK}::test_no_process_keeps_a_sealed_tenants_keys_in_memory",),
    ),
    Mutation(
        name="a seal is told before every process knows of it",
        file=SERVICE,
        before="    await sleep((MAXIMUM_AGE + _ON_ITS_WAY).total_seconds())\n",
        after="",
        noticed_by=(f"{SEALS}::test_a_seal_is_told_after_the_longest_that_a_process_may_take_the_tenant_for_served",),
    ),
    Mutation(
        name="a seal waits for nothing",
        file=SERVICER,
        before="        await service.await_seal(call.system(), call.require_placement())\n",
        after="",
        noticed_by=(f"{SEALS}::test_who_seals_is_answered_once_what_was_under_way_has_ended",),
    ),
    Mutation(
        name="a sealed tenant is changed",
        file=MODEL,
        before="        if self.state.is_sealed:\n",
        after="        if self.state is State.PROVISIONING:\n",
        noticed_by=(f"{SEALS}::test_nothing_but_the_seal_can_be_changed_of_a_sealed_tenant",),
    ),
    Mutation(
        name="a sealed tenant is served again without its seal being broken",
        file=MODEL,
        before="REACTIVATE = ({State.SUSPENDED, State.READ_ONLY}, State.ACTIVE)",
        after="REACTIVATE = ({State.SUSPENDED, State.READ_ONLY, State.SEALED}, State.ACTIVE)",
        noticed_by=(f"{SEALS}::test_nothing_but_the_seal_can_be_changed_of_a_sealed_tenant",),
    ),
    Mutation(
        name="a sealed tenant has routes",
        file=WIRE,
        before='"SEALED": "SUSPENDED"}',
        after='"SEALED": "ACTIVE"}',
        noticed_by=("tests/integration/policies/test_feed.py::test_an_edge_takes_a_sealed_tenant_for_a_suspended_one",),
    ),
    Mutation(
        name="a sealed tenant's certificates are issued",
        file="proto/bulkhead/v1/certificates.proto",
        before="      cost: 10\n",
        after="      cost: 10\n      serves_suspended: true\n      serves_sealed: true\n",
        noticed_by=("tests/architecture/test_rule_bounds.py::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
)
