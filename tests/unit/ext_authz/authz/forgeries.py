"""Tokens that nobody was given: made of what a forger can have, which is all but the private key of A."""

import base64
import hmac
import json
import random
import zlib
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from control_plane.tokens.claims import write_claims
from tests.unit.ext_authz.authz.checks import NOW, A, B

MINE: Final = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
HEADER: Final[dict[str, Any]] = {"alg": "EdDSA", "kid": str(A.kid), "typ": "JWT"}
CLAIMS: Final[dict[str, Any]] = json.loads(write_claims(A.claims()))
KIDS: Final = [
    "../../../../dev/null", "/etc/passwd", "file:///dev/null", "C:\\nul", "|/bin/true", "${jndi:ldap://a.example}",
    "' OR '1'='1", "'; DROP TABLE keys; --", "x' UNION SELECT 'a2V5", "$ne", "*", "%00", "\0", "\u202e", "", " ",
    "null", "0", "{}", "A" * 3000, "00000000-0000-0000-0000-000000000000", str(A.kid).upper(), f"{{{A.kid}}}",
    f"urn:uuid:{A.kid}", A.kid.hex, f"{A.kid} ", f" {A.kid}", f"{A.kid}\n", str(UUID(int=A.kid.int ^ 1)), str(B.kid),
]  # fmt: skip


def b64(data: bytes) -> str:
    """Encode as a JWT does."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pack(value: object) -> str:
    """Make a segment of a JWT."""
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def signed(header: object = HEADER, claims: object = CLAIMS, *, key: Ed25519PrivateKey = MINE) -> str:
    """Sign whatever it is."""
    text = f"{pack(header)}.{pack(claims)}"
    return f"{text}.{b64(key.sign(text.encode()))}"


def without_signature() -> Iterator[str]:
    """No signature, and words that say that none is needed."""
    first, second, third = A.token().split(".")
    for name in ("none", "None", "NONE", "nOnE", "", "null", " none", "none\0"):
        yield f"{pack({**HEADER, 'alg': name})}.{second}."
        yield f"{pack({**HEADER, 'alg': name})}.{second}.{third}"
    yield from (f"{first}.{second}.", f"{first}.{second}", f"{pack({'alg': 'none'})}.{second}.")
    for nothing in (bytes(64), bytes(32), bytes(1), b"\x01" + bytes(63), b"\xff" * 64):
        yield f"{first}.{second}.{b64(nothing)}"


def other_algorithms() -> Iterator[str]:
    """The public key as a shared secret, and signatures of other kinds."""
    public = A.key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    raw = public.public_bytes_raw()
    jwk = json.dumps({"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}).encode()
    for size in (256, 384, 512):
        for secret in (pem, pem.strip(), der, raw, raw.hex().encode(), b64(raw).encode(), jwk, b"", b"\0"):
            text = f"{pack({**HEADER, 'alg': f'HS{size}'})}.{pack(CLAIMS)}"
            yield f"{text}.{b64(hmac.digest(secret, text.encode(), f'sha{size}'))}"
    for name in ("RS256", "PS512", "ES256K", "Ed448", "Ed25519", "eddsa", "EDDSA", "EdDSA ", "EdDSA\0", "ML-DSA-65"):
        yield signed({**HEADER, "alg": name}, key=A.key)
    for value in (["EdDSA"], {"EdDSA": 1}, None, 1, True):
        yield signed({**HEADER, "alg": value}, key=A.key)
    yield from _es256()
    yield from _rs256()


def _es256() -> Iterator[str]:
    text = f"{pack({**HEADER, 'alg': 'ES256'})}.{pack(CLAIMS)}"
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    # CVE-2022-21449: r = s = 0 is a signature of everything to a careless verifier.
    for forged in (bytes(64), order.to_bytes(32, "big") * 2, bytes.fromhex("3006020100020100")):
        yield f"{text}.{b64(forged)}"
    r, s = decode_dss_signature(ec.derive_private_key(7, ec.SECP256R1()).sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    yield f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _rs256() -> Iterator[str]:
    text = f"{pack({**HEADER, 'alg': 'RS256'})}.{pack(CLAIMS)}"
    key = rsa.generate_private_key(65537, 2048)
    yield f"{text}.{b64(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def headers() -> Iterator[str]:
    """Headers that bring a key, say where one is, or ask for more than a reader knows; well signed or not."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(MINE.public_key().public_bytes_raw()), "kid": str(A.kid)}
    extras: list[dict[str, object]] = [
        {"jwk": jwk}, {"jwk": {**jwk, "d": b64(b"\x07" * 32)}}, {"jku": "https://a.example/jwks.json"},
        {"x5u": "https://a.example/cert.pem"}, {"x5c": [b64(bytes(100))]}, {"x5t": b64(bytes(20))},
        {"x5t#S256": b64(bytes(32))}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"crit": []}, {"crit": ["kid"]}, {"b64": False}, {"zip": "DEF"}, {"cty": "JWT"}, {"enc": "A256GCM"},
        {"unheard": "of"}, {"typ": "jwt"}, {"typ": "JWE"}, {"typ": ["JWT"]}, {"typ": None}, {"typ": "at+jwt"},
    ]  # fmt: skip
    for extra in extras:
        yield signed(HEADER | extra, key=A.key)
        yield signed(HEADER | extra)
    for kid in (*KIDS, None, 1, [str(A.kid)], {"kid": str(A.kid)}):
        yield signed({**HEADER, "kid": kid}, key=A.key)
    yield signed({"alg": "EdDSA", "typ": "JWT"}, key=A.key)
    yield signed({"alg": "EdDSA", "kid": str(A.kid)}, key=A.key)
    yield signed(f'{json.dumps(HEADER)[:-1]}, "alg": "none"}}'.encode(), key=A.key)
    yield signed(f'{json.dumps(HEADER)[:-1]}, "kid": "{A.kid}"}}'.encode(), key=A.key)
    yield signed()


