"""Errors turned into one sentence: errors of other libraries, of weights, and of interrupted work."""

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
"""Exceptions that diffusers and transformers raise for a configuration or weights that they cannot use."""


def error_line(error: BaseException) -> str:
    """Return the beginning of an error's message as one line, with its type where the message alone says little."""
    name, message = type(error).__name__, " ".join(str(error).split())[:200]
    return (f"{name}: {message}" if isinstance(error, LookupError) else message) or name


@contextmanager
def name_place_of_write(what: str, place: object) -> Iterator[None]:
    """Name content and target of a write in its OSError, since the error of a full disk omits both.

    Raises:
        OSError: with content, target and reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except shutil.Error as error:  # of a whole folder: a list of files, each with its reason last
        raise OSError(f"{what} cannot be written to {place}: {error.args[0][0][-1]}") from error
    except (OSError, SafetensorError) as error:
        raise OSError(f"{what} cannot be written to {place}: {error_line(error)}") from error


def check_weights_fit(loading: Mapping[str, Any], what: str) -> None:
    """Refuse weights that do not fit the configuration beside them.

    diffusers raises for a wrong shape, but initialises missing weights at random.

    Args:
        loading: loading info that ``from_pretrained`` of diffusers returns with ``output_loading_info``.
        what: the folder, for the message.

    Raises:
        ValueError: naming one missing or unexpected weight.
    """
    if strange := sorted({*loading["missing_keys"], *loading["unexpected_keys"]}):
        raise ValueError(
            f"the weights in {what} do not fit its config.json: {len(strange)} differ, such as {strange[0]}"
        )


class Interrupted(Exception):
    """Error for work that Ctrl-C or SIGTERM ended and that can be resumed; the message says how."""


class TakenOver(RuntimeError):
    """Error for a process that lost its run to another command; it writes nothing more about that run."""
