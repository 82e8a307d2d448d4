"""Every error that a caller may see has a status and a reason of its own."""

import importlib
import pkgutil
from collections.abc import Iterator

import control_plane
from control_plane.errors import DomainError
from control_plane.serving.status import CODES


def _import_everything() -> None:
    for module in pkgutil.walk_packages(control_plane.__path__, "control_plane."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


def _kinds(kind: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _kinds(child)


def test_every_domain_error_has_a_status() -> None:
    _import_everything()
    without = [kind.__name__ for kind in _kinds() if not set(kind.__mro__) & CODES.keys()]

    assert without == []


def test_every_domain_error_has_a_reason_that_no_other_has() -> None:
    _import_everything()
    reasons = [kind.reason for kind in _kinds()]

    assert all(reason.isupper() and reason.replace("_", "").isalpha() for reason in reasons)
    assert sorted(reasons) == sorted(set(reasons))
