"""Sentences for the errors of other libraries and of pydantic."""

import pytest
from pydantic import BaseModel, ValidationError

from raysde.io.errors import error_line
from raysde.io.invalid import first_mistake


def test_errors_of_other_libraries_are_one_line():
    """A KeyError's message is only its key, so the sentence adds its type; an error without a message gives its
    type."""
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
    assert said == "must be an integer"
