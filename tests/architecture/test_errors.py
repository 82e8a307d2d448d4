"""Every error that a caller may see has a status and a reason of its own."""

from collections.abc import Iterator

from control_plane.errors import DomainError
from control_plane.serving.status import CODES


def _kinds(kind: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _kinds(child)


def test_every_domain_error_has_a_status() -> None:
    without = [kind.__name__ for kind in _kinds() if not set(kind.__mro__) & CODES.keys()]

    assert without == []


def test_every_domain_error_has_a_reason_that_no_other_has() -> None:
    reasons = [kind.reason for kind in _kinds()]

    assert all(reason.isupper() and reason.replace("_", "").isalpha() for reason in reasons)
    assert sorted(reasons) == sorted(set(reasons))
