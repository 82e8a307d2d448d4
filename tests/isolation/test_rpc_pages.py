"""Page tokens of every list: good for one list of one tenant as they were given, and for nothing else."""

import base64
import random
from typing import Any, Final

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.isolation.rpc_callers import Answer, World
from tests.isolation.rpc_requests import METHODS, Target, path, request, rule

LISTS: Final = [method for method in METHODS if "page_token" in method.input_type.fields_by_name]
EACH_LIST: Final = pytest.mark.parametrize("method", LISTS, ids=path)
FLIPS: Final = 40


def _page(world: World, method: MethodDescriptor, target: Target, token: str = "", *, size: int = 1) -> Answer:
    message: Any = request(method, target)
    message.page_size = size
    message.page_token = token
    return world.ask(world.permitted(method, target), path(method), message)


def _list(method: MethodDescriptor, answer: Answer) -> Any:
    message: Message = GetMessageClass(method.output_type)()
    message.ParseFromString(answer.body)
    return message


def _rows(method: MethodDescriptor, answer: Answer) -> list[Message]:
    # A list's answer has its rows in the first field (AIP-158).
    return list(getattr(_list(method, answer), method.output_type.fields[0].name))


def _token(world: World, method: MethodDescriptor, target: Target) -> str:
    token = str(_list(method, _page(world, method, target)).next_page_token)
    assert token, f"{path(method)} has only one row of {target.tenant}"
    return token


@EACH_LIST
@pytest.mark.behaviour("E4.1", "T-A4")
def test_a_token_continues_its_own_list_where_the_page_ended(method: MethodDescriptor, world: World) -> None:
    first = _page(world, method, world.own)
    second = _page(world, method, world.own, str(_list(method, first).next_page_token))
    # Newer rows may have come in front of these by now.
    rows = _rows(method, _page(world, method, world.own, size=1000))

    (one,), (other,) = _rows(method, first), _rows(method, second)
    assert rows.index(other) == rows.index(one) + 1


@pytest.mark.parametrize("method", [method for method in LISTS if rule(method).tenant], ids=path)
@pytest.mark.behaviour("E4.1", "T-A4")
def test_a_token_of_one_tenant_is_nothing_to_another(method: MethodDescriptor, world: World) -> None:
    refused = _page(world, method, world.foreign, _token(world, method, world.own))

    assert refused.code == "INVALID_ARGUMENT"
    assert "page_token" in refused.text


@EACH_LIST
@pytest.mark.behaviour("E4.1", "T-A4")
def test_a_token_of_one_list_is_nothing_to_the_others(method: MethodDescriptor, world: World) -> None:
    token = _token(world, method, world.own)
    others = [other for other in LISTS if other is not method]

    assert {_page(world, other, world.own, token).code for other in others} == {"INVALID_ARGUMENT"}


@EACH_LIST
@pytest.mark.behaviour("E4.1", "T-A4")
def test_an_altered_token_is_refused(method: MethodDescriptor, world: World) -> None:
    token = _token(world, method, world.own)
    whole = bytearray(base64.urlsafe_b64decode(token))
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    codes = set()
    for bit in chance.sample(range(len(whole) * 8), FLIPS):
        altered = whole.copy()
        altered[bit // 8] ^= 1 << bit % 8
        codes.add(_page(world, method, world.own, base64.urlsafe_b64encode(altered).decode()).code)
    codes |= {_page(world, method, world.own, bad).code for bad in (token[:-4], token + token, token.swapcase(), "x")}

    assert codes == {"INVALID_ARGUMENT"}, f"seed {seed}"
