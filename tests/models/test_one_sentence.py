"""An invalid sampling setting has the same message in a recipe, an option, --set, a search space, and Python."""

import pytest
import yaml

import raysde
from raysde.cli import main
from raysde.config import loading
from raysde.tuning.sampler.space import list_candidates, parse_space

SAID = {
    "steps=0": "steps must be at least 1, got 0",
    "steps=1.5": "steps must be a whole number, got 1.5",
    "steps=many": "steps must be a whole number, got 'many'",
    "eta=2": "eta must lie between 0 and 1, got 2",
    "order=4": "order must be 1, 2 or 3, got 4",
    "grid=edmm": "grid must be one of time, log_snr, edm, quadratic, got 'edmm'; did you mean edm?",
    "corrector=langevn": "corrector must be one of none, langevin, annealed_langevin, got 'langevn'; did you mean langevin?",
    "churn=-1": "churn must not be negative, got -1",
    "churn_high=-1": "churn_high must not be negative, got -1",
    "rho=0": "rho must be positive, got 0",
    "rtol=tight": "rtol must be a number, got 'tight'",
    "denoise=maybe": "denoise must be true or false, got 'maybe'",
}


def last_line(capsys, *options: str) -> str:
    """Return the command's last line for given options; argparse exits by itself."""
    try:
        status = main(["sample", "no-model", *options])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("pair", "said"), SAID.items())
def test_a_mistake_reads_the_same_everywhere(recipe, capsys, pair, said):
    name, _, text = pair.partition("=")
    value = yaml.safe_load(text)
    as_typed = {said, said.replace(f"got {text}", f"got {text}.0"), said.replace(f"got {text}", f"got {text!r}")}
    with pytest.raises(ValueError, match="must") as caught:
        loading.parse_recipe(recipe(**{f"sampling__{name}": value}))
    assert str(caught.value) == f"sampling.{name}: {said}"
    with pytest.raises(ValueError, match="must") as caught:
        list_candidates(parse_space([pair]), {}, raysde.VP(), conditional=False)
    assert str(caught.value) == said
    with pytest.raises(ValueError, match="must") as caught:
        raysde.sample(lambda x, t: -x, raysde.VP(), (1, 2), **{name: value})
    assert str(caught.value) == said
    if name != "denoise":  # an option without a value
        is_refused_by_argparse = any(word in said for word in ("whole number", "'tight'"))
        line = last_line(capsys, f"--{name.replace('_', '-')}", text)
        assert line.partition(f"--{name}: " if is_refused_by_argparse else "raysde: ")[2] in as_typed
    if name not in ("steps", "grid"):
        assert last_line(capsys, "--set", pair).partition("raysde: ")[2].removeprefix(f"--set {pair!r}: ") in as_typed


@pytest.mark.parametrize("text", ["-1", "wide"])
def test_a_scale_of_guidance_reads_the_same(recipe, capsys, text):
    value = yaml.safe_load(text)
    said = f"guidance must be a number of at least 0, got {value!r}; use a negative prompt to guide away from something"
    with pytest.raises(ValueError, match="guidance") as caught:
        loading.parse_recipe(recipe(sampling__guidance=value))
    assert str(caught.value) == f"sampling.guidance: {said}"
    with pytest.raises(ValueError, match="guidance") as caught:
        list_candidates(parse_space([f"guidance={text}"]), {}, raysde.VP(), conditional=True)
    assert str(caught.value) == said
    if text == "-1":
        assert last_line(capsys, "--guidance", text) == f"raysde: --{said.replace('-1', '-1.0')}"


def test_an_unknown_setting_reads_the_same(capsys):
    with pytest.raises(ValueError, match=r"^'etaa=1': etaa is not a setting; the settings are .*; did you mean eta\?$"):
        parse_space(["etaa=1"])
    assert last_line(capsys, "--set", "etaa=1").startswith(
        "raysde: --set 'etaa=1': etaa is not a setting; the settings are atol"
    )
