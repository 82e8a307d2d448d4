"""Which tenant a client certificate names. Envoy has verified its chain; nobody but us looks at its names.

They are looked at whole: exactly one URI among them, `spiffe://bulkhead/tenant/{id}` to the letter. A certificate that
is shown without that is refused, and not passed over: it was meant to say something.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509

from control_plane.ids import tenant_id_violation

_IDENTITY: Final = re.compile(r"spiffe://bulkhead/tenant/([a-z0-9_]+)")
_MOST_REMEMBERED: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateClaim:
    """Whom a certificate names, and until when."""

    tenant_id: str
    expire_time: datetime


class CertificateReader:
    """Reads client certificates; one that was read before costs a digest."""

    def __init__(self) -> None:
        self._remembered: OrderedDict[bytes, CertificateClaim | None] = OrderedDict()

    def read(self, certificate: bytes) -> CertificateClaim | None:
        """Return what the certificate (PEM in URL encoding) claims; None where it names no tenant in the one form."""
        digest = sha256(certificate).digest()
        if digest in self._remembered:
            self._remembered.move_to_end(digest)
            return self._remembered[digest]
        claim = self._remembered[digest] = _claim(certificate)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return claim


def _claim(certificate: bytes) -> CertificateClaim | None:
    try:
        read = x509.load_pem_x509_certificate(unquote_to_bytes(certificate))
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    uris = [name for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    others = [name for name in names if isinstance(name, x509.DNSName | x509.RFC822Name)]
    identity = _IDENTITY.fullmatch(uris[0].value) if len(uris) == 1 else None
    # An identity that is written as a name of another kind is there to deceive somebody.
    if identity is None or any("/" in name.value or "\0" in name.value for name in others):
        return None
    if tenant_id_violation(identity[1]) is not None:
        return None
    return CertificateClaim(tenant_id=identity[1], expire_time=read.not_valid_after_utc)
