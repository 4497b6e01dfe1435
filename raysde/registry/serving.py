"""A checkpoint served by `mlflow.pyfunc` and `mlflow models serve`. No pickle, and no import of MLflow here."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from raysde.checkpoints import checkpoint
from raysde.images.png import png_metadata
from raysde.images.tensors import to_pil
from raysde.inference.image_conditions import image_columns, read_image_conditions, sample_with_images
from raysde.inference.model import Model
from raysde.inference.samples import Drawn
from raysde.models.sampling_defaults import GUIDED, resolve_settings
from raysde.models.spec import ModelSpec
from raysde.sampling.method import SETTINGS, make_method

Value = TypeVar("Value")


def default_parameters(spec: ModelSpec) -> dict[str, int | float | str | None]:
    """Return the parameters of a request and their defaults, which are those of `raysde sample` for this model.

    Steps that were tuned for the model's solver do not apply to another solver. If the model has sampler settings,
    the parameter ``steps`` is therefore None: the model's steps with the model's solver, otherwise the default of the
    solver that the request names; see :func:`raysde.models.sampling_defaults.complete_settings`.

    Raises:
        ValueError: as :func:`raysde.models.sampling_defaults.resolve_settings`.
    """
    own = make_method(spec.generation)
    found = resolve_settings(spec.generation, {}, spec.conditional, usual=spec.default_solver, scale=GUIDED)
    steps, solver = (None, own.get("solver")) if own else (found["steps"], found["solver"])
    named = {"seed": 0, "steps": steps, "solver": solver, "guidance": found["guidance"]}
    return {**named, **{name: None for name in SETTINGS if name not in named}}


def request_columns(spec: ModelSpec) -> dict[str, bool]:
    """Return the columns of a request, and True for required ones.

    ``prompt``, ``label`` and numeric attributes by name are present if the model takes them, and so are ``image`` and
    ``mask``, the files of its condition images; one column is enough. ``number`` is the image's number within the
    seed; it defaults to the row's number.
    """
    conditions = [name for name, taken in (("prompt", spec.text is not None), ("label", spec.classes)) if taken]
    conditions += [each.name for each in spec.attributes] + [*image_columns(spec)]
    return {**dict.fromkeys(conditions, len(conditions) == 1), "number": not conditions}


def label_kind(spec: ModelSpec) -> type[int] | type[str]:
    """Return the type of the column ``label``: str if the model stores class names, else int for class numbers."""
    return str if spec.class_names else int


class Served:
    """A model that draws one image for each row of a table."""

    def __init__(self, model: Model) -> None:
        self.model = model
        # one request at a time: requests share the cores and the cache of encoded prompts
        self.lock = threading.Lock()

    def predict(self, data: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Draw the images as PNG files, the same as `raysde sample` writes.

        Args:
            data: a row for each image, see :func:`request_columns`.
            params: seed, guidance and sampler settings, see :func:`default_parameters`; None means not given. Rows
                without a condition are drawn without guidance, which needs a condition.

        Returns:
            A table with the column ``image``, of bytes.

        Raises:
            ValueError: if there are no rows, or the model cannot take the given values.
        """
        if data.empty:
            raise ValueError("the table has no rows: give one for each image")
        spec, usual = self.model.spec, default_parameters(self.model.spec)
        # MLflow fills in the signature's defaults, which count as not given
        asked = {name: value for name, value in (params or {}).items() if value not in (None, usual.get(name))}
        kind = label_kind(spec)
        prompts, labels, given = (
            read_column(data, "prompt", str),
            read_column(data, "label", kind),
            read_column(data, "number", int),
        )
        attributes = {each.name: read_numbers(data, each.name) for each in spec.attributes if each.name in data}
        conditional = prompts is not None or labels is not None or bool(attributes)
        files = {name: read_files(data, name) for name in image_columns(spec) if name in data}
        if spec.conditional and not conditional:
            asked.pop("guidance", None)
        settings = resolve_settings(spec.generation, asked, conditional, usual=spec.default_solver, scale=GUIDED)
        numbers = range(len(data)) if given is None else given
        if min(numbers) < 0:
            raise ValueError(f"images are numbered from 0, a row asks for number {min(numbers)}")
        images: list[bytes] = []
        with self.lock:
            for rows in group_consecutive(numbers):
                draw: Callable[..., Drawn] = partial(self.model.sample, n=rows.stop - rows.start)
                if files:
                    given_images = read_image_conditions(spec, {name: files[name][rows] for name in files})
                    draw = partial(sample_with_images, self.model, *given_images)
                drawn = draw(
                    prompts=None if prompts is None else prompts[rows],
                    labels=None if labels is None else labels[rows],
                    attributes={name: values[rows] for name, values in attributes.items()},
                    first=numbers[rows.start],
                    **settings,  # type: ignore[arg-type]
                )
                images += [image_to_png(image, drawn.metadata(index)) for index, image in enumerate(drawn.images)]
        return pd.DataFrame({"image": images}, index=data.index)


def read_column(data: pd.DataFrame, name: str, kind: type[Value]) -> list[Value] | None:
    """Return a column of a request as a list, or None if there is no such column.

    Raises:
        ValueError: naming the first row that has no value.
    """
    if name not in data:
        return None
    if (absent := data[name].isna().to_numpy()).any():
        raise ValueError(f"row {int(absent.argmax())} has no {name}")
    return [kind(value) for value in data[name]]  # type: ignore[call-arg]


def read_numbers(data: pd.DataFrame, name: str) -> list[float | None]:
    """Return a column of numbers of a request, None where a row has none."""
    return [None if absent else float(value) for value, absent in zip(data[name], data[name].isna(), strict=True)]


def read_files(data: pd.DataFrame, name: str) -> list[tuple[str, bytes]]:
    """Return the names, for messages, and the contents of a column of image files of a request.

    Raises:
        ValueError: naming the first row that has no file.
    """
    return [(f"{name} of row {row}", content) for row, content in enumerate(read_column(data, name, bytes) or [])]


def group_consecutive(numbers: Sequence[int]) -> Iterator[slice]:
    """Yield slices of rows whose numbers increase by one."""
    breaks = [row for row, (before, after) in enumerate(pairwise(numbers), 1) if after != before + 1]
    for start, stop in pairwise([0, *breaks, len(numbers)]):
        yield slice(start, stop)


def image_to_png(image: torch.Tensor, metadata: Mapping[str, Any]) -> bytes:
    """Return a uint8 image [C, H, W] as a PNG file whose text chunks hold ``metadata``.

    Raises:
        ValueError: if C is not 1 or 3.
    """
    file = BytesIO()
    to_pil(image).save(file, format="PNG", pnginfo=png_metadata(metadata))
    return file.getvalue()


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Served:
    """Load a model; the entry point of MLflow's pyfunc.

    Args:
        path: folder of the checkpoint.
        model_config: ``allow_code``, True to import a network class that the checkpoint names.
    """
    allow_code = bool((model_config or {}).get("allow_code", False))
    place = "cuda" if torch.cuda.is_available() else "cpu"
    return Served(checkpoint.load_model(Path(path), allow_code=allow_code, device=place))
