"""Nothing but what a tenant's own key signed, as it signed it, and what the tenant remembers, is a token."""

import base64
import hashlib
import hmac
import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from control_plane.errors import UnauthenticatedError
from tests.fixtures.cell import Cell
from tests.fixtures.token_keys import ed25519

SPKI: Final = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
RAW: Final = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
KIDS: Final = [
    "../../../../dev/null",
    "/etc/passwd",
    "file:///dev/null",
    "' OR '1'='1",
    "'; DROP TABLE tokens; --",
    "x' UNION SELECT 'a2V5",
    "00000000-0000-0000-0000-000000000000",
    "",
    " ",
    "\0",
    "\u202e",
    "null",
    "A" * 3000,
    "{}",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A token that is accepted, and everything that a forger could have, the tenant's own private key included."""

    token: str
    header: dict[str, Any]
    claims: dict[str, Any]
    key: Ed25519PrivateKey
    # Of another tenant, who may sign whatever it likes.
    foreign_kid: str
    foreign_key: Ed25519PrivateKey

    def sign(self, header: object = None, claims: object = None, *, key: Ed25519PrivateKey | None = None) -> str:
        first = pack(self.header if header is None else header)
        second = pack(self.claims if claims is None else claims)
        return f"{first}.{second}.{b64((key or self.key).sign(f'{first}.{second}'.encode()))}"

    def with_claim(self, **changes: object) -> str:
        changed = {**self.claims, **changes}
        return self.sign(claims={name: value for name, value in changed.items() if value is not ...})


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pack(value: object) -> str:
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def unpack(segment: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(segment + "=="))
    return found


def without_signature(m: Material) -> Iterator[str]:
    first, second, third = m.token.split(".")
    for name in ("none", "None", "NONE", "nOnE", "", "null"):
        yield f"{pack({**m.header, 'alg': name})}.{second}."
        yield f"{pack({**m.header, 'alg': name})}.{second}.{third}"
    yield f"{pack({'kid': m.header['kid'], 'typ': 'JWT'})}.{second}."
    yield f"{first}.{second}."
    yield f"{first}.{second}"
    for nothing in (bytes(64), bytes(32), b"\x01" + bytes(63)):
        yield f"{first}.{second}.{b64(nothing)}"


def other_algorithms(m: Material) -> Iterator[str]:
    """The public key taken for a shared secret, and signatures of another kind."""
    public = m.key.public_key()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes(*RAW))}
    secrets = (
        public.public_bytes(*SPKI),
        public.public_bytes(*SPKI).strip(),
        public.public_bytes(*RAW),
        json.dumps(jwk).encode(),
        b"",
    )
    for size in (256, 384, 512):
        for secret in secrets:
            signed = f"{pack({**m.header, 'alg': f'HS{size}'})}.{pack(m.claims)}"
            yield f"{signed}.{b64(hmac.digest(secret, signed.encode(), f'sha{size}'))}"
    for name in ("HS256", "RS256", "PS512", "ES256", "ES256K", "Ed448", "Ed25519", "eddsa", "EDDSA", "EdDSA "):
        yield m.sign({**m.header, "alg": name})
    yield from (m.sign({**m.header, "alg": other}) for other in (["EdDSA"], {"EdDSA": 1}, None, 1, True))
    yield from _es256(m)
    yield from _rs256(m)


