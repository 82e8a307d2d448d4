"""Secrets, and codes that only their owner can make, are compared in constant time: read off the sources.

An operator that stops at the first byte that differs tells a patient stranger how far a guess was right.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("control_plane", "ext_authz")
# What an operand is called, or the function that makes it, where it is secret or would be once it were right.
CONFIDENTIAL: Final = re.compile(
    r"(^|_)(check_value|commitment|digests?|hash|mac|password|pin|proof|secret|sha256|share|signature|token|voucher)$"
)
AT_ONCE: Final = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
# Who is told the right one anyway, or has nobody to hide it from.
IS_KNOWN: Final = {
    "control_plane/audit/notary.py": {"seal.hash != last.head": "both stand in the log that the tenant exports"},
    "control_plane/certificates/model.py": {
        "hashlib.sha256(text).digest() == self.sha256": "a certificate is public, and so is its digest"
    },
    "control_plane/certificates/pending.py": {"earlier.request_hash != request_hash": "of a request of the caller's"},
    "control_plane/cli/secrets/commands.py": {
        "hashlib.sha256(payload).digest() != base64.b64decode(answer['payload_sha256'])": "both came in one answer"
    },
    "control_plane/escrows/model.py": {
        "digest != self.digest": "of terms that everybody who may confirm can read",
        "self.terms.digest != self.terms_digest": "of names and public keys, both from the database",
    },
    "control_plane/keyring/imports.py": {"found.wrapped_sha256 == digest": "of what the caller itself sends again"},
    "control_plane/keyring/named_keys.py": {"found.request_hash != creation.request_hash": "of the caller's request"},
    "control_plane/keys/pkcs11/keks.py": {
        "self._cryptoki.decrypt_gcm(session, handle, sealed, nonce=nonce, aad=WITNESS) != proof": "drawn for this once"
    },
    "control_plane/keys/pkcs11/layout.py": {"token not in self.tokens": "the label of a device's token"},
    "control_plane/operations/service.py": {
        "earlier.request_hash != operation.request_hash": "of a request of the caller's"
    },
    "control_plane/secrets/service.py": {"earlier.request_hash not in hashes": "of a request of the caller's"},
    "control_plane/serving/paging.py": {
        "base64.urlsafe_b64encode(raw).decode() == token": "whether a page's token is written as we write them"
    },
    "control_plane/tokens/service.py": {"earlier.request_hash != request.digest": "of a request of the caller's"},
    "ext_authz/authz/certificate.py": {"digest in self._remembered": "of a certificate, which is public"},
}


def _called(operand: ast.expr) -> str:
    """Return what an operand is called: a variable, an attribute, what is indexed, the function that was asked."""
    match operand:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=made) | ast.Await(value=made) | ast.Subscript(value=made):
            return _called(made)
    return ""


def at_once(source: str) -> Iterator[str]:
    """Go through the comparisons of what is confidential that stop at the first difference."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not any(isinstance(operator, AT_ONCE) for operator in node.ops):
            continue
        operands = [node.left, *node.comparators]
        if any(isinstance(one, ast.Constant) and not one.value for one in operands):
            continue  # whether there is one at all
        if any(CONFIDENTIAL.search(_called(one)) for one in operands):
            yield ast.unparse(node)


@pytest.mark.behaviour("H25")
def test_what_is_confidential_is_compared_in_constant_time() -> None:
    found = {
        str(path.relative_to(ROOT)): set(at_once(path.read_text()))
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*.py")
    }

    assert {file: compared for file, compared in found.items() if compared} == {
        file: set(reasons) for file, reasons in IS_KNOWN.items()
    }


@pytest.mark.parametrize(
    "careless",
    [
        "if shown_token == _enrolment_token(secret): pass",
        "assert self._mac(owner) == found[2]",
        "return signature != made",
        "ok = digest not in digests",
        "ok = hashlib.sha256(shown).digest() == stored",
        "ok = hmac.digest(key, shown, 'sha256') == stored",
        "ok = settings.pin == (await read_pin())",
    ],
)
def test_the_build_notices(careless: str) -> None:
    assert len(list(at_once(f"async def f():\n    {careless}"))) == 1


@pytest.mark.parametrize(
    "careful", ["hmac.compare_digest(mac, shown)", "share is None", "secret == ''", "pin is not b"]
)
def test_the_build_lets_pass(careful: str) -> None:
    assert list(at_once(careful)) == []
