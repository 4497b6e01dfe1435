"""A model's own sampling settings: stored in its description, applied where none are given, and shown."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from raysde import registry
from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.evaluation.metric import Metric
from raysde.evaluation.report import read_subject
from raysde.inference.model import Model
from raysde.models.sampling_defaults import (
    check_settings,
    complete_settings,
    describe_overrides,
    describe_settings,
    make_method,
)
from raysde.models.spec import ModelSpec
from raysde.registry.mlflow_model import make_signature
from raysde.registry.promotion import promote_version
from raysde.registry.serving import Served, default_parameters, image_to_png
from raysde.sampling.sampler import Method
from raysde.tracking import connect_client
from tests.support.checkpoints import description_of, write_model
from tests.support.command_line import refused
from tests.support.models import CAPTIONS, caption_spec, filled_model
from tests.support.pictures import open_image

OWN = {"solver": "edm", "steps": 3, "churn": 20.0, "guidance": 3.0, "guidance_interval": (0.5, 30.0)}
PROMPTS = [CAPTIONS[0], CAPTIONS[2], CAPTIONS[0]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Return checkpoints of the same weights without and with settings of their own, with captions and without
    conditions."""
    folder = tmp_path_factory.mktemp("models")
    found = {"plain": write_model(folder / "plain"), "alone": write_model(folder / "alone", text=None)}
    for name, own in (("plain", OWN), ("alone", {"solver": "unipc", "steps": 2})):
        checkpoint.export_with_settings(Path(found[name]), folder / f"{name}-settled", own)
        found[f"{name}-settled"] = str(folder / f"{name}-settled")
    return found


def model_at(folder):
    return checkpoint.load_model(Path(folder))


def test_who_says_nothing_gets_the_models_own(folders):
    plain, own = model_at(folders["plain"]), model_at(folders["plain-settled"])
    wanted = plain.sample(prompts=PROMPTS, seed=4, **OWN)
    found = own.sample(prompts=PROMPTS, seed=4)
    assert torch.equal(found.images, wanted.images)
    assert found.nfe == wanted.nfe == 6
    for changed in ({"churn": 0.0}, {"guidance": 1.0}, {"guidance_interval": None}, {"steps": 4}):
        other = plain.sample(prompts=PROMPTS, seed=4, **{**OWN, **changed})
        assert not torch.equal(other.images, wanted.images), changed


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"steps": 5}, {**OWN, "steps": 5}),
        ({"guidance": 1.5}, {**OWN, "guidance": 1.5}),
        ({"guidance_interval": (0.0, float("inf"))}, {**OWN, "guidance_interval": None}),
        ({"solver": "edm", "churn": 0.0}, {**OWN, "churn": 0.0}),
        ({"solver": "heun"}, {"solver": "heun", "guidance": 3.0, "guidance_interval": (0.5, 30.0)}),
        ({"solver": "dpmpp_2m", "steps": 4}, {"solver": "dpmpp_2m", "steps": 4, "guidance": 3.0, "guidance_interval": (0.5, 30.0)}),
    ],
)  # fmt: skip
def test_what_is_given_wins(folders, given, wanted):
    """A given solver other than the model's does not inherit the steps and churn of the model's."""
    plain, own = model_at(folders["plain"]), model_at(folders["plain-settled"])
    found = own.sample(prompts=PROMPTS, seed=4, **given)
    assert torch.equal(found.images, plain.sample(prompts=PROMPTS, seed=4, **wanted).images)


def test_labels_alone_are_guided_too():
    """Labels are guided by the model's own scale, as prompts are."""
    classes = {"text": None, "classes": 3}
    plain = Model(filled_model(**classes), caption_spec(**classes))
    own = Model(plain.score_model, caption_spec(**classes, generation=check_settings(OWN)))
    found = own.sample(labels=[2, 0, 1], seed=4)
    assert torch.equal(found.images, plain.sample(labels=[2, 0, 1], seed=4, **OWN).images)
    assert not torch.equal(
        found.images,
        plain.sample(labels=[2, 0, 1], seed=4, **{**OWN, "guidance": 1.0, "guidance_interval": None}).images,
    )


