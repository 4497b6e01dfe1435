"""A checkpoint as an MLflow model: what `mlflow.pyfunc` and `mlflow models serve` call. No pickle, no MLflow in it."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from raysde.checkpoints import checkpoint
from raysde.images.png import png_metadata
from raysde.images.tensors import to_pil
from raysde.inference.model import Model
from raysde.models.sampling_defaults import GUIDED, resolve_settings
from raysde.models.spec import ModelSpec
from raysde.sampling.method import SETTINGS, make_method

Value = TypeVar("Value")


def default_parameters(spec: ModelSpec) -> dict[str, int | float | str | None]:
    """The parameters of a request and what they are if it gives none; those of `raysde sample`, so the model's own.

    Steps that were chosen for a model's own solver are none of another's, so where the model has settings of a sampler
    its steps are None: its own, or those of the solver that the request names, see
    :func:`raysde.models.sampling_defaults.complete_settings`.
    """
    own = make_method(spec.generation)
    found = resolve_settings(spec.generation, {}, spec.conditional, usual=spec.default_solver, scale=GUIDED)
    steps, solver = (None, own.get("solver")) if own else (found["steps"], found["solver"])
    named = {"seed": 0, "steps": steps, "solver": solver, "guidance": found["guidance"]}
    return {**named, **{name: None for name in SETTINGS if name not in named}}


def request_columns(spec: ModelSpec) -> dict[str, bool]:
    """The columns of a request, and whether it must have them.

    ``prompt`` and ``label`` are those that the model takes, one of which is enough; ``number`` is which image of the
    seed a row is, its row number without it.
    """
    conditions = [name for name, taken in (("prompt", spec.text is not None), ("label", spec.classes)) if taken]
    return {**dict.fromkeys(conditions, len(conditions) == 1), "number": not conditions}


def label_kind(spec: ModelSpec) -> type[int] | type[str]:
    """Return the type of the column ``label``: class names where the model stores them, otherwise class numbers."""
    return str if spec.class_names else int


class Served:
    """Draws one image for each row of a table."""

    def __init__(self, model: Model) -> None:
        self.model = model
        # one at a time: the cores are shared, and encoded prompts are remembered
        self.lock = threading.Lock()

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """PNG files, as `raysde sample` writes them.

        Args:
            data: a row for each image, see :func:`request_columns`.
            params: seed, guidance and the settings of a method, see :func:`default_parameters`; None is as good as not
                given. Rows without prompt and label are not guided: there is nothing to lead them to.

        Returns:
            A table with the column ``image``, of bytes.

        Raises:
            ValueError: if there are no rows, or the model cannot take what is given.
        """
        if data.empty:
            raise ValueError("the table has no rows: give one for each image")
        spec, usual = self.model.spec, default_parameters(self.model.spec)
        # MLflow fills in the signature's defaults, which are then as good as not given
        asked = {name: value for name, value in (params or {}).items() if value not in (None, usual.get(name))}
        kind = label_kind(spec)
        prompts, labels, given = (
            read_column(data, "prompt", str),
            read_column(data, "label", kind),
            read_column(data, "number", int),
        )
        conditional = prompts is not None or labels is not None
        if spec.conditional and not conditional:
            asked.pop("guidance", None)
        settings = resolve_settings(spec.generation, asked, conditional, usual=spec.default_solver, scale=GUIDED)
        numbers = range(len(data)) if given is None else given
        if min(numbers) < 0:
            raise ValueError(f"images are numbered from 0, a row asks for number {min(numbers)}")
        images: list[bytes] = []
        with self.lock:
            for rows in group_consecutive(numbers):
                drawn = self.model.sample(
                    n=rows.stop - rows.start,
                    prompts=None if prompts is None else prompts[rows],
                    labels=None if labels is None else labels[rows],
                    first=numbers[rows.start],
                    **settings,  # type: ignore[arg-type]
                )
                images += [image_to_png(image, drawn.metadata(index)) for index, image in enumerate(drawn.images)]
        return pd.DataFrame({"image": images}, index=data.index)


def read_column(data: pd.DataFrame, name: str, kind: type[Value]) -> list[Value] | None:
    """A column of a request, or None if it has none of that name.

    Raises:
        ValueError: naming the first row that has no value.
    """
    if name not in data:
        return None
    if (absent := data[name].isna().to_numpy()).any():
        raise ValueError(f"row {int(absent.argmax())} has no {name}")
    return [kind(value) for value in data[name]]  # type: ignore[call-arg]


def group_consecutive(numbers: Sequence[int]) -> Iterator[slice]:
    """The rows whose numbers count up by one, together."""
    breaks = [row for row, (before, after) in enumerate(pairwise(numbers), 1) if after != before + 1]
    for start, stop in pairwise([0, *breaks, len(numbers)]):
        yield slice(start, stop)


def image_to_png(image: torch.Tensor, metadata: Mapping[str, Any]) -> bytes:
    """uint8 [C, H, W] as a PNG file that says what it was drawn with."""
    file = BytesIO()
    to_pil(image).save(file, format="PNG", pnginfo=png_metadata(metadata))
    return file.getvalue()


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Served:
    """MLflow's entry to a module that loads models.

    Args:
        path: the checkpoint.
        model_config: ``allow_code``, whether a network class that the checkpoint names may be imported.
    """
    allow_code = bool((model_config or {}).get("allow_code", False))
    place = "cuda" if torch.cuda.is_available() else "cpu"
    return Served(checkpoint.load_model(Path(path), allow_code=allow_code, device=place))
