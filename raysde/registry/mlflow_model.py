"""A checkpoint as an MLflow model: the MLmodel file with the flavours raysde and python_function, and a signature."""

from datetime import UTC, datetime
from pathlib import Path

from mlflow import pyfunc
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from raysde.checkpoints import checkpoint
from raysde.checkpoints.description import FORMAT
from raysde.models.spec import ModelSpec
from raysde.registry import serving
from raysde.sampling.method import SETTINGS

COLUMNS = {"prompt": DataType.string, "number": DataType.long, "image": DataType.binary, "mask": DataType.binary}
LABELS = {str: DataType.string, int: DataType.long}
TYPES = {bool: DataType.boolean, int: DataType.long, float: DataType.double, str: DataType.string}
PARAMS = {"seed": int, "guidance": float, **{name: each.kind for name, each in SETTINGS.items()}}


def make_signature(spec: ModelSpec) -> ModelSignature:
    """Return the input columns, parameters and output of :class:`raysde.registry.serving.Served` for a model."""
    kinds = {
        **COLUMNS,
        "label": LABELS[serving.label_kind(spec)],
        **{each.name: DataType.double for each in spec.attributes},
    }
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(kinds[name], name, required=must) for name, must in serving.request_columns(spec).items()
    ]
    params = [ParamSpec(name, TYPES[PARAMS[name]], value) for name, value in serving.default_parameters(spec).items()]
    return ModelSignature(Schema(inputs), Schema([ColSpec(DataType.binary, "image")]), ParamSchema(params))


def write_card(folder: Path, description: checkpoint.Description, *, run_id: str | None, model_id: str) -> None:
    """Write MLmodel beside ``checkpoint.json``. Its loader is a module of raysde, so nothing is pickled."""
    card = MlflowModel(
        run_id=run_id,
        model_id=model_id,
        utc_time_created=str(datetime.now(UTC).replace(tzinfo=None)),
        signature=make_signature(description.spec),
    )
    card.add_flavor("raysde", format=FORMAT, version=description.versions["raysde"])
    pyfunc.add_to_model(card, loader_module=serving.__name__, model_config={"allow_code": False})
    card.save(str(folder / "MLmodel"))
