"""A tenant's caller at the edge: plain HTTP, on one connection."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from control_plane.cli.calls.endpoints import Endpoints, read_token
from control_plane.cli.calls.failures import failed
from control_plane.cli.calls.message import Message

_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the edge answered."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes
    seconds: float
    """From the first byte sent to the last one read."""

    @property
    def content(self) -> Message:
        """The body's JSON object; empty where it is something else."""
        try:
            content: Any = json.loads(self.body)
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}


class EdgeCaller:
    """Calls the edge as whoever the token in a file stands for. Leaving its context closes its connection."""

    def __init__(self, endpoints: Endpoints, token_file: Path) -> None:
        """Call at `endpoints`."""
        host, _, port = endpoints.edge_http.rpartition(":")
        self.url = f"http://{endpoints.edge_http}"
        self._connection = http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT_S)
        self._headers = {"authorization": f"Bearer {read_token(token_file)}", "content-type": "application/json"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def get(self, path: str) -> Answer:
        """Ask for what is at a path.

        Raises:
            CallFailedError: when nobody answers. A refusal is an answer.
        """
        return self._ask("GET", path)

    def post(self, path: str, request: Message) -> Answer:
        """Send a request to a path.

        Raises:
            CallFailedError: when nobody answers.
        """
        return self._ask("POST", path, json.dumps(request).encode())

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        begun = time.monotonic()
        try:
            self._connection.request(method, path, body, self._headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            message = f"the edge at {self.url} does not answer: {error!r}"
            raise failed("UNAVAILABLE", message, hint="`{bulkhead} status` shows what is up") from error
        return Answer(
            method=method,
            path=path,
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=content,
            seconds=time.monotonic() - begun,
        )
