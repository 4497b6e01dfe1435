"""A registered model through MLflow alone: pyfunc and `mlflow models serve` give the files of `raysde sample`."""

import shutil
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from safetensors.torch import save_file

from raysde import registry
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.models.spec import ModelSpec, fresh_model
from raysde.registry.serving import Served, _load_pyfunc, group_consecutive
from raysde.tracking import connect_client
from tests.support.checkpoints import write_model
from tests.support.models import CAPTIONS, spec_with
from tests.support.serving import ask, serving

PROMPTS = [CAPTIONS[0], CAPTIONS[2], CAPTIONS[0]]
FAST = {"seed": 3, "steps": 2, "solver": "unipc", "guidance": 1.5}


@pytest.fixture(scope="module")
def uri(tmp_path_factory, empty_store):
    """Register models with captions, with classes, with neither and with both, in a store that is not yet the process's
    default."""
    place = tmp_path_factory.mktemp("registry")
    found = f"sqlite:///{shutil.copy(empty_store, place)}"
    client = connect_client(found)
    write_model(place / "captions")
    write_model(place / "classes", text=None, classes=10)
    write_model(place / "neither", text=None)
    write_model(place / "both", classes=10)
    for name in ("captions", "classes", "neither", "both"):
        registry.register_model(client, str(place / name), name=name, alias="champion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", found)
        yield found


def files(tmp_path, uri: str, name: str, *arguments: str) -> list[bytes]:
    """Return the images that `raysde sample` writes."""
    out = tmp_path / f"drawn-{len(list(tmp_path.iterdir()))}"
    source = f"models:/{name}@champion"
    assert main(["sample", source, "--tracking-uri", uri, "--device", "cpu", "--out", str(out), *arguments]) == 0
    return [path.read_bytes() for path in sorted(out.glob("image-*.png"))]


def options(settings: dict) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def repeated(option: str, values: list) -> list[str]:
    return [word for value in values for word in (option, str(value))]


def test_pyfunc_draws_what_the_command_draws(uri, tmp_path):
    """Compare by alias and by version, with all parameters and with none."""
    expected = files(tmp_path, uri, "captions", *repeated("--prompt", PROMPTS), *options(FAST))
    for source in ("models:/captions@champion", "models:/captions/1"):
        drawn = mlflow.pyfunc.load_model(source).predict(pd.DataFrame({"prompt": PROMPTS}), params=FAST)
        assert drawn["image"].tolist() == expected
    assert len(set(expected)) == 3
    plain = mlflow.pyfunc.load_model("models:/captions@champion").predict(pd.DataFrame({"prompt": PROMPTS}))
    assert plain["image"].tolist() == files(tmp_path, uri, "captions", *repeated("--prompt", PROMPTS))


def test_a_settled_model_lends_its_steps_to_no_other_solver(uri, tmp_path):
    """MLflow fills in missing parameters, and still the files equal the command's."""
    source = registry.resolve_source("models:/captions/1", uri)
    checkpoint.export_with_settings(source, tmp_path / "settled", {"solver": "unipc", "steps": 2, "guidance": 1.5})
    version = registry.register_model(connect_client(uri), str(tmp_path / "settled"), name="settled", alias="champion")
    model = mlflow.pyfunc.load_model(f"models:/settled/{version.version}")
    for params in ({}, {"solver": "ddim"}, {"steps": 3}):
        drawn = model.predict(pd.DataFrame({"prompt": PROMPTS}), params=params)["image"].tolist()
        assert drawn == files(tmp_path, uri, "settled", *repeated("--prompt", PROMPTS), *options(params))


def test_classes_and_no_conditions(uri, tmp_path):
    classes = mlflow.pyfunc.load_model("models:/classes@champion")
    drawn = classes.predict(pd.DataFrame({"label": [7, 1]}), params={"steps": 3})
    assert drawn["image"].tolist() == files(tmp_path, uri, "classes", *repeated("--label", [7, 1]), "--steps", "3")
    neither = mlflow.pyfunc.load_model("models:/neither@champion")
    drawn = neither.predict(pd.DataFrame({"number": [0, 1, 2]}), params={"steps": 3})
    expected = files(tmp_path, uri, "neither", "-n", "3", "--steps", "3")
    assert drawn["image"].tolist() == expected
    both = mlflow.pyfunc.load_model("models:/both@champion")
    for table in ({"prompt": PROMPTS[:2]}, {"label": [7, 1]}, {"prompt": PROMPTS[:2], "label": [7, 1]}):
        words = [word for name, values in table.items() for word in repeated(f"--{name}", values)]
        drawn = both.predict(pd.DataFrame(table), params={"steps": 2})
        assert drawn["image"].tolist() == files(tmp_path, uri, "both", *words, "--steps", "2")