def _es256(m: Material) -> Iterator[str]:
    signed = f"{pack({**m.header, 'alg': 'ES256'})}.{pack(m.claims)}"
    # CVE-2022-21449: r = s = 0 is a signature of everything to a careless verifier.
    yield f"{signed}.{b64(bytes(64))}"
    yield f"{signed}.{b64(bytes.fromhex('3006020100020100'))}"
    der = ec.generate_private_key(ec.SECP256R1()).sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(der)
    yield f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _rs256(m: Material) -> Iterator[str]:
    key = rsa.generate_private_key(65537, 2048)
    signed = f"{pack({**m.header, 'alg': 'RS256'})}.{pack(m.claims)}"
    yield f"{signed}.{b64(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def keys_in_the_header(m: Material) -> Iterator[str]:
    mine = Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(mine.public_key().public_bytes(*RAW)), "kid": m.header["kid"]}
    extras: list[dict[str, object]] = [
        {"jwk": jwk},
        {"jku": "https://attacker.example/jwks.json"},
        {"x5u": "https://attacker.example/cert.pem"},
        {"x5c": [b64(bytes(100))]},
        {"x5t": b64(bytes(20))},
        {"x5t#S256": b64(bytes(32))},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"enc": "A256GCM"},
        {"unheard": "of"},
        {"typ": "jwt"},
        {"typ": "JWE"},
        {"typ": ["JWT"]},
        {"typ": None},
    ]
    for extra in extras:
        yield m.sign({**m.header, **extra})
        yield m.sign({**m.header, **extra}, key=mine)
    yield m.sign(key=mine)
    for kid in (*KIDS, str(uuid4()), m.header["kid"].upper(), f"{{{m.header['kid']}}}", f"urn:uuid:{m.header['kid']}"):
        yield m.sign({**m.header, "kid": kid})
    for kid in (None, 1, [m.header["kid"]], {"kid": m.header["kid"]}, m.foreign_kid):
        yield m.sign({**m.header, "kid": kid})
    yield m.sign({"alg": "EdDSA", "typ": "JWT"})
    yield m.sign({"alg": "EdDSA", "kid": m.header["kid"]})


def wrong_times(m: Material) -> Iterator[str]:
    now = int(datetime.now(UTC).timestamp())
    day = 24 * 3600
    for name in ("iat", "nbf", "exp"):
        texts: list[object] = ["", str(now + 60), [], {}, None, ...]
        numbers: list[object] = [now + 0.5, True, False, -1, 2**53, 2**63, 2**64, 10**400, 1e300]
        yield from (m.with_claim(**{name: value}) for value in texts + numbers)
    yield m.with_claim(exp=now)
    yield m.with_claim(exp=now - 1)
    yield m.with_claim(iat=now - 2 * day, nbf=now - 2 * day, exp=now - day)
    yield m.with_claim(nbf=now + 61)
    yield m.with_claim(iat=now + 61)
    yield m.with_claim(iat=now - 3600, nbf=now - 3600, exp=now + day)
    yield m.with_claim(exp=now + 365 * day)
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 3000):
        yield m.sign(claims=json.dumps(m.claims).replace(str(m.claims["exp"]), text).encode())


def wrong_claims(m: Material) -> Iterator[str]:
    for name in ("iss", "aud", "sub", "tid", "role", "scopes", "jti"):
        values: list[object] = [None, ..., "", 1, True, [], {}, ["csm"], "x", "\0"]
        # An empty list of scopes is what the token has.
        yield from (m.with_claim(**{name: value}) for value in values if (name, value) != ("scopes", []))
    yield m.with_claim(aud=["csm", "other"])
    yield m.with_claim(aud="bulkhead-admin")
    for role in ("platform-admin", "provider-operator", "service", "edge", "tenant-member", "TENANT-ADMIN"):
        yield m.with_claim(role=role)
    yield m.with_claim(scopes=["certificates.write"])
    yield m.with_claim(sub="mallory")
    yield m.with_claim(tid="org_2")
    yield m.with_claim(jti=str(uuid4()))
    yield m.with_claim(jti=m.claims["jti"].upper())
    text = json.dumps(m.claims)
    for name in m.claims:
        # Twice: one reader takes the first, the next one the last.
        yield m.sign(claims=f'{text[:-1]}, "{name}": {json.dumps(m.claims[name])}}}'.encode())
    yield m.sign(f'{json.dumps(m.header)[:-1]}, "alg": "none"}}'.encode())


def malformed(m: Material) -> Iterator[str]:
    first, second, third = m.token.split(".")
    yield from ("", ".", "..", "...", "a.b.c", m.token + ".", "." + m.token, m.token + "." + third)
    yield from (m.token + "=", m.token + " ", m.token + "\n", " " + m.token, m.token[:-1], m.token + "A")
    yield from (f"{first}=.{second}.{third}", f"{first}.{second}==.{third}", m.token.replace(".", "\u2024"))
    # The last character of base64 has bits that mean nothing; another spelling must not be another token.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    yield m.token[:-1] + alphabet[alphabet.index(m.token[-1]) ^ 1]
    for value in (b"[]", b"null", b'"x"', b"1", b"{", b"\xff\xfe", b"", b'{"a":' * 2000, b"[" * 3000):
        yield m.sign(claims=value)
        yield f"{b64(value)}.{second}.{third}"
    yield m.sign(claims=zlib.compress(json.dumps(m.claims).encode()))
    yield m.sign(claims=m.token.encode())
    yield m.sign(claims={**m.claims, "padding": "x" * 10_000})
    yield "A" * 100_000
    yield json.dumps({"payload": second, "protected": first, "signature": third})
    yield "\ud800.\ud800.\ud800"


