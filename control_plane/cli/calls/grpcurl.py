"""The same call as a grpcurl command that can be pasted into a shell. Pure, but for where the descriptors are."""

import json
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from control_plane.cli.calls.endpoints import Endpoints
from control_plane.cli.calls.message import Message

_VARIABLE: Final = "BULKHEAD_TOKEN"
_CONTINUED: Final = " \\\n  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A field of a request whose value is read from a file, and shown nowhere."""

    field: str
    file: Path
    # Bytes as they are, and not a word on a line of its own.
    is_bytes: bool = False


def grpcurl(
    method: str,
    request: Message,
    *,
    endpoints: Endpoints,
    token_file: Path | None,
    timeout_s: float,
    secret: Secret | None = None,
) -> str:
    """Write the command. `token_file` None: of a call without a credential.

    What is secret stays out of the arguments, which every user of the machine can list: grpcurl itself puts the token
    into its header, and the shell's own `printf` a secret field into the request.
    """
    # Reflection serves the platform's administrators, on the admin listener; all others read the installed descriptors.
    reflected = endpoints.address(method) == endpoints.admin_grpc and token_file == endpoints.admin_token_file
    command = f"grpcurl -cacert {shlex.quote(str(endpoints.ca_file))} -max-time {timeout_s:g}"
    options = [
        *([] if reflected else [f"-protoset {shlex.quote(descriptors())}"]),
        *([f"-expand-headers -H 'authorization: Bearer ${{{_VARIABLE}}}'"] if token_file else []),
        "-d @" if secret else f"-d {shlex.quote(json.dumps(request))}",
        f"{endpoints.address(method)} {method}",
    ]
    if token_file:
        command = f'{_VARIABLE}="$(cat {shlex.quote(str(token_file))})" {command}'
    if secret:
        command = f"{_printed(request, secret)} | {command}"
    return _CONTINUED.join([command, *options])


def descriptors() -> str:
    """Return the path of the installed descriptor set."""
    return str(files("bulkhead.v1").joinpath("bulkhead.protoset"))


def _printed(request: Message, secret: Secret) -> str:
    form = json.dumps({**request, secret.field: ""}).replace("\\", "\\\\").replace("%", "%%")
    # The secret field is the last one, and its value what stands between the last two quotes.
    form = f'{form.removesuffix(chr(34) + "}")}%s"}}'
    file = shlex.quote(str(secret.file))
    read = f"base64 < {file} | tr -d '\\n'" if secret.is_bytes else f"cat {file}"
    return f'printf {shlex.quote(form)} "$({read})"'
