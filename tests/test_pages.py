"""The blocks of the documentation run, and print what their page says."""

import importlib
import io
import math
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import raysde
from raysde.sampling.solvers import SOLVERS
from raysde.sde import VP
from tests.support.pages import DOCS, RUN, SHOWN, read_blocks, run_files, run_python, same_output

PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "experiments")  # these report what was run
TUTORIAL, EXTEND = DOCS / "tutorial.md", DOCS / "extend.md"
INDENTED = re.compile(r"^ {4,}(raysde|python|ray|make|import|from|model|curl|export) .*$", re.MULTILINE)


def python_of(page):
    return [block for block in read_blocks(page) if block.language == "python"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_has_blocks_of_known_languages(page):
    """A command or program outside a fence, or in one of another name, would be run by nobody."""
    unknown = [str(block) for block in read_blocks(page) if block.language not in RUN + SHOWN]
    assert unknown == []
    text = page.read_text()
    for block in read_blocks(page):
        text = text.replace(block.text, "")
    assert INDENTED.findall(text) == []


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The tutorial's names after its last block, what each block printed, and the folder of its pictures."""
    folder, names = tmp_path_factory.mktemp("tutorial"), {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(folder)
        printed = run_python(python_of(TUTORIAL), names)
    return names, printed, folder


def test_the_tutorial_prints_what_it_shows(tutorial):
    blocks = python_of(TUTORIAL)
    assert all(block.reason is None for block in blocks)
    for block, printed in zip(blocks, tutorial[1], strict=True):
        assert same_output(block.output or "", printed), f"{block} prints\n{printed}"


def test_the_tutorial_draws_the_pictures_that_it_shows(tutorial):
    shown = set(re.findall(r"\]\(tutorial/(\w+\.png)\)", TUTORIAL.read_text()))
    assert {path.name for path in tutorial[2].iterdir()} == shown == {p.name for p in (DOCS / "tutorial").iterdir()}
    assert all((DOCS / "tutorial" / name).stat().st_size < 60_000 for name in shown)


def test_what_the_tutorial_says_of_formulas_follows_from_theory(tutorial):
    """The numbers of its boxes by quadrature and closed forms, which do not use raysde."""
    names = tutorial[0]
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
    # sub-VP with VP's deviation: the flow of data N(0, 1/4) is linear, so its deviation is an integral
    alpha2, wrong = torch.exp(-integral) / 4, -torch.expm1(-integral)
    rate = -0.5 * beta + 0.5 * beta * -torch.expm1(-2 * integral) / (alpha2 + wrong)
    begun = t >= 1e-3
    spread = math.exp(-torch.trapezoid(rate[begun], t[begun]).item())
    assert names["missed"].std().item() == pytest.approx(spread, abs=0.01)
    assert spread == pytest.approx(0.88, abs=0.005)
    # the flow of N(0.7, 1/4) is linear too; with the sign of dt turned it widens by as much as it should narrow
    variance = torch.exp(-integral) / 4 - torch.expm1(-integral)
    rate = -0.5 * beta + 0.5 * beta / variance
    grown = math.exp(torch.trapezoid(rate[begun], t[begun]).item())
    assert names["right"].std().item() == pytest.approx(1 / grown, abs=0.02)
    assert names["wrong"].std().item() == pytest.approx(grown, rel=0.02)
    assert grown == pytest.approx(2.0, abs=0.01)
    # a latent of VE is N(0, sigma_max^2 + the data's variance), evaluated under N(0, 1)
    second = 50.0**2 + (names["MEANS"].square().sum(1) @ names["SHARES"]).item() / 2 + 0.15**2
    expected = 0.5 * second * (1 - 1 / 50.0**2) - math.log(50.0)
    assert names["difference"].mean().item() / 2 == pytest.approx(expected, rel=4 * math.sqrt(2 / 4000))
    assert names["ratio"].item() == pytest.approx(wrong[200].item() ** -0.5, rel=1e-6)
    with pytest.raises(ValueError, match="train_floor"):
        VP(train_floor=0.0)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The modules of the page's files, and what each printed when it was run."""
    folder = tmp_path_factory.mktemp("extend")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        printed = run_files(python_of(EXTEND), folder)
        names = [path.stem for path in sorted(folder.glob("*.py"))]
        yield {name: importlib.import_module(name) for name in names}, printed, folder
    del SOLVERS["midpoint"]
    for name in names:
        del sys.modules[name]


def test_the_files_of_extend_print_what_the_page_shows(extended):
    modules, printed, folder = extended
    assert set(modules) == {"my_source", "my_sde", "my_solver", "my_network", "my_loss"}
    for block, found in zip(python_of(EXTEND), printed, strict=True):
        assert block.output
        assert same_output(block.output, found), f"{block} prints\n{found}"
    assert len(list((folder / "runs").glob("*/step_*/checkpoint.json"))) == 2


def test_the_files_of_extend_do_what_the_page_says(extended):
    modules, printed, _ = extended
    # the SDE's functions belong together, by differentiation of what the text says
    assert "alpha' = f alpha, and (sigma²)' = 2 f sigma² + g²." in re.sub(r"\s+", " ", EXTEND.read_text())
    sde, t = modules["my_sde"].ConstantBeta(), torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    alpha2 = torch.exp(2 * sde.log_alpha(t))
    alpha2_rate, noise_rate = (torch.autograd.grad(value.sum(), t)[0] for value in (alpha2, sde.sigma2(t)))
    torch.testing.assert_close(alpha2_rate, 2 * sde.drift_rate(t) * alpha2)
    torch.testing.assert_close(noise_rate, 2 * sde.drift_rate(t) * sde.sigma2(t) + sde.diffusion2(t))
    torch.testing.assert_close(sde.log_snr(t), alpha2.log() - sde.sigma2(t).log())
    torch.testing.assert_close(sde.time_at(sde.log_snr(t)), t)
    # the solver has order 2
    errors = [float(value) for value in re.findall(r"error (\S+)", printed[2])]
    assert all(3.2 < first / second < 4.3 for first, second in pairwise(errors))
    # the source yields the same images every time: rings of the radius that their caption gives
    part = modules["my_source"].Rings(name="rings-0", seed=0)
    first, second = list(part.read()), list(part.read())
    assert first == second
    for one in first:
        pixels = np.asarray(Image.open(io.BytesIO(one.data)))
        lit = np.hypot(*(np.argwhere(pixels) - 7.5).T)
        assert abs(lit.mean() - float(one.label)) < 0.5
        assert one.captions == (f"a ring of radius {one.label}",)
    # the loss is half the square of a small error, and grows by its width with a large one
    loss, error = modules["my_loss"].pseudo_huber(0.5), torch.tensor([1e-3, 1e3, 1e3 + 1], dtype=torch.float64)
    values = loss(error, None)
    assert values[0].item() == pytest.approx(5e-7, rel=1e-5)
    assert (values[2] - values[1]).item() == pytest.approx(0.5, rel=1e-5)
    # the network's checkpoint loads with its code alone
    with pytest.raises(ValueError, match="allow_code"):
        raysde.load("runs/plain")
    assert raysde.load("runs/plain", allow_code=True).sample(labels=["3"], steps=2).images.shape == (1, 1, 16, 16)


@pytest.mark.parametrize(
    ("said", "printed", "same"),
    [
        ("mean 0.70\n", "mean 0.72\n", True),
        ("mean 0.70\n", "mean 0.73\n", False),
        ("mean -0.70\n", "mean 0.70\n", False),
        ("3,072 values\n", "3,080 values\n", False),
        ("4e-04\n", "6e-04\n", True),
        ("inf\n", "nan\n", False),
        ("a 1\n", "a 1\nb 2\n", False),
        ("std 1.0\n", "mean 1.0\n", False),
    ],
)
def test_numbers_agree_to_the_digits_shown(said, printed, same):
    assert same_output(said, printed) is same


def test_blocks_are_read_with_their_reason_and_their_output(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n<!-- not run: needs a cluster -->\n```bash\nray up\n```\n\n"
        "- item\n\n    ```python\n    x = 2\n    ```\n\nMore\n\n```text\nnot an output\n```\n"
    )
    first, second, third, fourth = read_blocks(page)
    assert (first.text, first.output, first.reason, first.line) == ("print(1)\n", "1\n", None, 4)
    assert (second.language, second.reason) == ("bash", "needs a cluster")
    assert (third.text, third.output) == ("x = 2\n", None)
    assert (fourth.language, fourth.text) == ("text", "not an output\n")


def test_an_unfinished_block_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n")
    with pytest.raises(AssertionError, match="does not end"):
        read_blocks(page)