def altered(m: Material) -> Iterator[str]:
    """Any character replaced by any other."""
    rng = random.Random(9)
    for _ in range(60):
        at = rng.randrange(len(m.token))
        yield m.token[:at] + ("A" if m.token[at] != "A" else "B") + m.token[at + 1 :]


def of_another_tenant(m: Material) -> Iterator[str]:
    """What the other tenant, with a key of its own and all rights over it, can make of a token."""
    theirs = {**m.header, "kid": m.foreign_kid}
    yield m.sign(theirs, key=m.foreign_key)
    yield m.sign(m.header, key=m.foreign_key)
    yield m.sign(theirs)
    yield m.sign(theirs, {**m.claims, "tid": "org_2"}, key=m.foreign_key)
    yield m.sign(theirs, {**m.claims, "tid": ["org_2", "org_1"]}, key=m.foreign_key)
    yield m.sign(theirs, {**m.claims, "role": "platform-admin", "aud": "bulkhead-admin"}, key=m.foreign_key)


FORGERS: Final = [
    without_signature,
    other_algorithms,
    keys_in_the_header,
    wrong_times,
    wrong_claims,
    malformed,
    altered,
    of_another_tenant,
]


@pytest.fixture
async def material(cell: Cell) -> Material:
    placement, foreign = await cell.tenant("org_1"), await cell.tenant("org_2")
    token = await cell.token(placement)
    first, second, _ = token.split(".")
    other = await cell.keys.token_signer(foreign)
    return Material(
        token=token,
        header=unpack(first),
        claims=unpack(second),
        key=ed25519((await cell.keys.token_signer(placement)).private_key),
        foreign_kid=str(other.kid),
        foreign_key=ed25519(other.private_key),
    )


@pytest.mark.behaviour("T-E9")
@pytest.mark.behaviour("S2.9")
async def test_no_forged_token_is_accepted_and_all_are_refused_alike(cell: Cell, material: Material) -> None:
    forged = [token for forger in FORGERS for token in forger(material)]
    accepted, words = [], set()
    for token in forged:
        try:
            await cell.verifier.verify(token)
        except UnauthenticatedError as error:
            words.add((error.code, error.message))
        else:
            accepted.append(token)

    assert accepted == []
    assert words == {("UNAUTHENTICATED", "the token is not accepted")}
    assert len(set(forged)) >= 200
    assert (await cell.verifier.verify(material.token)).tenant == "org_1"
    # What the forgers started from is a token: signed again with the real key, it is accepted.
    assert (await cell.verifier.verify(material.sign())).tenant == "org_1"


@pytest.mark.behaviour("T-E9")
@pytest.mark.parametrize(("ahead", "accepted"), [(timedelta(seconds=20), True), (timedelta(seconds=61), False)])
async def test_the_issuers_clock_may_be_ahead_by_less_than_a_minute(
    cell: Cell, ahead: timedelta, *, accepted: bool
) -> None:
    placement = await cell.tenant()
    token = await cell.token(placement)
    cell.verifier._now = lambda: datetime.now(UTC) - ahead
    try:
        await cell.verifier.verify(token)
        outcome = True
    except UnauthenticatedError:
        outcome = False

    assert outcome is accepted


def test_the_digest_of_a_tokens_name_is_that_of_its_own_key(cell: Cell) -> None:
    """A platform token's key is named by its digest, which no tenant's key can be given as a name."""
    public = cell.platform.public_key
    header = unpack(cell.admin_token().split(".")[0])

    assert UUID(header["kid"]).bytes == hashlib.sha256(public.public_bytes(*RAW)).digest()[:16]
