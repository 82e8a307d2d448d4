"""What a command works with: it calls the API as somebody, at some stack, and prints in the form that was asked for."""

import json
import os
import shlex
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import typer

from control_plane.cli import output
from control_plane.cli.arguments import Paging
from control_plane.cli.calls.endpoints import Endpoints, read_token
from control_plane.cli.calls.failures import CallFailedError, Failure, failed, partially, to_json, with_hint
from control_plane.cli.calls.grpcurl import Secret, grpcurl
from control_plane.cli.calls.message import Message, without_blanks
from control_plane.cli.calls.values import read_secret

if TYPE_CHECKING:
    from control_plane.cli.calls.client import Client

DEFAULT_DIRECTORY: Final = Path(".bulkhead")
_TIMEOUT_S: Final = 15.0
# The call may have arrived: repeated with the same id, it is carried out once.
_UNCERTAIN: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})


class Session:
    """One command's run. Leaving its context closes its channels."""

    def __init__(
        self, directory: Path, *, as_json: bool = False, print_grpcurl: bool = False, token_file: Path | None = None
    ) -> None:
        """Work with the stack of `directory`, as its administrator unless `token_file` holds another's token."""
        self.as_json = as_json
        self.print_grpcurl = print_grpcurl
        self._directory = directory
        self._token_file = token_file
        # Made by the first call, so that a command that makes none needs no stack.
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._client:
            self._client.close()

    def call(
        self, method: str, request: Message, *, timeout_s: float = _TIMEOUT_S, secret: Secret | None = None
    ) -> Message:
        """Call `package.Service/Method`; blank fields of the request are not sent, and a secret one comes from a file.

        With --print-grpcurl it prints the call instead, and ends the command.

        Raises:
            CallFailedError: whatever went wrong.
        """
        endpoints = Endpoints.from_dir(self._directory)
        token_file = self._token_file or endpoints.admin_token_file
        fields = without_blanks(request)
        if self.print_grpcurl:
            shown = grpcurl(
                method, fields, endpoints=endpoints, token_file=token_file, timeout_s=timeout_s, secret=secret
            )
            self._end_with(shown)
        if secret:
            fields[secret.field] = read_secret(secret)
        return self._connected(endpoints).call(
            method, fields, token=lambda: read_token(token_file), timeout_s=timeout_s
        )

    def call_once(self, method: str, request: Message) -> Message:
        """Call what is carried out once for the request's `request_id`, which is said where the answer was lost."""
        try:
            return self.call(method, request)
        except CallFailedError as error:
            if error.failure.code not in _UNCERTAIN:
                raise
            raise with_hint(
                error, f"repeat it with --request-id {request['request_id']}: it is carried out once"
            ) from error

    def call_anonymously(self, method: str, request: Message, *, secret: Secret) -> Message:
        """Call without a credential a method that reads one from a field of its request."""
        endpoints = Endpoints.from_dir(self._directory)
        if self.print_grpcurl:
            self._end_with(
                grpcurl(method, request, endpoints=endpoints, token_file=None, timeout_s=_TIMEOUT_S, secret=secret)
            )
        fields = {**request, secret.field: read_secret(secret)}
        return self._connected(endpoints).call(method, fields, token=None, timeout_s=_TIMEOUT_S)

    def pages(self, method: str, request: Message, *, follow: Callable[[Message], bool] = bool) -> Iterator[Message]:
        """Call a List method again and again, until its last page or until `follow` says no to a page.

        Raises:
            CallFailedError: a partial one, when pages were read before.
        """
        page_token, first = request.get("page_token"), True
        while first or page_token:
            try:
                page = self.call(method, {**request, "page_token": page_token})
            except CallFailedError as error:
                raise error if first else partially(error) from error
            yield page
            page_token, first = page["next_page_token"] if follow(page) else "", False

    def show(self, message: Message, *, leave_out: Sequence[str] = ()) -> None:
        """Print one resource; `leave_out` names what is too long for people."""
        if self.as_json:
            output.put_json(message)
        else:
            output.put_details(message, leave_out=leave_out)

    def show_list(self, method: str, request: Message, *, columns: Sequence[str], paging: Paging) -> None:
        """Call a List method and print what it lists: `columns` for people.

        Raises:
            CallFailedError: a partial one, after printing, when only some of the pages could be read.
        """
        asked = {**request, "page_size": paging.page_size, "page_token": paging.page_token}
        answer: Message = {}
        failure: CallFailedError | None = None
        try:
            for page in self.pages(method, asked, follow=lambda _: paging.everything):
                answer = _joined(answer, page)
        except CallFailedError as error:
            if not error.failure.partial:
                raise
            failure = error
        if self.as_json:
            output.put_json(answer)
        else:
            output.put_table(next(value for value in answer.values() if isinstance(value, list)), columns)
            if answer["next_page_token"]:
                self.say(f"next: there are more: --all, or --page-token {answer['next_page_token']}")
        if failure:
            raise failure

    def deliver(self, content: str | bytes, out: Path | None, *, mode: int) -> None:
        """Write what was asked for into the file `out`, or on stdout where that is None or `-`.

        A text ends with one line break; bytes are as they are.

        Raises:
            CallFailedError: when the file cannot be written.
        """
        if out is None or str(out) == "-":
            output.put(content.removesuffix("\n") if isinstance(content, str) else content)
            return
        try:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(f"{content.removesuffix(chr(10))}\n".encode() if isinstance(content, str) else content)
        except OSError as error:
            message = f"{out} cannot be written: {error.strerror}"
            raise failed("FAILED_PRECONDITION", message, hint="name another file with --out") from error

    def say(self, text: str) -> None:
        """Tell the person at the keyboard something. With --json stderr is kept for an error."""
        if not self.as_json:
            output.say(output.plain(text))

    def hint(self, *words: str) -> None:
        """Suggest the next command, given by what follows `bulkhead`."""
        if not self.as_json:
            output.say(output.plain(f"next: {self._bulkhead} {shlex.join(words)}"), faint=True)

    def request_id(self, given: str) -> str:
        """Return the request id of a call that makes something: the caller's, or a new one.

        With one, a repetition after a lost answer makes the thing once.
        """
        return given or ("" if self.print_grpcurl else str(uuid.uuid4()))

    def report(self, failure: Failure) -> None:
        """Say on stderr what went wrong, and what to do."""
        next_step = failure.next_step(bulkhead=self._bulkhead, directory=str(self._directory))
        if self.as_json:
            output.say(json.dumps(to_json(failure, next_step=next_step)))
            return
        output.say(output.plain(f"error: {failure.headline}"))
        for violation in failure.violations:
            output.say(output.plain(f"  {violation.field}: {violation.description}"))
        if failure.request_id:
            output.say(output.plain(f"  request id: {failure.request_id}"))
        output.say(output.plain(f"next: {next_step}"), faint=True)

    @property
    def _bulkhead(self) -> str:
        named = str(self._directory) not in {str(DEFAULT_DIRECTORY), os.environ.get("BULKHEAD_DIR")}
        return f"bulkhead --dir {shlex.quote(str(self._directory))}" if named else "bulkhead"

    def _connected(self, endpoints: Endpoints) -> "Client":
        if self._client is None:
            # gRPC's own lines on stderr are neither data nor talk of ours; it looks here when it is imported.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from control_plane.cli.calls.client import Client  # noqa: PLC0415 `--help` need not wait for gRPC

            self._client = Client(endpoints)
        return self._client

    def _end_with(self, command: str) -> None:
        output.put(command)
        raise typer.Exit


def _joined(answer: Message, page: Message) -> Message:
    # A list's answer has one repeated field; what else there is, such as the token, counts as the last page says.
    return {name: [*answer.get(name, []), *value] if isinstance(value, list) else value for name, value in page.items()}
