"""Tenants, and what lists of every kind have in common."""

from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf import json_format

from bulkhead.v1 import tenant_requests_pb2, tenants_pb2
from control_plane import errors

TENANT = tenants_pb2.Tenant(name="tenants/org_1", state=tenants_pb2.Tenant.SUSPENDED, etag="e")


def pages(count: int, *, broken_after: int = 99) -> Any:
    """Answer ListTenants with `count` pages of one tenant; after `broken_after` of them the server is away."""

    def give(request: tenant_requests_pb2.ListTenantsRequest) -> tenants_pb2.ListTenantsResponse:
        page = int(request.page_token or 1)
        if page > broken_after:
            raise errors.UnavailableError("away")
        following = str(page + 1) if page < count else ""
        tenant = tenants_pb2.Tenant(name=f"tenants/org_{page}")
        return tenants_pb2.ListTenantsResponse(tenants=[tenant], next_page_token=following)

    return give


def names(done: Any) -> list[str]:
    return [tenant["name"] for tenant in done.json["tenants"]]


def test_a_list_is_one_page_and_says_that_there_is_more(api: Any, cli: Any) -> None:
    api.answer("ListTenants", pages(3))
    told, as_json = cli("tenants", "list", "--page-size", "1"), cli("tenants", "list", "--json")

    assert [line.split()[0] for line in told.out.splitlines()] == ["NAME", "tenants/org_1"]
    assert "--page-token 2" in told.err
    assert (names(as_json), as_json.json["next_page_token"]) == (["tenants/org_1"], "2")
    assert api.received[0].request.page_size == 1


def test_a_list_goes_on_where_a_page_ended(api: Any, cli: Any) -> None:
    api.answer("ListTenants", pages(3))

    assert names(cli("tenants", "list", "--page-token", "3", "--json")) == ["tenants/org_3"]


def test_all_reads_every_page(api: Any, cli: Any) -> None:
    api.answer("ListTenants", pages(3))
    done = cli("tenants", "list", "--all", "--json")

    assert (done.code, names(done)) == (0, [f"tenants/org_{page}" for page in (1, 2, 3)])
    assert done.json["next_page_token"] == ""


def test_a_list_that_breaks_off_is_partial(api: Any, cli: Any) -> None:
    api.answer("ListTenants", pages(5, broken_after=2))
    done = cli("tenants", "list", "--all", "--json")

    assert (done.code, names(done)) == (7, ["tenants/org_1", "tenants/org_2"])
    assert done.json["next_page_token"] == "3"
    assert (done.error["code"], done.error["exit_code"]) == ("UNAVAILABLE", 7)


def test_a_list_that_does_not_begin_is_no_partial_one(api: Any, cli: Any) -> None:
    api.answer("ListTenants", errors.UnavailableError("away"))
    done = cli("tenants", "list", "--all", "--json")

    assert (done.code, done.out) == (6, "")


def test_update_names_exactly_what_it_changes(api: Any, cli: Any) -> None:
    api.answer("UpdateTenant", TENANT)
    cli("tenants", "update", "org_1", "--display-name", "", "--admin-email", "a@b.example", "--label", "k=v")
    cli("tenants", "update", "org_1", "--clear-labels", "--etag", "e", "--validate-only")
    first, second = (call.request for call in api.received)

    assert first.update_mask.paths == ["display_name", "admin_email", "labels"]
    assert (first.tenant.name, first.tenant.display_name, dict(first.tenant.labels)) == (
        "tenants/org_1",
        "",
        {"k": "v"},
    )
    assert second.update_mask.paths == ["labels"]
    assert (dict(second.tenant.labels), second.tenant.etag, second.validate_only) == ({}, "e", True)


def test_what_the_edge_enforces_is_set_by_options(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operations_pb2.Operation(name="operations/1"))
    api.answer("UpdateTenant", TENANT)
    options = ["--requests-per-minute", "7", "--domain", "a.example", "--domain", "b.example", "--max-policy-age", "1h"]
    options += [
        "--rate-limit",
        "hour=5000",
        "--rate-limit",
        "month=9",
        "--billing-day",
        "31",
        "--time-zone",
        "Asia/Tokyo",
    ]
    cli("tenants", "create", "org_1", "--no-wait", *options)
    cli("tenants", "update", "org_1", *options)
    cli("tenants", "update", "org_1", "--requests-per-minute", "0", "--clear-domains", "--max-policy-age", "0s",
        "--clear-rate-limits", "--billing-day", "0", "--time-zone", "")  # fmt: skip
    created, updated, cleared = (call.request for call in api.received)

    for tenant in (created.tenant, updated.tenant):
        assert (tenant.requests_per_minute, [*tenant.domains]) == (7, ["a.example", "b.example"])
        assert tenant.max_policy_age.seconds == 3600
        windows = tenants_pb2.Tenant.RateLimit.Window
        assert [(each.window, each.units) for each in tenant.rate_limits] == [(windows.HOUR, 5000), (windows.MONTH, 9)]
        assert (tenant.billing_day, tenant.time_zone) == (31, "Asia/Tokyo")
    assert updated.update_mask.paths == [
        "requests_per_minute", "domains", "max_policy_age", "rate_limits", "billing_day", "time_zone",
    ]  # fmt: skip
    assert cleared.update_mask.paths == updated.update_mask.paths
    assert (cleared.tenant.requests_per_minute, [*cleared.tenant.domains]) == (0, [])
    assert ([*cleared.tenant.rate_limits], cleared.tenant.billing_day, cleared.tenant.time_zone) == ([], 0, "")


