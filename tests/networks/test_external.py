"""User-written networks: built by name with their kwargs, and refused before a worker starts."""

from pathlib import Path

import pytest
import torch

from raysde.conditioning.text import ScratchText
from raysde.models.spec import empty_model, fresh_model
from raysde.networks import ExternalConfig, UNetConfig
from raysde.runs.run import check_model
from raysde.sde import VP
from tests.support.models import UNET, Own, caption_spec, inputs


def test_a_network_of_the_users_own():
    named = ExternalConfig(factory="tests.support.models:Own", kwargs={"gain": 2.0})
    model = fresh_model(caption_spec(network=named, text=None), [], 0)
    assert model.network.image == (1, 8, 8)
    assert model.network.condition is None
    x, t = inputs()
    alpha, sigma = (value[:, None, None, None] for value in VP().marginal(t))
    expected = 2.0 * x / torch.sqrt(alpha**2 * 0.25 + sigma**2)
    torch.testing.assert_close(model(x, t, model.conditioner.condition(None, None, 4))[0], expected)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: ExternalConfig(factory="no.such:Thing").build((1, 8, 8), None), "no.such:Thing"),
        (lambda: ExternalConfig(factory="json:dumps").build((1, 8, 8), None), "json:dumps"),
        (
            lambda: empty_model(
                caption_spec(network=ExternalConfig(factory="tests.support.models:Own")), Path("text"), allow_code=False
            ),
            "allow_code",
        ),
        (lambda: ExternalConfig(factory="Own"), "package.module:Class"),
        (lambda: ExternalConfig(factory=":Own"), "package.module:Class"),
        (lambda: ExternalConfig(factory="tests:"), "package.module:Class"),
        (lambda: ExternalConfig(factory="..tests:Own"), "package.module:Class"),
        (lambda: UNetConfig(blocks=()), r"blocks must be a number or one for each of the 3 levels, got \(\)"),
        (lambda: UNetConfig(multipliers=()), r"multipliers must be positive, got \(\)"),
        (lambda: UNET.build((1, 9, 9), None), "divisible by 2"),
        (
            lambda: UNetConfig(channels=8, attention=(3,), head_channels=8).build((1, 8, 8), None),
            r"attention.*\[3\]",
        ),
        (
            lambda: UNetConfig(channels=12, multipliers=(1,), attention=(8,), head_channels=8).build((1, 8, 8), None),
            "head_channels",
        ),
        (lambda: UNetConfig(dropout=1.0), "dropout"),
        (lambda: UNetConfig(blocks=(1, 2)), r"blocks must be a number or one for each of the 3 levels, got \(1, 2\)"),
        (lambda: UNetConfig(patch=3).build((3, 16, 16), None), r"network.patch=3 .* \(16, 16\)"),
        (lambda: ScratchText(width=10, heads=4), "heads"),
    ],
)
def test_networks_that_cannot_be_built_are_named(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()


BROKEN = {
    "grammar": "class Own(:",
    "failing": "raise RuntimeError('no such\\nGPU')",
    "missing": "import no_such_module",
    "leaving": "raise SystemExit(3)",
}


@pytest.mark.parametrize(
    ("network", "culprit"),
    [
        ({"factory": "no.such:Thing"}, "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        ({"factory": "json:Thing"}, "cannot be imported: AttributeError: .*'Thing'"),
        ({"factory": "broken_grammar:Own"}, "cannot be imported: SyntaxError"),
        ({"factory": "broken_failing:Own"}, "cannot be imported: RuntimeError: no such GPU"),
        ({"factory": "broken_missing:Own"}, "cannot be imported: ModuleNotFoundError: .*'no_such_module'"),
        ({"factory": "broken_leaving:Own"}, "cannot be imported: SystemExit: 3"),
        ({"factory": "torch.nn:functional"}, "is a module, which cannot be called"),
        ({"factory": "math:pi"}, "is a float, which cannot be called"),
        ({"factory": "builtins:dict"}, "cannot be called: no signature found"),
        ({"factory": "tests.support.models:Own", "kwargs": {"gian": 2.0}}, "these kwargs: .*'gian'"),
        ({"factory": "tests.support.models:Own", "kwargs": {"image": 2.0}}, "these kwargs: .*'image'"),
    ],
)
def test_a_factory_is_refused_before_a_worker_starts(tmp_path, monkeypatch, network, culprit):
    """A faulty factory is refused in one sentence with its name, before workers start; it runs in the driver only."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(code)
    config = ExternalConfig(**network)
    for refuse in (lambda: check_model(caption_spec(network=config)), lambda: config.build((1, 8, 8), None)):
        with pytest.raises(ValueError, match=culprit) as caught:
            refuse()
        assert f"network.factory {config.factory!r}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_factory_is_not_called_before_a_worker_starts(monkeypatch):
    monkeypatch.setattr(Own, "__init__", lambda self, image, condition: pytest.fail("was called"))
    check_model(caption_spec(network=ExternalConfig(factory="tests.support.models:Own")))
