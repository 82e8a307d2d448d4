"""A tenant's keys as a tree."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from control_plane.cli.keyring import tree

NOW: Final = datetime(2027, 1, 31, 12, tzinfo=UTC)


def _key(name: str, **more: Any) -> dict[str, Any]:
    root = {"hsm_backed": False, "label": "software", "firmware": "", "token": "", "own_token": False}
    return {
        "name": f"tenants/org_1/keys/{name}", "purpose": name.upper(), "algorithm": "AES-256-GCM",
        "root_of_trust": root, "rotation": "", **more,
    }  # fmt: skip


def _version(number: int, *, age: timedelta, **more: Any) -> dict[str, Any]:
    return {
        "name": f"tenants/org_1/keys/x/versions/{number}", "state": "ENABLED", "primary": False, "kid": "",
        "kek_version": 0, "create_time": (NOW - age).isoformat(), **more,
    }  # fmt: skip


def test_a_tree_shows_the_root_of_trust_the_kek_and_what_it_wraps_with_ages() -> None:
    keys = [_key("kek"), _key("storage", rotation="operations/1"), _key("tokens")]
    versions = {
        "tenants/org_1/keys/kek": [
            _version(2, age=timedelta(seconds=5), primary=True),
            _version(1, age=timedelta(days=9), state="DESTROYED", destroy_time="2027-01-31T11:59:58Z"),
        ],
        "tenants/org_1/keys/storage": [_version(1, age=timedelta(days=9), primary=True, kek_version=2)],
        "tenants/org_1/keys/tokens": [
            _version(2, age=timedelta(minutes=3), kek_version=2, kid="b"),
            _version(1, age=timedelta(hours=49), primary=True, kek_version=2, kid="a"),
        ],
    }

    assert list(tree.drawn("tenants/org_1", keys, versions, now=NOW)) == [
        "tenants/org_1",
        "└─ root of trust: software, not in hardware",
        "   └─ kek  AES-256-GCM",
        "      │     version 2, enabled, primary, 5s old",
        "      │     version 1, destroyed, 9d old, destroyed 2027-01-31T11:59:58Z",
        "      ├─ storage  AES-256-GCM  (being rotated: operations/1)",
        "      │     version 1, enabled, primary, 9d old, under kek 2",
        "      └─ tokens  AES-256-GCM",
        "            version 2, enabled, 3m old, under kek 2, kid b",
        "            version 1, enabled, primary, 2d old, under kek 2, kid a",
    ]


def test_a_device_is_shown_as_what_it_is_and_nothing_in_a_label_acts_on_a_terminal() -> None:
    root = {"hsm_backed": True, "label": "Luna\x1b[2J K7", "firmware": "7.4", "token": "bulkhead-a", "own_token": True}
    drawn = list(
        tree.drawn("tenants/org_1", [_key("kek", root_of_trust=root)], {"tenants/org_1/keys/kek": []}, now=NOW)
    )

    assert drawn[1] == "└─ root of trust: Luna\\x1b[2J K7 7.4 token bulkhead-a to itself, in hardware"


def test_a_tenant_without_keys_is_a_tree_without_branches() -> None:
    assert list(tree.drawn("tenants/org_1", [], {}, now=NOW)) == ["tenants/org_1"]