@pytest.mark.parametrize("limit", ["hour", "hour=", "hour=-1", "fortnight=5", "=5", "hour=1.5"])
def test_what_is_no_limit_is_a_usage_error(api: Any, cli: Any, limit: str) -> None:
    done = cli("tenants", "update", "org_1", "--rate-limit", limit)

    assert done.code == 2
    assert api.received == []


def test_an_update_of_nothing_is_a_usage_error(api: Any, cli: Any) -> None:
    done = cli("tenants", "update", "org_1")

    assert done.code == 2
    assert api.received == []


@pytest.mark.parametrize(
    ("verb", "method", "more"),
    [
        ("suspend", "SuspendTenant", ["--reason", "unpaid", "--etag", "e"]),
        ("reactivate", "ReactivateTenant", []),
        ("seal", "SealTenant", ["--reason", "unpaid", "--etag", "e"]),
        ("unseal", "UnsealTenant", ["--reason", "unpaid"]),
    ],
)
def test_a_change_of_state_shows_the_tenant_and_the_way_on(
    api: Any, cli: Any, *, verb: str, method: str, more: list[str]
) -> None:
    api.answer(method, TENANT)
    done = cli("tenants", verb, "org_1", *more)

    assert done.code == 0
    assert ["state", "SUSPENDED"] in [line.split() for line in done.out.splitlines()]
    assert done.err.startswith("next: bulkhead")
    assert api.received[0].request.name == "tenants/org_1"
    assert getattr(api.received[0].request, "reason", "unpaid") == "unpaid"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--serializable"], {"connection_pooling": {"isolation_level": "SERIALIZABLE"}}),
        (["--as-declared", "--max-connections", "5"],
         {"connection_pooling": {"isolation_level": "AS_DECLARED", "max_connections": 5}}),
        (["--cache-bytes", "100000"], {"cache_bytes": "100000"}),
        (["--min-connections", "0"], {"connection_pooling": {"min_connections": 0}}),
    ],
)  # fmt: skip
def test_an_update_says_what_the_options_name_and_nothing_else(
    options: list[str], said: dict[str, Any], api: Any, cli: Any
) -> None:
    api.answer("UpdateTenant", tenants_pb2.Tenant(name="tenants/org_1"))
    cli("tenants", "update", "org_1", *options)
    (call,) = api.received
    sent = json_format.MessageToDict(call.request.tenant, preserving_proto_field_name=True)

    assert sent == {"name": "tenants/org_1", **said}
    assert list(call.request.update_mask.paths) == list(said)


@pytest.mark.parametrize(
    ("options", "said", "named"),
    [
        (["--post-quantum", "hybrid"], {"post_quantum": "HYBRID"}, ["post_quantum"]),
        (["--key-algorithm", "ml-dsa-65"], {"key_algorithms": ["ML_DSA_65"]}, ["key_algorithms"]),
        (["--clear-key-algorithms"], {}, ["key_algorithms"]),
    ],
)
def test_of_a_certificate_policy_the_options_name_each_part_for_itself(
    options: list[str], said: dict[str, Any], named: list[str], api: Any, cli: Any
) -> None:
    api.answer("UpdateTenant", tenants_pb2.Tenant(name="tenants/org_1"))
    cli("tenants", "update", "org_1", *options)
    (call,) = api.received
    sent = json_format.MessageToDict(call.request.tenant, preserving_proto_field_name=True)

    assert sent == {"name": "tenants/org_1", "certificate_policy": said}
    assert list(call.request.update_mask.paths) == [f"certificate_policy.{one}" for one in named]


def test_a_tenant_is_made_with_the_algorithms_that_the_options_name(api: Any, cli: Any) -> None:
    api.answer("CreateTenant", operations_pb2.Operation(done=True))
    cli("tenants", "create", "org_1", "--authority-algorithm", "rsa-4096", "--post-quantum", "off", "--validate-only")
    (call,) = api.received
    policy = call.request.tenant.certificate_policy

    assert (policy.authority_algorithm, policy.post_quantum, [*policy.key_algorithms]) == (3, 1, [])
