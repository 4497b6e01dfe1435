"""Errors turned into sentences: of other libraries, of settings, and of work that was interrupted."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError

UNFIT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
"""What diffusers and transformers raise of a configuration or of weights that they can make nothing of."""


def error_line(error: BaseException) -> str:
    """The beginning of a message, in one line; the error's name where the message says little without it."""
    name, message = type(error).__name__, " ".join(str(error).split())[:200]
    return (f"{name}: {message}" if isinstance(error, LookupError) else message) or name


@contextmanager
def name_place_of_write(what: str, place: object) -> Iterator[None]:
    """Name the place of what is written here in the error, which a full disk leaves out.

    Raises:
        OSError: saying what cannot be written where, and why.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except shutil.Error as error:  # of a whole folder: its list of files, each with the reason at its end
        raise OSError(f"{what} cannot be written to {place}: {error.args[0][0][-1]}") from error
    except (OSError, SafetensorError) as error:
        raise OSError(f"{what} cannot be written to {place}: {error_line(error)}") from error


def check_weights_fit(loading: Mapping[str, Any], what: str) -> None:
    """Refuses weights that are not those of the configuration beside them; diffusers draws at random what is missing.

    It raises of its own accord where a weight has another shape.

    Args:
        loading: what ``from_pretrained`` of diffusers tells with ``output_loading_info``.
        what: the folder, for the message.

    Raises:
        ValueError: naming one that is missing or too much.
    """
    if strange := sorted({*loading["missing_keys"], *loading["unexpected_keys"]}):
        raise ValueError(
            f"the weights in {what} do not fit its config.json: {len(strange)} differ, such as {strange[0]}"
        )


class Interrupted(Exception):
    """Ctrl-C or SIGTERM ended work that can go on; the message says how."""
