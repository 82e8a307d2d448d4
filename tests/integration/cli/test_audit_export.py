"""An audit log that is taken along, and checked at the command line without the platform."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bulkhead.v1 import audit_pb2
from control_plane.proofs.audit_log import CHECKPOINT_TYPE, KEY_TYPE, AuditKey, Checkpoint, first_head, link
from control_plane.proofs.envelope import signed_bytes

UID: Final = UUID("01890000-0000-7000-8000-000000000001")
NOBODY: Final = str(UUID(int=0))
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


class SignedLog:
    """A log of six entries, signed after the third and the last, by a key that was rotated in between."""

    def __init__(self) -> None:
        self.platform = Ed25519PrivateKey.generate()
        self.own = [Ed25519PrivateKey.generate() for _ in range(2)]
        self.keys = [self._key(version) for version in (1, 2)]
        self.entries: list[audit_pb2.SealedAuditEntry] = []
        self.checkpoints: list[audit_pb2.AuditCheckpoint] = []
        head = first_head(UID)
        for sequence in range(1, 7):
            said: dict[str, Any] = {
                "tenant": str(UID),
                "sequence": str(sequence),
                "details": {"n": sequence, "text": "ü\n"},
            }
            head = link(head, rfc8785.dumps(said))
            self.entries.append(audit_pb2.SealedAuditEntry(sequence=sequence, canonical=rfc8785.dumps(said), hash=head))
            if sequence % 3 == 0:
                self.checkpoints.append(self._checkpoint(sequence, head, version=sequence // 3))

    def _key(self, version: int) -> AuditKey:
        return AuditKey(
            tenant="tenants/org_1",
            tenant_uid=UID,
            version=version,
            key_id=UUID(int=version),
            public=self.own[version - 1].public_key().public_bytes_raw(),
            start_time=START + version * timedelta(days=1),
            previous_version=version - 1,
        )

    def _checkpoint(self, sequence: int, head: bytes, *, version: int) -> audit_pb2.AuditCheckpoint:
        key = self.keys[version - 1]
        payload = Checkpoint(
            tenant="tenants/org_1",
            tenant_uid=UID,
            sequence=sequence,
            head=head,
            time=key.start_time,
            key_version=version,
            key_id=key.key_id,
        ).payload()
        signature = self.own[version - 1].sign(signed_bytes(CHECKPOINT_TYPE, payload))
        return audit_pb2.AuditCheckpoint(
            sequence=sequence,
            payload_type=CHECKPOINT_TYPE,
            payload=payload,
            signature=signature,
            key_id=str(key.key_id),
        )

    def export(self, request: audit_pb2.ExportAuditLogRequest) -> audit_pb2.ExportAuditLogResponse:
        """Serve four entries at a time."""
        part = [entry for entry in self.entries if entry.sequence > request.after_sequence][:4]
        is_last = len(part) < 4
        return audit_pb2.ExportAuditLogResponse(
            sealed_entries=part,
            checkpoints=[
                signed
                for signed in self.checkpoints
                if request.after_sequence < signed.sequence and (is_last or signed.sequence <= part[-1].sequence)
            ],
            last_sequence=0 if is_last else part[-1].sequence,
        )

    def list_keys(self, request: audit_pb2.ListAuditKeysRequest) -> audit_pb2.ListAuditKeysResponse:
        """Serve one key at a time, the newest first."""
        version = int(request.page_token or 2)
        return audit_pb2.ListAuditKeysResponse(
            audit_keys=[self._published(version)], next_page_token=str(version - 1) if version > 1 else ""
        )

    def _published(self, version: int) -> audit_pb2.AuditKey:
        payload = self.keys[version - 1].payload()
        signers = [self.platform, *self.own[max(version - 2, 0) : version]]
        return audit_pb2.AuditKey(
            key_version=f"tenants/org_1/keys/audit/versions/{version}",
            public_key_pem=self.keys[version - 1].public_pem,
            payload_type=KEY_TYPE,
            payload=payload,
            signatures=[
                audit_pb2.AuditKeySignature(
                    key_id=str(UUID(int=9)), signature=each.sign(signed_bytes(KEY_TYPE, payload))
                )
                for each in signers
            ],
        )

    def serve(self, api: Any) -> None:
        """Be what the API answers from now on."""
        api.answer("ExportAuditLog", self.export)
        api.answer("ListAuditKeys", self.list_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What somebody has taken along."""

    export: Path
    platform: Path
    own: Path


@pytest.fixture
def log(api: Any) -> SignedLog:
    made = SignedLog()
    made.serve(api)
    return made


@pytest.fixture
def files(log: SignedLog, cli: Any, tmp_path: Path) -> Files:
    found = Files(export=tmp_path / "log.jsonl", platform=tmp_path / "platform.pem", own=tmp_path / "own.pem")
    found.export.write_text(cli("audit", "export", "org_1").out)
    pem = log.platform.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    found.platform.write_bytes(pem)
    cli("audit", "keys", "org_1", "--out", str(found.own))
    return found


@pytest.mark.behaviour("S2.14")
def test_an_export_is_checked_without_the_platform_after_a_rotation(api: Any, cli: Any, files: Files) -> None:
    asked = len(api.received)
    done = cli("audit", "check", str(files.export), "--keys", str(files.platform), "--json")

    assert done.code == 0
    assert done.json == {
        "tenant": "tenants/org_1",
        "tenant_uid": str(UID),
        "sealed_entries": "6",
        "signed_entries": "6",
        "sign_time": "2026-01-03T00:00:00+00:00",
        "key_version": "tenants/org_1/keys/audit/versions/2",
        "key_versions": 2,
        "first_broken_sequence": "0",
        "first_forged_checkpoint": "0",
    }
    assert len(api.received) == asked


