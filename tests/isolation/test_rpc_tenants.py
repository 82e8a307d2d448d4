"""TenantService over the wire: what is read is what was written, and what is refused leaves nothing behind."""

import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2

from bulkhead.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    deletions_pb2,
    seals_pb2,
    tenant_requests_pb2,
    tenants_pb2,
    tenants_pb2_grpc,
)
from control_plane.settings import Settings
from control_plane.tenants.model import UPDATABLE
from tests.fixtures.stack import Stack
from tests.fixtures.synthetic import registry
from tests.isolation.rpc_callers import World

ADMIN: Final = "platform-admin"
# Ids that mean something to a database, a path, a cache or an eye, and one letter more than there is room for.
BAD_IDS: Final = (
    "", "ab", "Org_1", "1org", "org__1", "_org", "org_", "org-1", "org.1", "org 1", "org\n1", "org\x001", "org/1",
    "../x", "org%2e", "org:1", "org*", "org?", "org[1]", 'org"1', "org'1", "org;drop", "\u043erg_1", "\uff4frg_1",
    "\xf6rg_1", "o\u200brg_1", "pg_catalog", "csm_system", "csm_t_1", "bulkhead_x", "public", "admin", "www", "a" * 42,
    "a" * 63, "a" * 1_000_000,
)  # fmt: skip


@pytest.fixture
def service(world: World) -> Any:
    return tenants_pb2_grpc.TenantServiceStub(world.channels[False, False])


@pytest.fixture
def metadata(world: World) -> tuple[tuple[str, str], ...]:
    return world.callers[ADMIN].metadata


@pytest.fixture
def tenant(world: World, service: Any, metadata: Any) -> Iterator[tenants_pb2.Tenant]:
    """The caller's own tenant, put back as it was."""
    name = f"tenants/{world.own.tenant}"
    before = service.GetTenant(tenant_requests_pb2.GetTenantRequest(name=name), metadata=metadata)
    yield before
    mask = FieldMask(paths=UPDATABLE)
    service.ReactivateTenant(tenant_requests_pb2.ReactivateTenantRequest(name=name), metadata=metadata)
    before.ClearField("etag")
    service.UpdateTenant(tenants_pb2.UpdateTenantRequest(tenant=before, update_mask=mask), metadata=metadata)