def test_images_of_nothing_are_not_guided(folders):
    """Images without conditions are not guided: it would double the cost and change nothing."""
    plain, own = model_at(folders["plain"]), model_at(folders["plain-settled"])
    sizes = []
    own.score_model.network.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    found = own.sample(n=4, seed=1)
    assert set(sizes) == {4}
    assert torch.equal(found.images, plain.sample(n=4, seed=1, solver="edm", steps=3, churn=20.0).images)


def test_a_description_holds_them_and_an_old_one_does_not(tmp_path):
    spec = caption_spec(generation=check_settings(OWN))
    written = json.loads(json.dumps(spec.dump()))
    assert ModelSpec.parse(written) == spec
    del written["generation"]
    assert ModelSpec.parse(written) == caption_spec()
    assert hash(spec) is not None
    folder = Path(write_model(tmp_path / "old"))
    with description_of(folder) as content:
        del content["model"]["generation"]
    assert checkpoint.load_model(folder).spec.generation == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beauty": 3}, "beauty is not a setting; the settings are solver"),
        ({"solver": "magic"}, "solver"),
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"guidance": float("nan")}, "guidance must be a number of at least 0, got nan"),
        ({"guidance_interval": (5.0, 0.2)}, "guidance_interval must be 0 <= low < high"),
        ({"guidance_interval": (0.0, float("inf"))}, "guidance_interval must be finite"),
        ({"solver": "unipc", "corrector": "langevin"}, "corrector langevin cannot follow unipc"),
    ],
)
def test_a_description_with_what_cannot_be_is_refused(folders, tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        checkpoint.export_with_settings(Path(folders["plain"]), tmp_path / "settled", settings)
    assert not (tmp_path / "settled").exists()
    folder = Path(write_model(tmp_path / "broken"))
    with description_of(folder) as content:
        content["model"]["generation"] = settings
    with pytest.raises(ValueError, match=f"description is invalid at generation: .*{said}"):
        checkpoint.load_model(folder)


def test_a_settled_checkpoint_is_whole_and_stands_alone(folders):
    description = checkpoint.verify_checkpoint(Path(folders["plain-settled"]))
    assert description.spec.generation == OWN
    assert (
        description.files["ema.safetensors"]
        == checkpoint.read_description(Path(folders["plain"])).files["ema.safetensors"]
    )
    assert replace(description.spec, generation={}) == checkpoint.read_description(Path(folders["plain"])).spec


def stated(settings):
    return {name: value for name, value in settings.items() if value is not None}


def files_of(drawn):
    """The images as files, each of which says what it was drawn with."""
    return [image_to_png(image, drawn.metadata(index)) for index, image in enumerate(drawn.images)]


def drawn(out):
    return torch.stack([open_image(path) for path in sorted(out.glob("image-*.png"))])


def test_the_command_draws_by_them(folders, tmp_path):
    own = model_at(folders["plain-settled"])
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    for name, given, wanted in (
        ("none", [], {}),
        ("solver", ["--solver", "heun", "--steps", "2"], {"solver": "heun", "steps": 2}),
        ("guidance", ["--guidance", "1.5"], {"guidance": 1.5}),
        ("unguided", ["--guidance", "1"], {"guidance": 1.0}),
        ("interval", ["--guidance-interval", "0.1", "2"], {"guidance_interval": (0.1, 2.0)}),
    ):
        out = tmp_path / name
        assert main(["sample", folders["plain-settled"], *prompts, "--seed", "4", "--out", str(out), *given]) == 0
        assert torch.equal(drawn(out), own.sample(prompts=PROMPTS, seed=4, **wanted).images)
    out = tmp_path / "edited"
    main(["edit", folders["plain-settled"], "--image", str(tmp_path / "none" / "image-000.png"), "--strength", "0.5",
          "--prompt", PROMPTS[0], "--out", str(out)])  # fmt: skip
    image = open_image(tmp_path / "none" / "image-000.png")[None]
    assert torch.equal(drawn(out), own.edit(image, 0.5, prompts=PROMPTS[:1]).images)


@pytest.mark.parametrize("option", ["negative", "autoguide"])
def test_what_images_are_led_away_from_is_led_by_them_too(folders, tmp_path, option):
    """A negative prompt or guide model applies the model's own scale also without a prompt, as in `model.sample`."""
    own, given = model_at(folders["plain-settled"]), CAPTIONS[3] if option == "negative" else folders["alone"]
    out = tmp_path / "out"
    assert (
        main(["sample", folders["plain-settled"], "-n", "3", "--seed", "4", f"--{option}", given, "--out", str(out)])
        == 0
    )
    away = given if option == "negative" else model_at(given)
    assert torch.equal(drawn(out), own.sample(n=3, seed=4, **{option: away}).images)
    plain = model_at(folders["plain"])
    assert torch.equal(drawn(out), plain.sample(n=3, seed=4, **{**OWN, option: away}).images)
    for changed in ({"guidance": 2.0}, {"guidance_interval": None}):
        other = plain.sample(n=3, seed=4, **{**OWN, option: away, **changed})
        assert not torch.equal(drawn(out), other.images), changed


def test_a_model_without_any_draws_as_before(folders, tmp_path):
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    assert main(["sample", folders["plain"], *prompts, "--out", str(tmp_path)]) == 0
    wanted = model_at(folders["plain"]).sample(prompts=PROMPTS, solver="heun", steps=20, guidance=2.0)
    assert torch.equal(drawn(tmp_path), wanted.images)


@pytest.mark.parametrize("own", [{}, {"solver": "ddim", "steps": 3, "eta": 0.5}])
@pytest.mark.parametrize("era", ["heun", "unipc"])
def test_a_model_keeps_the_default_of_its_time(folders, digits, tmp_path, capsys, era, own):
    """A model, tuned or not, keeps the default solver of its time where it has no settings, and in restoration."""
    spec = replace(caption_spec(text=None), default_solver=era, generation=own)
    assert ("default_solver" in spec.dump()) == (era != "heun")
    assert ModelSpec.parse(spec.dump()) == spec
    model = replace(model_at(folders["alone"]), spec=spec)
    named = own or {"solver": era, "steps": 20}
    assert torch.equal(model.sample(n=2).images, model.sample(n=2, **named).images)
    images, mask = model.sample(n=2, seed=1).images, torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    assert torch.equal(model.edit(images, 0.5).images, model.edit(images, 0.5, **named).images)
    assert torch.equal(model.inpaint(images, mask).images, model.inpaint(images, mask, solver=era, steps=20).images)
    twice = {"method": "replacement", "resample": 1, "steps": 4}
    assert torch.equal(
        model.inpaint(images, mask, **twice).images, model.inpaint(images, mask, solver="heun", **twice).images
    )
    if not own:
        corrected = {"corrector": "langevin", "steps": 4}
        found = model.sample(n=2, **corrected)
        assert torch.equal(found.images, model.sample(n=2, solver="heun", **corrected).images)
        assert stated(default_parameters(spec)) == {"seed": 0, "steps": 20, "solver": era, "guidance": 1.0}
    assert Served(model).predict(pd.DataFrame({"number": [0, 1]}))["image"].tolist() == files_of(model.sample(n=2))


def test_commands_draw_a_new_model_by_the_new_default(digits, tmp_path, capsys):
    folder = write_model(tmp_path / "new", text=None, default_solver="unipc")
    assert main(["sample", folder, "-n", "2", "--out", str(tmp_path / "plain")]) == 0
    assert "(20 network evaluations each)" in capsys.readouterr().out
    assert torch.equal(drawn(tmp_path / "plain"), model_at(folder).sample(n=2, solver="unipc", steps=20).images)
    corrected = ["--set", "corrector=langevin", "--steps", "3", "--out", str(tmp_path / "corrected")]
    assert main(["sample", folder, "-n", "2", *corrected]) == 0
    assert "(8 network evaluations each)" in capsys.readouterr().out
    assert main(["evaluate", folder, "--data", digits.path, "--metrics", "kid", "--features", "judge", "--samples",
                 "12", "--cache", str(tmp_path), "--output", str(tmp_path / "report.json")]) == 0  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"solver": "unipc", "steps": 20}.items() <= report["sampling"].items()
    assert report["overrides"] is None