@pytest.mark.behaviour("S2.14")
def test_whoever_has_kept_the_logs_own_keys_needs_no_word_of_the_platforms(cli: Any, files: Files) -> None:
    first = files.own.read_text().partition("-----BEGIN PUBLIC KEY-----\n")[2]
    assert first.count("BEGIN") == 1
    files.own.write_text(f"-----BEGIN PUBLIC KEY-----{first.partition('-----BEGIN PUBLIC KEY-----')[2]}")

    assert cli("audit", "check", str(files.export), "--keys", str(files.own)).code == 0


def reason_of_check(cli: Any, files: Files, lines: list[str], keys: Path | None = None) -> str:
    files.export.write_text("\n".join(lines))
    done = cli("audit", "check", str(files.export), "--keys", str(keys or files.platform), "--json")
    reason: str = done.error["reason"] if done.code else ""
    return reason


def changed(line: str, *path: str, value: Any) -> str:
    said = json.loads(line)
    *outer, last = path
    reduce(lambda inner, name: inner[name], outer, said)[last] = value
    return json.dumps(said)


@pytest.mark.behaviour("S2.14")
def test_what_was_changed_in_an_export_is_named(cli: Any, files: Files) -> None:
    lines = files.export.read_text().splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == [
        *["entry"] * 3, "checkpoint", *["entry"] * 3, "checkpoint", "key", "key",
    ]  # fmt: skip
    relinked, head = lines[:5], bytes.fromhex(json.loads(lines[4])["link"])
    for line in (changed(lines[5], "entry", "details", value={}), lines[6]):
        head = link(head, rfc8785.dumps(json.loads(line)["entry"]))
        relinked.append(changed(line, "link", value=head.hex()))
    relinked += lines[7:]
    signatures = json.loads(lines[7])["checkpoint"]["signatures"]
    cases = {
        "an entry": [*lines[:1], changed(lines[1], "entry", "details", value={}), *lines[2:]],
        "a link": [*lines[:1], changed(lines[1], "link", value="00" * 32), *lines[2:]],
        "a gap": [*lines[:1], *lines[2:]],
        "a swap": [lines[0], lines[2], lines[1], *lines[3:]],
        "an entry that is gone": [*lines[:1], changed(lines[1], "entry", value=None), *lines[2:]],
        "another tenant's": [*lines[:1], changed(lines[1], "entry", "tenant", value=str(UUID(int=1))), *lines[2:]],
        "made anew": relinked,
        "cut off": [*lines[:6], *lines[7:]],
        "a checkpoint of before": [*lines[:7], changed(lines[3], "sequence", value=6), *lines[8:]],
        "a signature": [
            *lines[:3],
            changed(lines[3], "checkpoint", "signatures", value=signatures),
            *lines[4:],
        ],
    }
    found = {name: reason_of_check(cli, files, case) for name, case in cases.items()}

    assert found == {
        **dict.fromkeys(cases, "AUDIT_CHAIN_BROKEN"),
        "a checkpoint of before": "AUDIT_CHECKPOINT_FORGED",
        "a signature": "AUDIT_CHECKPOINT_FORGED",
    }
    files.export.write_text("\n".join(relinked))
    assert "from sequence 4 on" in cli("audit", "check", str(files.export), "--keys", str(files.platform)).err


@pytest.mark.behaviour("S2.14")
def test_keys_that_nobody_vouches_for_are_told_from_a_log_that_is_broken(cli: Any, files: Files) -> None:
    lines = files.export.read_text().splitlines()
    stranger = files.platform.with_name("stranger.pem")
    public = Ed25519PrivateKey.generate().public_key()
    stranger.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signatures = json.loads(lines[-1])["key"]["signatures"]

    assert reason_of_check(cli, files, lines, keys=stranger) == "AUDIT_KEY_FORGED"
    assert reason_of_check(
        cli, files, [*lines[:-1], changed(lines[-1], "key", "signatures", value=signatures[1:])]
    ) == ("AUDIT_KEY_FORGED")
    assert reason_of_check(cli, files, [*lines[:-2], lines[-1]]) == "AUDIT_KEY_FORGED"
    assert reason_of_check(cli, files, lines[:-1]) == "AUDIT_CHECKPOINT_FORGED"


def test_a_log_that_is_not_signed_proves_nothing(cli: Any, files: Files) -> None:
    lines = [line for line in files.export.read_text().splitlines() if "checkpoint" not in json.loads(line)]

    assert reason_of_check(cli, files, lines) == "AUDIT_LOG_UNSIGNED"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not whole"),
        ("nothing", "no export"),
        ("[]\n", "not whole"),
        ("7", "no export"),
        ('{"key": 7}', "no export"),
        ('{"key": {"payloadType": "", "payload": "", "signatures": []}}', "no export"),
        ("KEYS\n{}", "no export"),
        ('{"entry": {}, "link": "zz"}\nKEYS', "no export"),
    ],
)
def test_a_file_that_is_no_export_is_refused(cli: Any, files: Files, *, text: str, words: str) -> None:
    keys = "\n".join(files.export.read_text().splitlines()[-2:])
    files.export.write_text(text.replace("KEYS", keys))
    done = cli("audit", "check", str(files.export), "--keys", str(files.platform))
    files.platform.write_text("nothing")
    without = cli("audit", "check", str(files.export), "--keys", str(files.platform))

    assert (done.code, without.code) == (2, 2)
    assert words in done.err
    assert cli("audit", "check", "/nowhere", "--keys", "/nowhere").code == 2


def test_the_keys_of_a_log_are_listed(log: SignedLog, cli: Any) -> None:
    done = cli("audit", "keys", "org_1", "--all")

    assert [line.split()[0].rpartition("/")[2] for line in done.out.splitlines()[1:]] == ["2", "1"]
