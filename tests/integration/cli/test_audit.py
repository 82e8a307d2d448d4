"""The audit log at the command line."""

import json
import time
from typing import Any

import pytest

from bulkhead.v1 import audit_pb2
from control_plane import errors


def entry(number: int) -> audit_pb2.AuditEntry:
    made = audit_pb2.AuditEntry(
        name=f"tenants/org_1/auditEntries/{number}",
        actor="platform-admin:local",
        method="/bulkhead.v1.TenantService/SuspendTenant",
        resource="tenants/org_1",
        outcome=audit_pb2.AuditEntry.EFFECT,
        count=1,
    )
    made.create_time.seconds = number
    return made


def log_of(numbers: list[int]) -> Any:
    """Serve these entries, newest first, in pages."""

    def give(request: audit_pb2.ListAuditEntriesRequest) -> audit_pb2.ListAuditEntriesResponse:
        newest_first = numbers[::-1]
        start = int(request.page_token or 0)
        end = start + request.page_size
        return audit_pb2.ListAuditEntriesResponse(
            audit_entries=[entry(number) for number in newest_first[start:end]],
            next_page_token=str(end) if end < len(newest_first) else "",
        )

    return give


def test_tail_prints_the_last_entries_oldest_first(api: Any, cli: Any) -> None:
    api.answer("ListAuditEntries", log_of(list(range(1, 31))))
    done = cli("audit", "tail", "org_1", "--lines", "3")

    assert [line.split()[0] for line in done.out.splitlines()[1:]] == [f"1970-01-01T00:00:{n}Z" for n in (28, 29, 30)]
    assert done.out.splitlines()[1].split()[1:] == [
        "EFFECT", "platform-admin:local", "SuspendTenant", "tenants/org_1",
    ]  # fmt: skip


def test_tail_shows_a_denial_where_it_happened_though_it_was_written_later(api: Any, cli: Any) -> None:
    api.answer("ListAuditEntries", log_of([1, 3, 2]))
    done = cli("audit", "tail", "org_1")

    assert [line.split()[0] for line in done.out.splitlines()[1:]] == [f"1970-01-01T00:00:0{n}Z" for n in (1, 2, 3)]


def test_tail_reads_on_where_a_page_is_not_enough(api: Any, cli: Any) -> None:
    api.answer("ListAuditEntries", log_of(list(range(2500))))
    done = cli("audit", "tail", "org_1", "-n", "2200", "--json")

    assert len(done.json["audit_entries"]) == 2200
    assert done.json["audit_entries"][-1]["name"].endswith("/2499")


def test_follow_prints_each_new_entry_once_late_ones_too(api: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 commits before 3 does; then comes a burst of more than a page.
    states = [[1, 2], [1, 2, 4], [1, 2, 3, 4], list(range(1, 300))]
    api.answer("ListAuditEntries", log_of(states[0]))

    def next_state(seconds: float) -> None:
        states.pop(0)
        if not states:
            raise KeyboardInterrupt
        api.answer("ListAuditEntries", log_of(states[0]))

    monkeypatch.setattr(time, "sleep", next_state)
    done = cli("audit", "tail", "org_1", "--follow", "--json")
    printed = [int(json.loads(line)["name"].rpartition("/")[2]) for line in done.out.splitlines()]

    assert done.code == 130
    assert printed == [1, 2, 4, 3, *range(5, 300)]


def test_follow_waits_for_a_control_plane_that_is_away(api: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Any] = [errors.UnavailableError("away"), errors.UnavailableError("away"), log_of([1, 2])]
    api.answer("ListAuditEntries", log_of([1]))

    def next_state(seconds: float) -> None:
        if not states:
            raise KeyboardInterrupt
        api.answer("ListAuditEntries", states.pop(0))

    monkeypatch.setattr(time, "sleep", next_state)
    done = cli("audit", "tail", "org_1", "--follow")

    assert [line.split()[0][-3:] for line in done.out.splitlines()] == ["01Z", "02Z"]
    assert done.err.count("waiting: UNAVAILABLE: away") == 1


def test_denials_that_stand_for_many_say_so(api: Any, cli: Any) -> None:
    denied = audit_pb2.AuditEntry(outcome=audit_pb2.AuditEntry.DENIED, reason="SCOPE_MISSING", count=40, method="/a/B")
    denied.create_time.seconds = 1
    api.answer("ListAuditEntries", audit_pb2.ListAuditEntriesResponse(audit_entries=[denied]))

    assert cli("audit", "tail", "org_1").out.splitlines()[1].split()[-3:] == ["SCOPE_MISSING", "40", "times"]


def test_a_log_that_holds_is_verified(api: Any, cli: Any) -> None:
    api.answer("VerifyAuditLog", audit_pb2.VerifyAuditLogResponse(sealed_entries=7, head=b"\1"))
    done = cli("audit", "verify", "org_1", "--json")

    assert (done.code, done.json["sealed_entries"]) == (0, "7")


def test_a_log_that_does_not_hold_fails_the_command(api: Any, cli: Any) -> None:
    api.answer("VerifyAuditLog", audit_pb2.VerifyAuditLogResponse(sealed_entries=7, first_broken_sequence=3))
    done = cli("audit", "verify", "org_1", "--json")

    assert (done.code, done.error["reason"]) == (4, "AUDIT_CHAIN_BROKEN")
    assert "from sequence 3 on" in done.error["message"]
    assert done.json["first_broken_sequence"] == "3"


def test_a_log_that_may_not_be_read_is_denied(api: Any, cli: Any) -> None:
    api.answer("ListAuditEntries", errors.PermissionDeniedError("no"))

    assert cli("audit", "tail", "org_1").code == 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"first_forged_checkpoint": 3}, "AUDIT_CHECKPOINT_FORGED"),
        ({"first_forged_key_version": "tenants/org_1/keys/audit/versions/1"}, "AUDIT_KEY_FORGED"),
        ({"first_forged_key_version": "x", "first_broken_sequence": 2}, "AUDIT_CHAIN_BROKEN"),
    ],
)
def test_what_is_forged_fails_a_verification(api: Any, cli: Any, *, fields: dict[str, Any], reason: str) -> None:
    api.answer("VerifyAuditLog", audit_pb2.VerifyAuditLogResponse(**fields))
    done = cli("audit", "verify", "org_1", "--json")

    assert (done.code, done.error["reason"]) == (4, reason)
