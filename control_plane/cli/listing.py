"""Lists: a page of them, or all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from control_plane.cli import output
from control_plane.cli.calls.failures import CallFailedError
from control_plane.cli.calls.message import Message
from control_plane.cli.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """How much of a list to read."""

    page_size: Annotated[int, typer.Option(metavar="N", help="How many at most: 50 if not said, 1000 at most.")] = 0
    page_token: Annotated[str, typer.Option(metavar="TOKEN", help="Go on after the page that gave this.")] = ""
    everything: Annotated[bool, typer.Option("--all", help="Read page after page, to the end.")] = False


def show_list(session: Session, method: str, *, request: Message, columns: Sequence[str], paging: Paging) -> None:
    """Call a List method and print what it lists: `columns` for people.

    Raises:
        CallFailedError: after printing, a partial one, when only some of the pages could be read.
    """
    fields = {**request, "page_size": paging.page_size, "page_token": paging.page_token}
    answer: Message = {}
    failure: CallFailedError | None = None
    try:
        for page in session.pages(method, fields, follow=lambda _: paging.everything):
            answer = _joined(answer, page)
    except CallFailedError as error:
        if not error.failure.partial:
            raise
        failure = error
    _show(session, answer, columns)
    if failure:
        raise failure


def _joined(answer: Message, page: Message) -> Message:
    # A list's answer has one repeated field; what else there is, such as the token, counts as the last page says.
    return {name: [*answer.get(name, []), *value] if isinstance(value, list) else value for name, value in page.items()}


def _show(session: Session, answer: Message, columns: Sequence[str]) -> None:
    if session.as_json:
        output.put_json(answer)
        return
    output.put_table(next(value for value in answer.values() if isinstance(value, list)), columns)
    if answer.get("next_page_token"):
        session.say(f"next: there are more: --all, or --page-token {answer['next_page_token']}")