def test_an_evaluation_draws_by_them_and_says_so(folders, digits, tmp_path, monkeypatch):
    """An evaluation samples with the model's settings, and its report lists every setting, also of a model without
    any."""
    asked = []

    def remembered(self, **given):
        asked.append(given)
        return plain(self, **given)

    plain = Model.sample
    monkeypatch.setattr(Model, "sample", remembered)
    for name, wanted in (
        ("plain-settled", OWN),
        ("plain", {"solver": "heun", "steps": 20, "guidance": 2.0}),
        ("alone", {"solver": "heun", "steps": 20, "guidance": 1.0}),
    ):
        report = tmp_path / f"{name}.json"
        assert main(["evaluate", folders[name], "--data", digits.path, "--metrics", "kid", "--features", "judge",
                     "--samples", "12", "--cache", str(tmp_path), "--output", str(report)]) == 0  # fmt: skip
        sampling = json.loads(report.read_text())["sampling"]
        assert (
            wanted.items()
            <= {key: tuple(value) if isinstance(value, list) else value for key, value in sampling.items()}.items()
        )
        assert wanted.items() <= asked[-1].items()


def test_pyfunc_draws_by_them(folders):
    own = model_at(folders["plain-settled"])
    found = Served(own).predict(pd.DataFrame({"prompt": PROMPTS}))["image"].tolist()
    wanted = model_at(folders["plain"]).sample(prompts=PROMPTS, seed=0, **OWN)
    assert found == files_of(wanted)
    # steps belong to a solver: a request for another solver must not inherit the model's
    assert stated(default_parameters(own.spec)) == {"seed": 0, "solver": "edm", "guidance": 3.0}
    params = {each.name: each.default for each in make_signature(own.spec).params}
    assert params == default_parameters(own.spec)


