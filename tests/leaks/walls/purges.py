"""Who is deleted, when that is for good, and what is called gone."""

from typing import Final

from tests.leaks.model import Mutation

MODEL: Final = "control_plane/tenants/model.py"
SQL: Final = "control_plane/postgres/sql/system/0022_deletions.sql"
PLAN: Final = "control_plane/purges/plan.py"
STORE: Final = "control_plane/purges/store.py"
DIRECTORY: Final = "control_plane/postgres/directory.py"
TENANCY: Final = "control_plane/postgres/schemas/tenancy.py"
WIRE: Final = "control_plane/policies/wire.py"
POLICIES: Final = "control_plane/policies/store.py"
INDEX: Final = "ext_authz/policies/model.py"
PURGES: Final = "tests/integration/purges/test_purge.py"
MODEL_TESTS: Final = "tests/unit/tenants/test_model.py"
WIRE_TESTS: Final = "tests/unit/policies/test_wire.py"
INDEX_TESTS: Final = "tests/unit/ext_authz/policies/test_model.py"

WALLS: Final = (
    Mutation(
        name="a tenant is deleted whose id nobody has typed",
        file=MODEL,
        before="    if confirmation != tenant_id:\n",
        after="    if not tenant_id:\n",
        noticed_by=(
            f"{MODEL_TESTS}::test_a_deletion_is_confirmed_by_the_id_and_can_be_taken_back_for_an_hour_at_least",
        ),
    ),
    Mutation(
        name="a purge can be taken back",
        file=MODEL,
        before="UNDELETE = ({State.PENDING_DELETION}, State.SEALED)",
        after="UNDELETE = ({State.PENDING_DELETION, State.PURGING}, State.SEALED)",
        noticed_by=(f"{MODEL_TESTS}::test_nobody_takes_a_purge_back",),
    ),
    Mutation(
        name="a deleted tenant is unsealed",
        file=MODEL,
        before="UNSEAL = ({State.SEALED}, State.SUSPENDED)",
        after="UNSEAL = ({State.SEALED, State.PENDING_DELETION}, State.SUSPENDED)",
        noticed_by=(f"{MODEL_TESTS}::test_a_deleted_tenant_is_said_to_be_undeleted_and_nothing_else",),
    ),
    Mutation(
        name="a tenant is purged before its time",
        file=STORE,
        before=" AND t.purge_time <= %(now)s\n",
        after=" AND %(now)s IS NOT NULL\n",
        noticed_by=(f"{PURGES}::test_a_tenant_is_purged_when_its_waiting_period_is_over_and_not_before",),
    ),
    Mutation(
        name="the database knows deleted tenants that are served",
        file=SQL,
        before="CHECK (deletion IS NULL OR state = 'SEALED')",
        after="CHECK (true)",
        noticed_by=(f"{PURGES}::test_the_database_lets_nobody_back_in",),
    ),
    Mutation(
        name="the database lets purged tenants come back",
        file=SQL,
        before="    RAISE check_violation USING MESSAGE = 'what is purged does not come back';\n",
        after="    NULL;\n",
        noticed_by=(f"{PURGES}::test_the_database_lets_nobody_back_in",),
    ),
    Mutation(
        name="the database deletes the rows of any tenant",
        file=SQL,
        before="  PERFORM FROM csm_system.tenants WHERE uid = tenant AND deletion = 'PURGING' FOR SHARE;\n",
        after="  PERFORM FROM csm_system.tenants WHERE uid = tenant FOR SHARE;\n",
        noticed_by=(f"{PURGES}::test_the_database_lets_nobody_back_in",),
    ),
    Mutation(
        name="a purge destroys a tenant that is not being purged",
        file=PLAN,
        before=" and tenant.uid == operation.tenant_uid and tenant.state is State.PURGING\n",
        after=" and tenant.uid == operation.tenant_uid\n",
        noticed_by=(f"{PURGES}::test_a_purge_that_meets_a_tenant_which_is_not_being_purged_does_nothing",),
    ),
    Mutation(
        name="a tenant is called purged though something of it is left",
        file=PLAN,
        before="        if found:\n",
        after="        if not placement:\n",
        noticed_by=(f"{PURGES}::test_a_tenant_is_not_called_purged_while_something_of_it_is_left",),
    ),
    Mutation(
        name="a purge takes the audit log along",
        file=TENANCY,
        before='            if not table["is_log"]:\n',
        after='            if table["name"]:\n',
        noticed_by=(f"{PURGES}::test_the_audit_log_stays_whole_and_says_how_the_tenant_went",),
    ),
    Mutation(
        name="a purged tenant is let into the cache",
        file=DIRECTORY,
        before=" AND (deletion IS NULL OR deletion = 'PENDING_DELETION') ORDER BY",
        after=" ORDER BY",
        noticed_by=(f"{PURGES}::test_a_purged_tenant_opens_nothing_and_is_let_into_no_cache",),
    ),
    Mutation(
        name="what is reported late of a purged tenant is kept",
        file=POLICIES,
        before=(
            "               AS counted (tenant_uid, method, minute, admitted, limited, cost)\n"
            "         WHERE NOT EXISTS (SELECT FROM csm_system.tenants AS t\n"
        ),
        after=(
            "               AS counted (tenant_uid, method, minute, admitted, limited, cost)\n"
            "         WHERE true OR NOT EXISTS (SELECT FROM csm_system.tenants AS t\n"
        ),
        noticed_by=(f"{PURGES}::test_what_an_edge_reports_late_of_a_purged_tenant_is_not_kept",),
    ),
    Mutation(
        name="an edge is not told who is no more",
        file=WIRE,
        before="purged_tenants=[tenant.tenant_id for tenant in changes.purged] if number == 1 else (),",
        after="purged_tenants=(),",
        noticed_by=(f"{WIRE_TESTS}::test_who_is_no_more_is_told_once_and_with_the_change_that_it_belongs_to",),
    ),
    Mutation(
        name="an edge keeps what it knew of a purged tenant",
        file=INDEX,
        before="                by_id.drop(tenant_id)\n",
        after="                pass\n",
        noticed_by=(f"{INDEX_TESTS}::test_a_purged_tenant_is_found_by_nothing_of_its_own",),
    ),
)