def test_any_image_of_a_seed_can_be_asked_for(uri):
    """Numbers in any order give the images of one request for all, and the table's index is kept."""
    model = mlflow.pyfunc.load_model("models:/captions@champion")
    whole = model.predict(pd.DataFrame({"prompt": [PROMPTS[0]] * 7}), params=FAST)["image"].tolist()
    numbers = [5, 6, 2, 0, 1]
    table = pd.DataFrame({"prompt": [PROMPTS[0]] * 5, "number": numbers}, index=list("abcde"))
    drawn = model.predict(table, params=FAST)
    assert drawn["image"].tolist() == [whole[number] for number in numbers]
    assert drawn.index.tolist() == list("abcde")


def test_each_row_is_drawn_for_its_own_prompt_and_label(uri):
    """Each row equals its own request, also if the numbers are not consecutive."""
    model = Served(registry.load("models:/both@champion", tracking_uri=uri, device="cpu"))
    table = pd.DataFrame(
        {"prompt": [CAPTIONS[0], CAPTIONS[1], CAPTIONS[2], CAPTIONS[0]], "label": [3, 1, 4, 1], "number": [5, 6, 2, 9]}
    )
    for columns in (["prompt", "number"], ["label", "number"]):
        drawn = model.predict(table[columns], FAST)["image"].tolist()
        alone = [model.predict(table[columns].iloc[[row]], FAST)["image"].item() for row in range(4)]
        assert drawn == alone
        assert len(set(drawn)) == 4


def test_rows_without_conditions_are_not_guided(uri, tmp_path):
    """MLflow fills in the guidance; a model without prompts and labels still draws as the command does, without a
    second network call."""
    table = pd.DataFrame({"number": [0, 1, 2]})
    drawn = mlflow.pyfunc.load_model("models:/both@champion").predict(table, params=FAST)
    plain = options({**FAST, "guidance": 1.0})
    assert drawn["image"].tolist() == files(tmp_path, uri, "both", "-n", "3", *plain)
    model, asked = registry.load("models:/both@champion", tracking_uri=uri, device="cpu"), []
    recorded = SimpleNamespace(
        spec=model.spec, sample=lambda **arguments: asked.append(arguments) or model.sample(**arguments)
    )
    for given in (table, table.assign(label=[1, 2, 3])):
        Served(recorded).predict(given, FAST)
    assert [arguments["guidance"] for arguments in asked] == [1.0, 1.5]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([4], [[4]]), ([0, 1, 2], [[0, 1, 2]]), ([5, 6, 2, 3, 3], [[5, 6], [2, 3], [3]]), ([2, 1, 0], [[2], [1], [0]])],
)
def test_numbers_that_count_up_are_drawn_together(numbers, expected):
    assert [numbers[rows] for rows in group_consecutive(numbers)] == expected


@pytest.mark.parametrize(
    ("model", "table", "params", "error", "culprit"),
    [
        ("captions", {"prompt": ["two", None]}, {}, (ValueError, MlflowException), "prompt"),
        ("captions", {"label": [1]}, {}, MlflowException, "prompt"),
        ("captions", {"prompt": [3]}, {}, MlflowException, "prompt"),
        ("neither", {"number": pd.Series([], dtype="int64")}, {}, ValueError, "no rows"),
        ("captions", {"prompt": ["two"]}, {"solver": "magic"}, ValueError, "magic"),
        ("captions", {"prompt": ["two"]}, {"steps": 0}, ValueError, "steps"),
        ("captions", {"prompt": ["two"]}, {"steps": "many"}, MlflowException, "steps"),
        ("captions", {"prompt": ["two"], "number": [-1]}, {}, ValueError, "number -1"),
        ("classes", {"label": [10]}, {}, ValueError, "0..9"),
        ("neither", {"prompt": ["two"]}, {}, MlflowException, "number"),
        ("neither", {"number": [0]}, {"guidance": 2.0}, ValueError, "unconditional"),
    ],
)
def test_what_a_model_cannot_draw_is_named(uri, model, table, params, error, culprit):
    with pytest.raises(error, match=culprit):
        mlflow.pyfunc.load_model(f"models:/{model}@champion").predict(pd.DataFrame(table), params=params)