@pytest.mark.parametrize("folder", ["plain", "plain-settled"])
def test_pyfunc_guides_no_image_of_nothing(folders, folder):
    """Images requested by number alone get no second evaluation for guidance, as in `raysde sample` without a
    prompt."""
    model, sizes = model_at(folders[folder]), []
    model.score_model.network.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    filled = {each.name: each.default for each in make_signature(model.spec).params}
    found = Served(model).predict(pd.DataFrame({"number": [0, 1]}), filled)["image"].tolist()
    assert set(sizes) == {2}
    assert found == files_of(model.sample(n=2, seed=0))


@pytest.mark.parametrize(
    "given", [{"solver": "heun"}, {"solver": "edm"}, {"steps": 2}, {"solver": "unipc", "steps": 2}]
)
def test_pyfunc_takes_another_solver_as_the_command_does(folders, given):
    """Another solver comes with its own steps, while MLflow fills in the signature's defaults."""
    own = model_at(folders["plain-settled"])
    filled = {each.name: each.default for each in make_signature(own.spec).params} | given
    wanted = own.sample(prompts=PROMPTS, seed=0, **given)
    for params in (given, filled):
        found = Served(own).predict(pd.DataFrame({"prompt": PROMPTS}), params)["image"].tolist()
        assert found == files_of(wanted)


def test_the_registry_tells_settings_apart_and_shows_them(folders, tmp_path, capsys):
    """Equal weights with other settings are another version, and each is registered once."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = connect_client(uri)
    versions = [
        registry.register_model(client, folders[name], name="digits", alias=None).version
        for name in ("plain", "plain-settled", "plain", "plain-settled")
    ]
    assert [str(version) for version in versions] == ["1", "2", "1", "2"]
    assert main(["models", "--tracking-uri", uri]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert describe_settings(OWN) in next(line for line in shown if " 2 " in line)
    assert describe_settings(OWN) not in next(line for line in shown if " 1 " in line)
    again = registry.load("models:/digits/2", tracking_uri=uri)
    assert again.spec.generation == OWN
    # tuning a model of the registry again must not keep the card of its former version
    folder = registry.resolve_source("models:/digits/2", uri)
    checkpoint.export_with_settings(folder, tmp_path / "again", {"steps": 5})
    assert not (tmp_path / "again" / "MLmodel").exists()
    third = registry.register_model(client, str(tmp_path / "again"), name="digits", alias=None)
    assert registry.load("models:/digits/3", tracking_uri=uri).spec.generation == {"steps": 5}
    assert str(third.version) == "3"


def test_figures_are_of_weights_and_their_settings(folders, tmp_path):
    """A report of one version is refused for another version with the same weights, and accepted for its own."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = connect_client(uri)
    for name in ("plain", "plain-settled"):
        registry.register_model(client, folders[name], name="digits", alias=None)
    figures = {"fid": Metric("fid", 1.0, 0.9, 1.1, 5000, 0)}
    path = tmp_path / "report.json"
    for measured, version in (("plain", 1), ("plain-settled", 2)):
        for source in (folders[measured], f"models:/digits/{version}"):
            path.write_text(json.dumps({"model": asdict(registry.resolve_with_subject(source, uri)[1])}))
            subject, other = read_subject(path), f"models:/digits/{3 - version}"
            unlike = folders["plain" if measured == "plain-settled" else "plain-settled"]
            for target in (unlike, other):
                with pytest.raises(ValueError, match=r'drawing by {"solver": "edm"'):
                    registry.register_model(client, target, name="digits", alias=None, subject=subject)
            with pytest.raises(ValueError, match=f"not of version {3 - version} "):
                promote_version(client, other, found=figures, subject=subject)
            registry.register_model(client, folders[measured], name="digits", alias=None, subject=subject)
            registry.register_model(client, f"models:/digits/{version}", name=None, alias=None, subject=subject)
    assert promote_version(client, "models:/digits/2", found=figures, subject=subject).before is None


