"""`bulkhead encryption`: seals and opens under a tenant's own key. Ciphertexts are read and shown in base64."""

import base64
import binascii
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.cli import arguments
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.grpcurl import Secret
from control_plane.cli.calls.message import Message
from control_plane.cli.command import command
from control_plane.cli.session import Session

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Seal and open under a tenant's own key: encrypt, decrypt."
)

_SERVICE: Final = "bulkhead.v1.EncryptionService"
_PRIVATE: Final = 0o600
_PUBLIC: Final = 0o644
_STDIN: Final = Path("/dev/stdin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the key is used for."""

    bound_to: Annotated[
        list[str],
        typer.Option(
            "--context", metavar="KEY=VALUE", help="What it is bound to, and opens with again; may be given again."
        ),
    ] = field(default_factory=list)
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = ""
    key: Annotated[
        str, typer.Option(metavar="NAME", help="tenants/TENANT/keys/KEY; the key for services if none is named.")
    ] = ""
    reason_code: arguments.ReasonCode = ""
    out: arguments.OutFile = None

    def request(self, tenant: str) -> Message:
        """Say it in a request."""
        context = arguments.labels(self.bound_to)
        said = {"reason": self.reason, "reason_code": self.reason_code, "key": self.key}
        return {"parent": tenant, "encryption_context": context, **said}


Plaintext = Annotated[
    Path, typer.Option("--file", metavar="FILE", help="What is to be sealed; stdin if none is named.")
]
Ciphertext = Annotated[
    Path, typer.Option("--file", metavar="FILE", help="What was sealed, in base64; stdin if none is named.")
]


@command(app, "encrypt")
def encrypt(session: Session, tenant: arguments.Tenant, *, file: Plaintext = _STDIN, use: Use) -> None:
    """Seal a file of 64 KiB at most, and print the ciphertext in base64."""
    secret = Secret(field="plaintext", file=file, is_bytes=True)
    answer = session.call(f"{_SERVICE}/Encrypt", use.request(tenant), secret=secret)
    _hand_over(session, answer, "ciphertext", use.out, mode=_PUBLIC)


@command(app, "decrypt")
def decrypt(session: Session, tenant: arguments.Tenant, *, file: Ciphertext = _STDIN, use: Use) -> None:
    """Open what was sealed with the same context. --out writes it into a file that only you can read."""
    answer = session.call(f"{_SERVICE}/Decrypt", {**use.request(tenant), "ciphertext": _sealed(file)})
    if session.as_json:
        session.show(answer)
    else:
        session.deliver(base64.b64decode(answer["plaintext"]), use.out, mode=_PRIVATE)


@command(app, "rewrap")
def rewrap(session: Session, tenant: arguments.Tenant, *, file: Ciphertext = _STDIN, use: Use) -> None:
    """Seal anew, under the newest version of the key, and print the ciphertext in base64."""
    answer = session.call(f"{_SERVICE}/Rewrap", {**use.request(tenant), "ciphertext": _sealed(file)})
    _hand_over(session, answer, "ciphertext", use.out, mode=_PUBLIC)


@command(app, "generate-data-key")
def generate_data_key(
    session: Session,
    tenant: arguments.Tenant,
    *,
    key_bytes: Annotated[int, typer.Option("--bytes", metavar="N", help="How long it is: 32 if not said.")] = 0,
    use: Use,
) -> None:
    """Make a key for data: in base64 on stdout, or with --out in a file that only you can read; sealed on stderr."""
    answer = session.call(f"{_SERVICE}/GenerateDataKey", {**use.request(tenant), "key_bytes": key_bytes})
    _hand_over(session, answer, "plaintext", use.out, mode=_PRIVATE)
    if not session.as_json:
        session.say(f"keep beside what it seals: {answer['ciphertext']}")


def _sealed(file: Path) -> str:
    """Read a ciphertext, in base64."""
    try:
        text = sys.stdin.read() if file == _STDIN else file.read_text()
        return base64.b64encode(base64.b64decode("".join(text.split()), validate=True)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise failed("INVALID_ARGUMENT", f"{file} holds no base64", hint="name what `encrypt` has printed") from None
    except OSError as error:
        raise failed("INVALID_ARGUMENT", f"{file} cannot be read: {error.strerror}") from error


def _hand_over(session: Session, answer: Message, name: str, out: Path | None, *, mode: int) -> None:
    """Give one field of an answer to the caller, and say what sealed it."""
    if session.as_json:
        session.show(answer)
    else:
        session.deliver(answer[name], out, mode=mode)
        session.say(f"by {answer['key_version']}")
