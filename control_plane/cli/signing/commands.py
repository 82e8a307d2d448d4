"""Sign and verify by keys that a tenant has made. Signatures are read and shown in base64."""

import base64
import binascii
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
    no_args_is_help=True, rich_markup_mode=None, help="Sign and verify by a tenant's own keys: sign, verify."
)

_SERVICE: Final = "bulkhead.v1.SigningService"
_PUBLIC: Final = 0o644
_STDIN: Final = Path("/dev/stdin")

Key = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/keys/KEY, which signs.")]
Version = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/keys/KEY/versions/VERSION")]
File = Annotated[Path, typer.Option("--file", metavar="FILE", help="What is signed; stdin if none is named.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the audit log is told of a signature."""

    told: Annotated[
        list[str], typer.Option("--context", metavar="KEY=VALUE", help="For the audit log; may be given again.")
    ] = field(default_factory=list)
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = ""
    reason_code: arguments.ReasonCode = ""

    def request(self, name: str) -> Message:
        """Say it in a request."""
        said = {"reason": self.reason, "reason_code": self.reason_code}
        return {"name": name, "context": arguments.labels(self.told), **said}


@command(app, "sign")
def sign(session: Session, name: Key, *, file: File = _STDIN, use: Use, out: arguments.OutFile = None) -> None:
    """Sign a file of 64 KiB at most by the newest version of a key, and print the signature in base64."""
    secret = Secret(field="data", file=file, is_bytes=True)
    answer = session.call(f"{_SERVICE}/Sign", use.request(name), secret=secret)
    if session.as_json:
        session.show(answer)
    else:
        session.deliver(answer["signature"], out, mode=_PUBLIC)
        session.say(f"by {answer['key_version']}")


@command(app, "verify")
def verify(
    session: Session,
    name: Key,
    *,
    signature: Annotated[Path, typer.Option(metavar="FILE", help="The signature, in base64.")],
    version: Annotated[int, typer.Option(metavar="N", help="Which version has signed; the newest are tried.")] = 0,
    file: File = _STDIN,
    use: Use,
) -> None:
    """Say whether a signature is the key's, over this file. Fails where it is none."""
    request = {**use.request(name), "signature": _signature(signature), "version": version}
    answer = session.call(f"{_SERVICE}/Verify", request, secret=Secret(field="data", file=file, is_bytes=True))
    session.show(answer)
    if not answer["verified"]:
        text = "no version of the key that was tried has signed this"
        raise failed("FAILED_PRECONDITION", text, hint="--version N tries an old one", reason="SIGNATURE_WRONG")


@command(app, "public-key")
def get_public_key(session: Session, name: Version, *, out: arguments.OutFile = None) -> None:
    """Print the public half of a version in PEM: with it anybody verifies without the platform."""
    answer = session.call(f"{_SERVICE}/GetPublicKey", {"name": name})
    if session.as_json:
        session.show(answer)
    else:
        session.deliver(answer["pem"], out, mode=_PUBLIC)


def _signature(file: Path) -> str:
    try:
        return base64.b64encode(base64.b64decode("".join(file.read_text().split()), validate=True)).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise failed("INVALID_ARGUMENT", f"{file} holds no base64", hint="name what `sign` has printed") from None
    except OSError as error:
        raise failed("INVALID_ARGUMENT", f"{file} cannot be read: {error.strerror}") from error
