"""The words in which other libraries' errors and pydantic's are told."""

import pytest
from pydantic import BaseModel, ValidationError

from raysde.io.errors import error_line
from raysde.io.invalid import first_mistake


def test_errors_of_other_libraries_are_one_line():
    """A KeyError says only its key, so its name is told; an error without words is told by its name."""
    assert error_line(ValueError("a\n  b")) == "a b"
    assert error_line(KeyError("width")) == "KeyError: 'width'"
    assert error_line(IndexError()) == "IndexError: "
    assert error_line(AssertionError()) == "AssertionError"
    assert len(error_line(OSError("x" * 999))) == 200


def test_the_first_mistake_is_named_by_its_path():
    class Inner(BaseModel):
        numbers: list[int]

    class Outer(BaseModel):
        inner: Inner
        other: int

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"numbers": [1, "x"]}, "other": "y"})
    where, said = first_mistake(caught.value)
    assert where == "inner.numbers.1"
    assert said.startswith("Input should be a valid integer")
