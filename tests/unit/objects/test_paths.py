"""Which paths an object may have: those of one form, and nothing that only looks like it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import InvalidArgumentError
from control_plane.ids import TenantId
from control_plane.objects.paths import ObjectName, folder_key, object_key, object_name, path_violation

ALPHA = TenantId("org_1")
GOOD = ["certificates/0198f3a2-7c1e-7a30-9b5e-0123456789ab.pem", "a", "a/b/c/d/e/f/g/h", "x" * 128, "a_b-c.d", "0"]
BAD = [
    "", "/", ".", "..", "/etc/passwd", "//a", "a//b", "a/", "/a", "../b", "a/../b", "a/..", "a/.", "./a", "a..b",
    "a.", ".a", "a/.hidden", "%2e%2e/b", "a/%2e%2e/b", "%2e", "a%2fb", "%00", "a\0", "a\0.pem", "\0", "a\\b",
    "..\\b", "C:\\a", "c:a", "A", "certificates/A.pem", "a b", " a", "a ", "a\n", "a\nb", "a\r", "\ta", "~",
    "~root", "$HOME", "*", "a?", "org_1/\uff0e\uff0e/b", "\u2024\u2024/b", "a\u2215b", "a\u2044b", "a\uff0fb",
    "\uff41", "\u0430", "e\u0301", "\u00e9", "\u0131", "\u212a", "\u017f", "\u200ba", "\ufeffa", "a\u202eb",
    "\ud800", "\u0660", "\u00b2", "a:b", "a;b", "a|b", "-a", "a-", "_a", "a--b", "x" * 129, "/".join("x" * 9),
    "/".join(["x" * 102] * 5), "a@2", "a@", "@", "a@2/b",
    "a/" * 200, "con:", "a'b", 'a"b', "a`b", "{a}", "a&b", "a=b", "a+b",
]  # fmt: skip
BAD_TENANTS = [
    "", "..", ".", "org_1/..", "org_1/../org_2", "/org_1", "Org_1", "ORG_1", "org_1 ", "org_1\n", "org_1\0",
    "\uff4frg_1", "\u043erg_1", "org%5f1", "org-1", "org.1", "system", "*", "o" * 42,
]  # fmt: skip


@pytest.mark.behaviour("S1.8")
@pytest.mark.parametrize("path", GOOD)
def test_a_good_path_leads_below_its_tenants_folder(path: str) -> None:
    assert object_key(ALPHA, path) == f"storage/org_1/{path}"


@pytest.mark.behaviour("S1.8")
@pytest.mark.behaviour("T-S1")
@pytest.mark.parametrize("path", BAD)
def test_a_path_of_any_other_form_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        object_key(ALPHA, path)
    assert [violation.field for violation in refused.value.violations] == ["path"]


@pytest.mark.behaviour("S1.8")
@pytest.mark.parametrize("tenant_id", BAD_TENANTS)
def test_no_path_is_made_from_what_is_no_tenants_id(tenant_id: str) -> None:
    for make, path in ((object_key, "a"), (folder_key, "a"), (folder_key, "")):
        with pytest.raises(InvalidArgumentError) as refused:
            make(TenantId(tenant_id), path)
        assert [violation.field for violation in refused.value.violations] == ["tenant"]


@pytest.mark.behaviour("S1.8")
def test_the_first_version_lies_under_its_path_and_others_beside_it() -> None:
    assert object_key(ALPHA, "a/b.pem", version=1) == "storage/org_1/a/b.pem"
    assert object_key(ALPHA, "a/b.pem", version=2) == "storage/org_1/a/b.pem@2"
    assert object_key(ALPHA, "a/b.pem", version=2**63 - 1) == "storage/org_1/a/b.pem@9223372036854775807"
    for version in (0, -1, 2**63):
        with pytest.raises(InvalidArgumentError) as refused:
            object_key(ALPHA, "a", version=version)
        assert [violation.field for violation in refused.value.violations] == ["version"]


@pytest.mark.parametrize("path", [*GOOD, "/".join(["x" * 84] * 6)])
@pytest.mark.parametrize("version", [1, 2, 10, 2**63 - 1])
def test_an_object_is_told_from_its_key(path: str, version: int) -> None:
    key = object_key(ALPHA, path, version=version)

    assert object_name(ALPHA, key) == ObjectName(path=path, version=version)
    assert object_name(TenantId("org_10"), key) is None
    assert object_name(TenantId("org"), key) is None
    # S3 takes 1,024 bytes, of which a bucket's prefix needs some; a file system 255 for each part.
    assert len(key) < 700
    assert max(map(len, key.split("/"))) < 255


@pytest.mark.parametrize(
    "key",
    [
        "storage/org_1", "storage/org_1/", "storage/org_10/a", "storage/org_2/a", "storage/a", "org_1/a", "a", "",
        "/storage/org_1/a", "storage/org_1//a", "storage/org_1/../org_2/a", "storage/org_1/A", "storage/org_1/a@1",
        "storage/org_1/a@02", "storage/org_1/a@0", "storage/org_1/a@-1", "storage/org_1/a@", "storage/org_1/a@2@3",
        "storage/org_1/a@x", "storage/org_1/a@2/b", "storage/org_1/a@\u0662", "storage/org_1/a@9223372036854775808",
        "storage/org_1/storage/org_1/.a", "storage/org_2/storage/org_1/a",
    ],
)  # fmt: skip
def test_a_key_that_is_never_given_a_tenant_is_no_object_of_its_own(key: str) -> None:
    assert object_name(ALPHA, key) is None


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        object_key(TenantId("Org"), "../a")

    assert [violation.field for violation in refused.value.violations] == ["tenant", "path"]


def test_an_empty_folder_is_all_that_the_tenant_has() -> None:
    assert folder_key(ALPHA, "") == "storage/org_1"
    assert folder_key(ALPHA, "certificates") == "storage/org_1/certificates"
    with pytest.raises(InvalidArgumentError):
        folder_key(ALPHA, "..")


@pytest.mark.behaviour("T-S1")
@given(path=st.text(alphabet="a.0/_-%2eA\\\0 é~", max_size=12) | st.text(max_size=30))
def test_whatever_is_accepted_stays_below_its_tenants_folder(path: str) -> None:
    if path_violation(path) is None:
        segments = path.split("/")

        assert path.isascii()
        assert path == path.lower()
        assert all(segments)
        assert not any(segment.startswith(".") or segment.endswith(".") for segment in segments)


words = st.text(alphabet="az09", min_size=1, max_size=8)


@given(st.lists(st.builds("{}{}{}".format, words, st.sampled_from("._-"), words) | words, min_size=1, max_size=8))
def test_paths_of_the_form_are_accepted(segments: list[str]) -> None:
    assert path_violation("/".join(segments)) is None
