"""The platform's own tokens: for its administrators, who belong to no tenant."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from control_plane import private_file
from control_plane.ids import new_uuid
from control_plane.serving.principal import Role
from control_plane.tokens.claims import PLATFORM_AUDIENCE, PLATFORM_ROLES, Claims
from control_plane.tokens.model import lifetime_violation, subject_violation
from control_plane.tokens.signature import sign

_ADMIN_TOKEN_LIFETIME: Final = timedelta(hours=24)
_ADMIN_TOKEN_RENEWAL: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformIssuer:
    """Issues the platform's tokens. They are remembered nowhere and cannot be revoked, so let them be short-lived."""

    private_key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the key, or make one that is durable on return. Blocks. Of two at once both get the same key.

        The public half is put beside it, as `<path>.pub`, for those who only verify.

        Raises:
            ExposedKeyError: when others may read the file.
            ValueError: when it is no such key.
        """
        try:
            pem = private_file.read(path)
        except FileNotFoundError:
            private_file.create(path, _to_pem(Ed25519PrivateKey.generate()))
            pem = private_file.read(path)
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            message = f"{path} is not an Ed25519 key: put the key back from your backup of it"
            raise ValueError(message)  # noqa: TRY004 the caller gave a path, and the file has the wrong content
        private_file.replace(_public(path), _to_public_pem(key.public_key()))
        return cls(private_key=key)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """What these tokens are verified with."""
        return self.private_key.public_key()

    def issue(self, subject: str, role: str, *, ttl: timedelta, now: datetime) -> str:
        """Make a token.

        Raises:
            ValueError: for a subject, role or lifetime that the verifier would refuse.
        """
        if role not in PLATFORM_ROLES or subject_violation(subject) or lifetime_violation(ttl):
            message = f"no platform token for {subject!r} as {role!r} for {ttl}"
            raise ValueError(message)
        begin = now.astimezone(UTC).replace(microsecond=0)
        claims = Claims(
            audience=PLATFORM_AUDIENCE,
            subject=subject,
            role=role,
            scopes=(),
            token_id=new_uuid(),
            issue_time=begin,
            not_before=begin,
            expire_time=begin + ttl,
            tenant_id=None,
        )
        return sign(claims, platform_kid(self.public_key), private_key=self.private_key)


async def keep_admin_token(path: Path, issuer: PlatformIssuer) -> None:
    """Keep a fresh administrator's token in the file at `path`, until cancelled."""
    while True:
        token = issuer.issue("local", Role.PLATFORM_ADMIN, ttl=_ADMIN_TOKEN_LIFETIME, now=datetime.now(UTC))
        await asyncio.to_thread(private_file.replace, path, token.encode())
        await asyncio.sleep(_ADMIN_TOKEN_RENEWAL.total_seconds())


def platform_kid(public_key: Ed25519PublicKey) -> UUID:
    """Name the key by its own digest: no tenant's key can have that name but by chance in 2**128."""
    raw = public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return UUID(bytes=hashlib.sha256(raw).digest()[:16])


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read the public half of the issuer's key at `path`. Blocks. Raises FileNotFoundError until there is an issuer."""
    key = serialization.load_pem_public_key(private_file.read(_public(path)))
    if not isinstance(key, Ed25519PublicKey):
        message = f"{_public(path)} is not an Ed25519 key: remove it, and the control plane writes it anew"
        raise ValueError(message)  # noqa: TRY004 as above
    return key


def _public(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


def _to_public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _to_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
