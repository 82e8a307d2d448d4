"""Where the running stack serves, and with which files a client gets in: `endpoints.json` of the state directory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.cli.calls.failures import failed

ENDPOINTS_FILE: Final = "endpoints.json"
# Every other service is served by the control plane.
_CERTIFICATES: Final = "bulkhead.v1.CertificateService"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The addresses and files that `bulkhead up` wrote."""

    admin_grpc: str
    certificates_grpc: str
    ca_file: Path
    admin_token_file: Path
    edge_http: str = ""
    """Where tenants' requests go in the clear; empty where there is no edge."""

    @classmethod
    def from_dir(cls, directory: Path) -> "Endpoints":
        """Read `endpoints.json`. Relative paths in it are relative to the state directory.

        Raises:
            CallFailedError: when nothing was started there, or the file makes no sense.
        """
        path = directory / ENDPOINTS_FILE
        try:
            content = json.loads(path.read_text())
            return cls(
                admin_grpc=str(content["admin_grpc"]),
                certificates_grpc=str(content["certificates_grpc"]),
                ca_file=directory / content["ca_file"],
                admin_token_file=directory / content["admin_token_file"],
                edge_http=str(content.get("edge_http", "")),
            )
        except FileNotFoundError:
            hint = "`{bulkhead} up` starts one there; --dir or BULKHEAD_DIR names another directory"
            raise failed("UNAVAILABLE", f"no stack runs in {directory}", hint=hint) from None
        except (OSError, KeyError, TypeError, ValueError) as error:
            hint = "`{bulkhead} up` writes it anew"
            raise failed("UNAVAILABLE", f"{path} cannot be used: {error!r}", hint=hint) from error

    def address(self, method: str) -> str:
        """Return `host:port` of the listener that serves the method `package.Service/Method`."""
        return self.certificates_grpc if method.startswith(f"{_CERTIFICATES}/") else self.admin_grpc


def read_token(path: Path) -> str:
    """Read a token from its file; at each call anew, since tokens rotate.

    Raises:
        CallFailedError: when the file cannot be read, or holds no token.
    """
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        hint = "run as the user that started the stack, or name another file with --token-file"
        cause = error.strerror if isinstance(error, OSError) else "not text"
        raise failed("UNAUTHENTICATED", f"the token file {path} cannot be read: {cause}", hint=hint) from error
    if not token or not token.isascii() or any(character.isspace() for character in token):
        hint = "put one token into it, and nothing else"
        raise failed("UNAUTHENTICATED", f"the token file {path} does not hold one token", hint=hint)
    return token