def test_the_signature_says_what_a_model_takes(uri):
    found = mlflow.models.get_model_info("models:/captions@champion").signature
    assert [(column.name, column.type.name, column.required) for column in found.inputs] == [
        ("prompt", "string", True), ("number", "long", False)]  # fmt: skip
    assert [(param.name, param.dtype.name, param.default) for param in found.params] == [
        ("seed", "long", 0), ("steps", "long", 20), ("solver", "string", "heun"), ("guidance", "double", 2.0),
        ("grid", "string", None), ("rho", "double", None), ("corrector", "string", None),
        ("corrector_steps", "long", None), ("target_snr", "double", None), ("eta", "double", None),
        ("order", "long", None), ("churn", "double", None), ("churn_low", "double", None),
        ("churn_high", "double", None), ("churn_noise", "double", None), ("rtol", "double", None),
        ("atol", "double", None), ("denoise", "boolean", None)]  # fmt: skip
    assert [(column.name, column.type.name) for column in found.outputs] == [("image", "binary")]
    plain = mlflow.models.get_model_info("models:/neither@champion").signature
    assert {param.name: param.default for param in plain.params}["guidance"] == 1.0


def test_code_is_imported_only_if_it_is_allowed(uri, tmp_path):
    """MLflow gets the test's own network through its model config, and nothing is pickled."""
    network = {"kind": "external", "factory": "tests.cluster.networks:Killed", "kwargs": {"at": 10**9, "marker": str(tmp_path / "x")}}  # fmt: skip
    spec = ModelSpec.parse({**spec_with().dump(), "network": network})
    folder = tmp_path / "own"
    folder.mkdir()
    save_file(checkpoint.complete_weights(fresh_model(spec, [], 0)), folder / "ema.safetensors")
    checkpoint.write_description(folder, spec, {"step": 0}, {}, {})
    registry.register_model(connect_client(uri), str(folder), name="own", alias=None)
    with pytest.raises(ValueError, match=r"tests\.cluster\.networks"):
        mlflow.pyfunc.load_model("models:/own/1")
    # also if a model file of MLflow stores no config
    with pytest.raises(ValueError, match=r"tests\.cluster\.networks"):
        _load_pyfunc(str(folder))
    model = mlflow.pyfunc.load_model("models:/own/1", model_config={"allow_code": True})
    assert len(model.predict(pd.DataFrame({"number": [0]}), params={"steps": 1})) == 1
    names = {path.name for path in registry.resolve_source("models:/own/1", uri).rglob("*") if path.is_file()}
    # MLflow itself adds registered_model_meta, which is YAML, when it downloads
    assert names - {"registered_model_meta"} == {"MLmodel", "checkpoint.json", "ema.safetensors"}


# over HTTP


@pytest.fixture(scope="module")
def address(uri):
    with serving(uri, "models:/captions@champion") as found:
        yield found


def request(prompts: list[str], **params) -> dict:
    return {"dataframe_split": {"columns": ["prompt"], "data": [[prompt] for prompt in prompts]}, "params": params}


def test_served_images_are_those_of_the_command(address, uri, tmp_path):
    """The PNG files are equal to the byte, also with concurrent requests."""
    drawn = ask(address, request(PROMPTS, **FAST))
    assert drawn == files(tmp_path, uri, "captions", *repeated("--prompt", PROMPTS), *options(FAST))
    with Image.open(BytesIO(drawn[0])) as opened:
        assert (opened.format, opened.size) == ("PNG", (8, 8))
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda seed: ask(address, request(PROMPTS, **{**FAST, "seed": seed})), [3, 4, 3, 5])
    first, second, third, fourth = answers
    assert first == third == drawn
    assert len({drawn[0], second[0], fourth[0]}) == 3


@pytest.mark.parametrize(
    ("body", "culprit"),
    [
        (request(PROMPTS, solver="magic"), "magic"),
        ({"dataframe_split": {"columns": ["caption"], "data": [["two"]]}}, "prompt"),
    ],
)
def test_a_bad_request_is_answered_by_400(address, body, culprit):
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(address, body)
    assert raised.value.code == 400
    assert culprit in raised.value.read().decode()