def claims() -> Iterator[str]:
    """Claims of a wrong kind, under the tenant's own signature: what no token of ours has ever said."""
    now = int(NOW.timestamp())
    text = json.dumps(CLAIMS)
    for name in CLAIMS:
        wrong: list[object] = [
            None,
            ...,
            "",
            1.5,
            True,
            {},
            [1],
            [CLAIMS[name]],
            "\0",
            -1,
            2**64,
            10**400,
            "x" * 3000,
        ]
        for value in wrong:
            changed = {key: item for key, item in {**CLAIMS, name: value}.items() if item is not ...}
            yield signed(claims=changed, key=A.key)
        # Twice: one reader takes the first, the next one the last.
        yield signed(claims=f'{text[:-1]}, "{name}": {json.dumps(CLAIMS[name])}}}'.encode(), key=A.key)
    day = 24 * 3600
    times: list[dict[str, Any]] = [
        {"nbf": now + 31},
        {"iat": now + 61},
        {"exp": now + 365 * day},
        {"iat": now - 2 * day, "exp": now + day},
    ]
    others: list[dict[str, Any]] = [
        {"aud": "bulkhead-admin"},
        {"aud": ["csm", "x"]},
        {"iss": "https://a.example"},
        {"sub": "a\r\nb"},
        {"sub": " a"},
    ]
    roles = ("platform-admin", "provider-operator", "service", "edge", "TENANT-ADMIN")
    for changes in (*times, *others, *({"role": role} for role in roles)):
        yield signed(claims={**CLAIMS, **changes}, key=A.key)
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 3000, "0x7fffffff", "1e10"):
        yield signed(claims=text.replace(str(CLAIMS["exp"]), number).encode(), key=A.key)


def malformed() -> Iterator[str]:
    """What is no token, or another spelling of one."""
    first, second, third = A.token().split(".")
    token = A.token()
    yield from (
        ".",
        "..",
        "...",
        "a.b.c",
        f"{token}.",
        f".{token}",
        f"{token}.{third}",
        f"{token}A",
        token[:-1],
        "A" * 5000,
    )
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for bit in (1, 2, 4, 8):
        # The last character of base64 has bits that mean nothing; another spelling must not be another token.
        yield token[:-1] + alphabet[alphabet.index(token[-1]) ^ bit]
    for value in (b"[]", b"null", b'"x"', b"1", b"{", b"\xff\xfe", b"", b'{"a":' * 500, b"[" * 1000, b"\xef\xbb\xbf{}"):
        yield signed(claims=value, key=A.key)
        yield f"{b64(value)}.{second}.{third}"
    yield signed(claims=zlib.compress(json.dumps(CLAIMS).encode()), key=A.key)
    yield signed(claims=token.encode(), key=A.key)
    yield signed(claims=json.dumps(token).encode(), key=A.key)
    yield signed(claims={**CLAIMS, "padding": "x" * 10_000}, key=A.key)
    yield f"{second}.{first}.{third}"
    rng = random.Random(9)
    for _ in range(60):
        at = rng.randrange(len(token))
        yield token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


def of_another_tenant() -> Iterator[str]:
    """What B, with a key of its own, can make of a token."""
    theirs = {**HEADER, "kid": str(B.kid)}
    yield signed(theirs, key=B.key)
    yield signed(HEADER, key=B.key)
    yield signed(theirs, key=A.key)
    yield signed(theirs, {**CLAIMS, "tid": ["org_2", "org_1"]}, key=B.key)
    yield signed(theirs, {**CLAIMS, "role": "platform-admin", "aud": "bulkhead-admin"}, key=B.key)
    yield signed(theirs, f'{json.dumps({**CLAIMS, "tid": "org_2"})[:-1]}, "tid": "org_1"}}'.encode(), key=B.key)


FORGERS: Final = [without_signature, other_algorithms, headers, claims, malformed, of_another_tenant]
