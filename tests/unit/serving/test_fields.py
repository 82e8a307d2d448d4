"""Fields that requests of several services have."""

from uuid import UUID

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from control_plane.errors import Violations
from control_plane.serving.fields import check_mask, read_request_id

ID = "01a21ace-d922-7586-bcd3-716aa028c6d4"


@pytest.mark.parametrize("text", [ID, ID.upper()])
def test_a_request_id_is_a_uuid_in_either_case(text: str) -> None:
    violations = Violations()

    assert (read_request_id(text, violations), violations.found) == (UUID(ID), [])


def test_a_request_without_an_id_is_a_request() -> None:
    violations = Violations()

    assert (read_request_id("", violations), violations.found) == (None, [])


@pytest.mark.parametrize("text", ["x", f"{{{ID}}}", ID.replace("-", ""), f"urn:uuid:{ID}"])
def test_whatever_else_is_said_for_an_id_is_told(text: str) -> None:
    violations = Violations()

    assert read_request_id(text, violations) is None
    assert [(one.field, one.reason) for one in violations.found] == [("request_id", "REQUEST_ID")]


def test_a_mask_names_fields_that_can_be_changed() -> None:
    violations = Violations()

    check_mask(FieldMask(paths=["labels"]), ("description", "labels"), violations)

    assert violations.found == []


def test_a_mask_of_nothing_is_told() -> None:
    violations = Violations()

    check_mask(FieldMask(), ("labels",), violations)

    assert [(one.field, one.description) for one in violations.found] == [
        ("update_mask", "must name the fields to change")
    ]


def test_each_path_of_a_mask_that_cannot_be_changed_is_told_and_cut_short() -> None:
    violations = Violations()

    check_mask(FieldMask(paths=["labels", "uid", "x" * 500]), ("description", "labels"), violations)

    assert [(one.field, one.reason, one.description) for one in violations.found] == [
        ("update_mask", "MASK", "uid cannot be changed; description, labels can"),
        ("update_mask", "MASK", f"{'x' * 100} cannot be changed; description, labels can"),
    ]