def test_settings_are_completed_by_name():
    own = {"solver": "edm", "steps": 9, "churn": 4.0, "guidance": 2.0}
    assert complete_settings(own, {}) == own
    assert complete_settings({}, {"steps": 3}) == {"steps": 3}
    assert complete_settings(own, {"solver": "unipc"}) == {"solver": "unipc", "guidance": 2.0}
    assert complete_settings({"steps": 9}, {"solver": "heun"}) == {"solver": "heun"}
    assert describe_settings({"solver": "edm", "guidance_interval": (0.2, 5.0), "denoise": True}) == (
        "solver=edm guidance_interval=0.2:5 denoise=true"
    )


@pytest.mark.parametrize(
    ("own", "given", "kept"),
    [
        ({"solver": "pc", "target_snr": 0.05, "steps": 9}, {"corrector": "annealed_langevin"}, {"target_snr", "steps"}),
        ({"solver": "euler", "corrector": "langevin", "target_snr": 0.05}, {"corrector": "none"}, set()),
        ({"solver": "edm", "grid": "edm", "rho": 5.0, "churn": 3.0}, {"grid": "time"}, {"churn"}),
    ],
)
def test_own_settings_that_nothing_reads_any_more_are_left_out(own, given, kept):
    """The model's own settings that the given ones disable are no error of the caller."""
    found = complete_settings(own, given)
    assert set(found) == kept | set(given) | ({"solver"} & set(own))
    Method(**make_method(found))


def test_given_settings_that_nothing_reads_are_named():
    with pytest.raises(ValueError, match="target_snr"):
        Method(
            **make_method(
                complete_settings({"solver": "euler", "target_snr": 0.05}, {"target_snr": 0.2, "corrector": "none"})
            )
        )


def test_sample_refuses_guidance_of_a_model_without_conditions(folders, capsys, tmp_path):
    assert main(["sample", folders["alone-settled"], "-n", "2", "--out", str(tmp_path)]) == 0
    assert "2 network evaluations each" in capsys.readouterr().out
    assert "unconditional" in refused(capsys, "sample", folders["alone-settled"], "--guidance", "2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, None),
        ({"batch_size": 9}, None),
        ({"solver": "edm", "steps": 3}, None),
        ({"steps": 9, "batch_size": 9}, "steps=9"),
        ({"solver": "heun"}, "solver=heun"),
        ({"steps": 3, "guidance": 1.0}, "guidance=1 steps=3"),
        ({"negative": "blue"}, "negative=blue"),
    ],
)
def test_what_takes_the_place_of_a_models_own_settings_is_said(given, said):
    assert describe_overrides(OWN, given, True, usual="heun") == said


@pytest.mark.parametrize(("conditional", "usual"), [(True, 2.0), (False, 1.0)])
def test_the_usual_settings_take_no_ones_place(conditional, usual):
    """A metric measured with other guidance does not match a model without settings of its own."""
    for solver in ("heun", "unipc"):
        given = {"solver": solver, "steps": 20, "guidance": usual}
        assert describe_overrides({}, given, conditional, usual=solver) is None
        assert describe_overrides({}, given, conditional, usual="rk4") == f"guidance={usual:g} solver={solver} steps=20"
    assert describe_overrides({}, {"guidance": 3.0 - usual}, conditional, usual="unipc") == f"guidance={3.0 - usual:g}"
