"""A certificate and its key are two files: both are told together, and only when nobody writes them any more."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ext_authz import agent
from ext_authz.agent import Agent


class Paths:
    """Settings of which every path is something."""

    def __getattr__(self, name: str) -> str:
        return name


class Proxies:
    def __init__(self, looks: list[int]) -> None:
        self.looks = looks
        self.reloads: list[int] = []

    async def reload(self) -> None:
        self.reloads.append(len(self.looks))
        raise OSError


async def test_files_are_told_once_when_they_were_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [1, 2, 3, 3, 3, 4, 4, 4]
    proxies, of = Proxies(looks), SimpleNamespace(_settings=Paths())
    monkeypatch.setattr(agent, "_CERTIFICATES_EVERY_S", 0)
    monkeypatch.setattr(agent, "_look", lambda _: looks.pop(0))
    with pytest.raises(IndexError):
        await Agent._watch_certificates(cast("Agent", of), cast("Any", proxies))

    # After the second look that found the third, and the second that found the fourth.
    assert proxies.reloads == [4, 1]