def _refused(call: Callable[[], object]) -> tuple[str, dict[str, str]]:
    """Return the code of the refusal, and each field that it complains of with the reason."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    details = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details
    request, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    found: dict[str, str] = {}
    for detail in details:
        if detail.Unpack(info):
            found[""] = info.reason
        if detail.Unpack(request):
            found |= {violation.field: violation.reason for violation in request.field_violations}
    return error.code().name, found


@pytest.mark.behaviour("E4.1", "E4.3")
def test_pages_go_through_all_tenants_once_and_in_order(world: World, service: Any, metadata: Any) -> None:
    def page(size: int, token: str = "") -> tenants_pb2.ListTenantsResponse:
        asked = tenant_requests_pb2.ListTenantsRequest(page_size=size, page_token=token)
        answer: tenants_pb2.ListTenantsResponse = service.ListTenants(asked, metadata=metadata)
        return answer

    whole = [tenant.name for tenant in page(1_000_000).tenants]
    seen, token = [], ""
    while True:
        answer = page(2, token)
        seen += [tenant.name for tenant in answer.tenants]
        token = answer.next_page_token
        if not token:
            break

    assert seen == whole == sorted(whole)
    assert {f"tenants/{target.tenant}" for target in (world.own, world.foreign, world.suspended, world.sealed)} <= set(
        whole
    )


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (tenant_requests_pb2.ListTenantsRequest(page_size=-1), "page_size"),
        (tenant_requests_pb2.ListTenantsRequest(page_token="bm90IG91cnM="), "page_token"),
        (tenant_requests_pb2.ListTenantsRequest(page_token="é"), "page_token"),
    ],
)
@pytest.mark.behaviour("E4.3", "T-A4")
def test_a_page_that_cannot_be_is_refused(
    asked: tenant_requests_pb2.ListTenantsRequest, field: str, service: Any, metadata: Any
) -> None:
    code, found = _refused(lambda: service.ListTenants(asked, metadata=metadata))

    assert code == "INVALID_ARGUMENT"
    assert field in found


def test_an_update_with_yesterdays_etag_changes_nothing(
    tenant: tenants_pb2.Tenant, service: Any, metadata: Any
) -> None:
    mask = FieldMask(paths=["display_name"])

    def update(display_name: str) -> tenants_pb2.Tenant:
        wanted = tenants_pb2.Tenant(name=tenant.name, etag=tenant.etag, display_name=display_name)
        asked = tenants_pb2.UpdateTenantRequest(tenant=wanted, update_mask=mask)
        answer: tenants_pb2.Tenant = service.UpdateTenant(asked, metadata=metadata)
        return answer

    first = update("first")

    assert first.etag != tenant.etag
    assert _refused(lambda: update("second")) == ("ABORTED", {"": "ETAG_MISMATCH"})
    assert service.GetTenant(tenant_requests_pb2.GetTenantRequest(name=tenant.name), metadata=metadata) == first


@pytest.mark.behaviour("S4.8")
def test_a_suspension_says_why_and_a_reactivation_gives_everything_back(
    tenant: tenants_pb2.Tenant, service: Any, metadata: Any
) -> None:
    suspend = tenant_requests_pb2.SuspendTenantRequest(name=tenant.name, reason="unpaid")
    suspended = service.SuspendTenant(suspend, metadata=metadata)
    again = service.SuspendTenant(suspend, metadata=metadata)
    reactivate = tenant_requests_pb2.ReactivateTenantRequest(name=tenant.name)
    reactivated = service.ReactivateTenant(reactivate, metadata=metadata)

    assert (suspended.state, suspended.suspend_reason) == (tenants_pb2.Tenant.SUSPENDED, "unpaid")
    assert 0 < tenant.edge_revision < suspended.edge_revision < reactivated.edge_revision
    assert again == suspended
    assert service.ReactivateTenant(reactivate, metadata=metadata) == reactivated
    for answer in (tenant, reactivated):
        answer.ClearField("update_time")
        answer.ClearField("edge_revision")
        answer.ClearField("etag")
    assert reactivated == tenant


def test_an_update_of_what_the_edge_enforces_says_from_which_revision_on(
    tenant: tenants_pb2.Tenant, service: Any, metadata: Any
) -> None:
    wanted = tenants_pb2.Tenant(
        name=tenant.name,
        requests_per_minute=7,
        domains=[f"{secrets.token_hex(4)}.example.org", f"{secrets.token_hex(4)}.example.org"],
        max_policy_age=Duration(seconds=90),
    )

    def update(*paths: str, validate_only: bool = False) -> tenants_pb2.Tenant:
        asked = tenants_pb2.UpdateTenantRequest(
            tenant=wanted, update_mask=FieldMask(paths=paths), validate_only=validate_only
        )
        answer: tenants_pb2.Tenant = service.UpdateTenant(asked, metadata=metadata)
        return answer

    checked = update("domains", validate_only=True)
    all_three = update("requests_per_minute", "domains", "max_policy_age")
    again = update("requests_per_minute", "domains", "max_policy_age")
    wanted = tenants_pb2.Tenant(name=tenant.name, display_name="another")
    name_alone = update("display_name")
    cleared = update("requests_per_minute", "domains", "max_policy_age")

    assert (checked.domains, checked.edge_revision) == (all_three.domains, tenant.edge_revision)
    assert (all_three.requests_per_minute, all_three.max_policy_age.seconds) == (7, 90)
    assert again == all_three
    assert tenant.edge_revision < all_three.edge_revision == name_alone.edge_revision < cleared.edge_revision
    assert (cleared.requests_per_minute, [*cleared.domains], cleared.max_policy_age.seconds) == (0, [], 900)


def test_a_domain_of_another_tenant_is_refused_also_when_it_is_only_validated(
    world: World, tenant: tenants_pb2.Tenant, service: Any, metadata: Any
) -> None:
    domain = f"{secrets.token_hex(4)}.example.org"
    mask = FieldMask(paths=["domains"])
    ours = tenants_pb2.Tenant(name=tenant.name, domains=[domain])
    service.UpdateTenant(tenants_pb2.UpdateTenantRequest(tenant=ours, update_mask=mask), metadata=metadata)
    theirs = tenants_pb2.Tenant(name=f"tenants/{world.foreign.tenant}", domains=[domain])
    for only in (True, False):
        update = tenants_pb2.UpdateTenantRequest(tenant=theirs, update_mask=mask, validate_only=only)
        created = tenants_pb2.CreateTenantRequest(
            tenant_id=f"taker_{secrets.token_hex(4)}", tenant=tenants_pb2.Tenant(domains=[domain]), validate_only=only
        )

        assert _refused(partial(service.UpdateTenant, update, metadata=metadata)) == (
            "ALREADY_EXISTS",
            {"": "DOMAIN_TAKEN"},
        )
        assert _refused(partial(service.CreateTenant, created, metadata=metadata))[0] == "ALREADY_EXISTS"


def _everything(stack: Stack) -> list[Any]:
    """Count whatever a creation makes."""
    settings = Settings.from_dir(stack.dir)
    with registry(settings) as connection:
        rows = connection.execute(
            """
            SELECT (SELECT count(*) FROM csm_system.tenants), (SELECT count(*) FROM csm_system.operations),
                   (SELECT count(*) FROM csm_system.tenant_keys), (SELECT count(*) FROM pg_catalog.pg_namespace),
                   (SELECT count(*) FROM pg_catalog.pg_roles)
            """
        ).fetchall()
    return [*rows, sorted(path.name for path in settings.vault_dir.rglob("*"))]


@pytest.mark.behaviour("S4.15", "T-D5")
def test_a_bad_id_is_refused_with_its_field_and_makes_nothing(stack: Stack, service: Any, metadata: Any) -> None:
    before = _everything(stack)
    refusals = {}
    for bad in BAD_IDS:
        asked = tenants_pb2.CreateTenantRequest(tenant_id=bad)
        refusals[bad] = _refused(partial(service.CreateTenant, asked, metadata=metadata))

    assert {bad: it for bad, it in refusals.items() if it[0] != "INVALID_ARGUMENT" or "tenant_id" not in it[1]} == {}
    assert _everything(stack) == before


@pytest.mark.behaviour("S4.15", "S4.17")
def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_made(
    stack: Stack, service: Any, metadata: Any
) -> None:
    before = _everything(stack)
    wrong = tenants_pb2.Tenant(
        display_name="a" * 1_000_000,
        tier="platinum",
        cell="atlantis",
        admin_email="nobody",
        labels={"UPPER": "x", "right": "\u202eleft"},
        requests_per_minute=-1,
        domains=["localhost", "good.example.org", "good.example.org"],
        max_policy_age=Duration(seconds=315_576_000_000),
        rate_limits=[tenants_pb2.Tenant.RateLimit(window=tenants_pb2.Tenant.RateLimit.DAY, units=-1)],
        billing_day=-1,
        time_zone="Mars/Base",
    )
    wrong.rate_limits.add(units=2**63 - 1)
    wrong.isolation_level = 7  # type: ignore[assignment]  # an enum of proto3 is open
    asked = tenants_pb2.CreateTenantRequest(tenant_id="csm_system", tenant=wrong, request_id="not a UUID")

    code, found = _refused(lambda: service.CreateTenant(asked, metadata=metadata))

    fields = {
        "display_name", "tier", "cell", "admin_email", "labels", "isolation_level", "requests_per_minute",
        "domains[0]", "domains[2]", "max_policy_age", "rate_limits[0].units", "rate_limits[1].window",
        "rate_limits[1].units", "billing_day", "time_zone",
    }  # fmt: skip
    assert code == "INVALID_ARGUMENT"
    assert found.keys() == {"", "tenant_id", "request_id", *(f"tenant.{field}" for field in fields)}
    assert _everything(stack) == before


@pytest.mark.behaviour("S4.18")
def test_a_validated_creation_makes_nothing(stack: Stack, service: Any, metadata: Any) -> None:
    before = _everything(stack)
    asked = tenants_pb2.CreateTenantRequest(tenant_id=f"valid_{secrets.token_hex(4)}", validate_only=True)

    answer = service.CreateTenant(asked, metadata=metadata)

    assert answer.done
    assert _everything(stack) == before


@pytest.mark.behaviour("S4.15")
def test_an_id_that_is_taken_is_refused(world: World, service: Any, metadata: Any) -> None:
    for only in (True, False):
        asked = tenants_pb2.CreateTenantRequest(tenant_id=world.own.tenant, validate_only=only)

        assert _refused(partial(service.CreateTenant, asked, metadata=metadata))[0] == "ALREADY_EXISTS"


@pytest.mark.parametrize("rpc", ["SealTenant", "UnsealTenant"])
@pytest.mark.parametrize("reason", ["", " \t", "a\nb", "x" * 501])
def test_who_seals_or_unseals_says_why(world: World, service: Any, metadata: Any, rpc: str, reason: str) -> None:
    asked = getattr(seals_pb2, f"{rpc}Request")(name=f"tenants/{world.sealed.tenant}", reason=reason)

    assert _refused(lambda: getattr(service, rpc)(asked, metadata=metadata))[1].keys() >= {"reason"}


@pytest.mark.behaviour("S2.3", "S4.6")
def test_a_sealed_tenant_is_suspended_when_it_is_unsealed_and_its_log_says_why(
    tenant: tenants_pb2.Tenant, world: World, service: Any, metadata: Any
) -> None:
    seal = seals_pb2.SealTenantRequest(name=tenant.name, reason="a leaked key")
    sealed = service.SealTenant(seal, metadata=world.callers["tenant-admin"].metadata)
    again = service.SealTenant(seal, metadata=metadata)
    reactivate = tenant_requests_pb2.ReactivateTenantRequest(name=tenant.name)
    refused = _refused(lambda: service.ReactivateTenant(reactivate, metadata=metadata))
    locked_out = _refused(lambda: service.GetTenant(
        tenant_requests_pb2.GetTenantRequest(name=tenant.name), metadata=world.callers["tenant-admin"].metadata
    ))  # fmt: skip
    unseal = seals_pb2.UnsealTenantRequest(name=tenant.name, reason="it was none")
    unsealed = service.UnsealTenant(unseal, metadata=metadata)
    service.ReactivateTenant(reactivate, metadata=metadata)
    audit = audit_pb2_grpc.AuditServiceStub(world.channels[False, False])
    entries = audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(parent=tenant.name), metadata=metadata)

    assert (sealed.state, sealed.suspend_reason) == (tenants_pb2.Tenant.SEALED, "a leaked key")
    assert again == sealed
    assert refused == ("FAILED_PRECONDITION", {"": "TENANT_SEALED"})
    assert locked_out == refused
    assert (unsealed.state, unsealed.suspend_reason) == (tenants_pb2.Tenant.SUSPENDED, "it was none")
    told = [
        (entry.actor.partition(":")[0], entry.method.rpartition("/")[2], entry.details["suspend_reason"])
        for entry in entries.audit_entries
        if entry.outcome == audit_pb2.AuditEntry.EFFECT and entry.method.lower().endswith("sealtenant")
    ]
    assert told == [("platform-admin", "UnsealTenant", "it was none"), ("tenant-admin", "SealTenant", "a leaked key")]


@pytest.mark.behaviour("S4.10")
def test_everything_wrong_with_a_deletion_is_told_at_once_and_nothing_is_done(
    tenant: tenants_pb2.Tenant, service: Any, metadata: Any
) -> None:
    asked = deletions_pb2.DeleteTenantRequest(
        name=tenant.name, confirmation="another", waiting_period=Duration(seconds=9)
    )
    status, violations = _refused(lambda: service.DeleteTenant(asked, metadata=metadata))
    asked.confirmation, asked.reason, asked.waiting_period.seconds = tenant.name.rpartition("/")[2], "a", 2**40
    _, too_long = _refused(lambda: service.DeleteTenant(asked, metadata=metadata))
    found = service.GetTenant(tenant_requests_pb2.GetTenantRequest(name=tenant.name), metadata=metadata)

    assert (status, set(violations)) == ("INVALID_ARGUMENT", {"", "confirmation", "waiting_period", "reason"})
    assert set(too_long) == {"", "waiting_period"}
    assert found == tenant


@pytest.mark.behaviour("S4.10")
def test_a_deleted_tenant_is_shut_until_that_is_taken_back_and_its_log_says_why(
    world: World, service: Any, metadata: Any
) -> None:
    name = f"tenants/{world.sealed.tenant}"
    asked = deletions_pb2.DeleteTenantRequest(name=name, confirmation=world.sealed.tenant, reason="a contract's end")
    deleted = service.DeleteTenant(asked, metadata=metadata)
    again = service.DeleteTenant(asked, metadata=metadata)
    unseal = seals_pb2.UnsealTenantRequest(name=name, reason="no")
    refused = _refused(lambda: service.UnsealTenant(unseal, metadata=metadata))
    undelete = deletions_pb2.UndeleteTenantRequest(name=name, reason="it goes on")
    back = service.UndeleteTenant(undelete, metadata=metadata)
    audit = audit_pb2_grpc.AuditServiceStub(world.channels[False, False])
    entries = audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(parent=name), metadata=metadata)

    waiting = deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime()
    assert (deleted.state, waiting) == (tenants_pb2.Tenant.PENDING_DELETION, timedelta(days=30))
    assert again == deleted
    assert refused == ("FAILED_PRECONDITION", {"": "ILLEGAL_TRANSITION"})
    assert (back.state, back.HasField("purge_time")) == (tenants_pb2.Tenant.SEALED, False)
    told = [
        (entry.method.rpartition("/")[2], entry.details["state"], entry.details["suspend_reason"])
        for entry in entries.audit_entries
        if entry.outcome == audit_pb2.AuditEntry.EFFECT and entry.method.lower().endswith("deletetenant")
    ]
    assert told == [
        ("UndeleteTenant", "SEALED", "it goes on"),
        ("DeleteTenant", "PENDING_DELETION", "a contract's end"),
    ]
