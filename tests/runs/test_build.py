"""Every key of a recipe has an effect on what is built, and keys that determine the numbers cannot change in a run."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch

from raysde.config import loading
from raysde.data.dataset.view import View
from raysde.runs import hooks
from raysde.runs.build import make_objective, make_schedule, make_validator, new_state
from raysde.runs.hooks import describe_run
from raysde.runs.keeping import make_retention
from raysde.runs.quality import make_question
from raysde.runs.run import Run, check_resumable, list_remarks, open_run
from raysde.sde import Flow
from raysde.training.time_sampling import LogNormal
from tests.support.digits import write_digit_shards
from tests.support.training import small_recipe

CPU = torch.device("cpu")


@dataclass
class Built:
    """The objects built from a run, each on first use."""

    run: Run

    @cached_property
    def state(self):
        return new_state(self.run, CPU)

    @cached_property
    def objective(self):
        return make_objective(self.run)

    @cached_property
    def schedule(self):
        return make_schedule(self.run)

    @cached_property
    def network(self):
        return self.state.model.network

    @cached_property
    def encoder(self):
        return self.state.model.conditioner.encoder.encoder

    @cached_property
    def groups(self):
        return self.state.optimizer.param_groups

    @cached_property
    def grid(self) -> dict[str, Any]:
        """The arguments of the model when a grid is drawn."""
        asked: dict[str, Any] = {}

        class Asked:
            def __init__(self, model, spec) -> None:
                asked.update(model=model, spec=spec)

            def sample(self, **settings):
                asked.update(settings)
                raise StopIteration

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hooks, "Model", Asked)
            with pytest.raises(StopIteration):
                hooks.draw_sample_grid(self.run, self.state.model)
        return asked


Getter = Callable[[Built], Any]
sde: Callable[[str], Getter] = lambda name: lambda built: getattr(built.state.model.sde, name)  # noqa: E731
task: Callable[[str], Getter] = lambda name: lambda built: getattr(built.objective, name)  # noqa: E731
loss: Callable[[str], Getter] = lambda name: lambda built: getattr(built.objective.criterion, name)  # noqa: E731
pace: Callable[[str], Getter] = lambda name: lambda built: getattr(built.schedule, name)  # noqa: E731
asked: Callable[[str], Getter] = lambda name: lambda built: getattr(make_question(built.run.config), name)  # noqa: E731
kept: Callable[[str], Getter] = lambda name: lambda built: getattr(make_retention(built.run), name)  # noqa: E731
drawn: Callable[[str], Getter] = lambda name: lambda built: built.grid.get(name)  # noqa: E731


def every(name: str) -> Getter:
    """Return the value that all groups of the optimizer share."""

    def held(built: Built) -> Any:
        values = {group[name] for group in built.groups}
        assert len(values) == 1
        return values.pop()

    return held


def of_each(kind: type, *path: str) -> Getter:
    """Return the set of values of all modules of a kind in the network."""

    def held(built: Built) -> Any:
        found = set()
        for module in built.network.modules():
            if isinstance(module, kind):
                value = module
                for name in path:
                    value = getattr(value, name)
                found.add(value)
        return found

    return held


def attention_heights(built: Built) -> set[int]:
    """Return the heights in pixels of the inputs of the network's self-attention."""
    from raysde.networks.layers import Attention

    seen: set[int] = set()
    for module in built.network.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[2]))
    x = torch.zeros(1, *built.run.spec.image)
    width = built.state.model.conditioner.width
    built.network(x, torch.ones(1), torch.zeros(1, width), torch.zeros(1, 2, width), torch.ones(1, 2).bool())
    return seen


def last_progress(built: Built) -> Any:
    """Return the learning rate of the last step of a run at full scale, as a share of the peak rate."""
    from raysde.training.optimizers import learning_rate

    plan = built.schedule
    return learning_rate(1.0, 10**6, plan.warmup, plan.decay, (plan.steps - 1) / plan.steps) < 0.1


def row_of_captions(built: Built) -> int:
    return built.state.model.conditioner.tokenizer(["a handwritten seven of a digit " * 9])[0].shape[1]


KEPT: dict[str, tuple[Any, Getter, Any] | tuple[Any, Getter, Any, dict[str, Any]]] = {
    "seed": (5, lambda built: (built.objective.seed, built.run.plan.seed), (5, 5)),
    "data.range": ([0.0, 2.0], lambda built: (built.objective.data_range, built.run.spec.data_range), ((0.0, 2.0),) * 2),
    "data.std": (0.75, lambda built: built.state.model.data_std, 0.75),
    "data.image_size": (4, lambda built: (built.run.spec.image, built.run.feed.view.shape), ((1, 4, 4), (4, 4))),
    "data.crop": ("random", lambda built: built.run.feed.view.crop, "random"),
    "data.scale": ([0.5, 0.75], lambda built: built.run.feed.view.scale, (0.5, 0.75)),
    "data.flip": (True, task("flip"), True),
    "data.shuffle_window": (40, lambda built: built.run.plan.window, 48),
    "sde.kind": ("flow", lambda built: built.state.model.sde, Flow()),
    "sde.train_floor": (1e-4, sde("train_floor"), 1e-4),
    "sde.sample_floor": (2e-3, sde("sample_floor"), 2e-3),
    "sde.ceiling": (0.9, sde("ceiling"), 0.9),
    "sde.beta_min": (0.2, lambda built: built.state.model.sde.beta(torch.zeros(())).item(), pytest.approx(0.2)),
    "sde.beta_max": (15.0, lambda built: built.state.model.sde.beta(torch.ones(())).item(), pytest.approx(15.0)),
    "sde.schedule": ("cosine", lambda built: type(built.state.model.sde.betas).__name__, "CosineBeta"),
    "sde.cosine_s": (0.01, lambda built: built.state.model.sde.betas.s, 0.01, {"sde.schedule": "cosine"}),
    "sde.cosine_end": (0.9, lambda built: built.state.model.sde.betas.end, 0.9, {"sde.schedule": "cosine"}),
    "sde.alphas_cumprod": (
        [0.9, 0.5, 0.1], sde("discrete_steps"), 3, {"sde.schedule": "table"}
    ),
    "network.kind": ("dit", lambda built: type(built.network).__name__, "DiT", {"network.heads": 2}),
    "network.channels": (16, lambda built: built.network.enter.out_channels, 16),
    "network.multipliers": ([1, 3], lambda built: built.network.middle[0].conv1.out_channels, 24),
    "network.blocks": (3, lambda built: len(built.network.down), 7),
    "network.attention": ([8], attention_heights, {8, 4}),  # and always in the middle block
    "network.head_channels": (4, lambda built: built.network.middle[1].attention.heads, 4),
    "network.patch": (2, lambda built: built.network.enter.in_channels, 4),
    "network.dropout": (0.25, of_each(torch.nn.Dropout, "p"), {0.25}),
    "network.checkpointing": (True, lambda built: built.network.size.checkpointing, True),
    "target": ("x0", lambda built: built.state.model.target, "x0"),
    "preconditioning.time": ("sigma", lambda built: built.state.model.preconditioning.time, "sigma"),
    "preconditioning.input": ("none", lambda built: built.state.model.preconditioning.input, "none"),
    "preconditioning.output": ("none", lambda built: built.state.model.preconditioning.output, "none"),
    "text.kind": ("scratch", lambda built: type(built.encoder).__name__, "BertModel"),
    "text.width": (32, lambda built: built.encoder.config.hidden_size, 32),
    "text.layers": (2, lambda built: len(built.encoder.encoder.layer), 2),
    "text.heads": (4, lambda built: built.encoder.config.num_attention_heads, 4),
    "text.vocabulary": (20, lambda built: built.encoder.embeddings.word_embeddings.num_embeddings, 20),
    "text.max_tokens": (12, row_of_captions, 12),
    "class_conditional": (
        False, lambda built: built.state.model.conditioner.class_embedding, None, {"sampling.labels": []}
    ),
    "train.length.steps": (33, pace("steps"), 33),
    "train.length.epochs": (2.0, pace("steps"), round(2.0 * 176 / 16)),
    "train.length.images": (320, pace("steps"), 20),
    "train.batch": (32, lambda built: (built.objective.batch, built.run.plan.batch), (32, 32)),
    "train.microbatch": (4, lambda built: (built.objective.microbatch, built.run.plan.microbatch), (4, 4)),
    "train.optimizer": (
        "muon", lambda built: type(built.state.optimizer).__name__, "Muon",
        {"network.channels": 32, "network.multipliers": [1, 1]},
    ),
    "train.lr": (0.25, lambda built: (built.schedule.lr, every("lr")(built)), (0.25, 0.25)),
    "train.text_lr": (5e-4, lambda built: [group.get("ratio") for group in built.groups], [None, 0.5]),
    "train.betas": ([0.6, 0.7], every("betas"), (0.6, 0.7)),
    "train.weight_decay": (0.05, every("weight_decay"), 0.05),
    "train.warmup": (9, pace("warmup"), 9),
    "train.decay": ("cosine", last_progress, True),
    "train.clip": (3.5, pace("clip"), 3.5),
    "train.precision": ("fp16", lambda built: (built.objective.precision, built.state.scaler.is_enabled()), ("fp16", True)),
    "train.weighting": ("x0", loss("weighting"), "x0"),
    "train.min_snr_gamma": (3.0, loss("min_snr_gamma"), 3.0),
    "train.reduction": ("half_sum", loss("reduction"), "half_sum"),
    "train.uncertainty": ("learned", lambda built: type(built.state.model.uncertainty).__name__, "Uncertainty"),
    "train.times.kind": ("lognormal", task("times"), LogNormal()),
    "train.times.mean": (0.5, lambda built: built.objective.times.mean, 0.5, {"train.times.kind": "lognormal"}),
    "train.times.std": (0.5, lambda built: built.objective.times.std, 0.5, {"train.times.kind": "lognormal"}),
    "train.on_bad_step": ("skip", pace("on_bad_step"), "skip"),
    "train.bad_steps.window": (7, lambda built: built.schedule.bad_steps.window, 7),
    "train.bad_steps.threshold": (9.5, lambda built: built.schedule.bad_steps.threshold, 9.5),
    "train.bad_steps.most": (3, lambda built: built.schedule.bad_steps.most, 3),
    "train.condition_dropout": (0.75, task("condition_dropout"), 0.75),
    "train.ema.half_life": (77.0, lambda built: built.state.ema.half_life, 77.0),
    "train.ema.rampup": (0.5, lambda built: built.state.ema.rampup, 0.5),
    "train.ema.profiles": ([0.1, 0.2], lambda built: [each.std for each in built.state.profiles], [0.1, 0.2]),
    "train.ema.snapshots_every": (6, pace("snapshot_every"), 6, {"train.ema.profiles": [0.1]}),
    "validation.rows": (30, lambda built: len(built.run.held_out), 30),
    "validation.every": (7, pace("validate_every"), 7),
    "validation.patience": (4, pace("patience"), 4),
    "validation.metrics": (["kid"], pace("quality_every"), 500),
    "validation.metrics_every": (7, pace("quality_every"), 7, {"validation.metrics": ["kid"]}),
    "validation.samples": (99, asked("samples"), 99, {"validation.metrics": ["kid"]}),
    "validation.reference": (98, asked("reference"), 98, {"validation.metrics": ["kid"]}),
    "validation.allow_few": (True, asked("allow_few"), True, {"validation.metrics": ["kid"]}),
    "validation.seed": (5, asked("seed"), 5, {"validation.metrics": ["kid"]}),
    "validation.batch": (9, lambda built: asked("settings")(built)["batch_size"], 9, {"validation.metrics": ["kid"]}),
    "keep.by": ("val/denoising", lambda built: built.schedule.ranking.by, "val/denoising"),
    "keep.newest": (7, kept("newest"), 7),
    "keep.best": (2, kept("best"), 2),
    "keep.every": (8, kept("every"), 8),
    "sampling.every": (3, pace("sample_every"), 3),
    "sampling.count": (5, drawn("n"), 5),
    "sampling.prompts": (["one", "two", ""], drawn("prompts"), ["one", "two", "", "one"]),
    "sampling.labels": ([4, 9, 2], drawn("labels"), ["4", "9", "2", "4"]),
    "sampling.solver": ("euler", drawn("solver"), "euler"),
    "sampling.steps": (11, drawn("steps"), 11),
    "sampling.grid": ("quadratic", drawn("grid"), "quadratic"),
    "sampling.guidance": (1.75, drawn("guidance"), 1.75),
    "sampling.corrector": ("langevin", drawn("corrector"), "langevin", {"sampling.solver": "euler"}),
    "sampling.corrector_steps": (2, drawn("corrector_steps"), 2, {"sampling.solver": "pc"}),
    "sampling.target_snr": (0.3, drawn("target_snr"), 0.3, {"sampling.solver": "pc"}),
    "sampling.eta": (0.5, drawn("eta"), 0.5, {"sampling.solver": "ddim"}),
    "sampling.order": (2, drawn("order"), 2, {"sampling.solver": "unipc"}),
    "sampling.rho": (5.0, drawn("rho"), 5.0, {"sampling.grid": "edm"}),
    "sampling.churn": (4.0, drawn("churn"), 4.0, {"sampling.solver": "edm"}),
    "sampling.churn_low": (0.1, drawn("churn_low"), 0.1, {"sampling.solver": "edm"}),
    "sampling.churn_high": (9.0, drawn("churn_high"), 9.0, {"sampling.solver": "edm"}),
    "sampling.churn_noise": (1.01, drawn("churn_noise"), 1.01, {"sampling.solver": "edm"}),
    "sampling.rtol": (1e-3, drawn("rtol"), 1e-3, {"sampling.solver": "rk45"}),
    "sampling.atol": (1e-4, drawn("atol"), 1e-4, {"sampling.solver": "rk45"}),
    "sampling.denoise": (True, drawn("denoise"), True),
    "sampling.seed": (8, drawn("seed"), 8),
    "log_every": (13, pace("log_every"), 13),
    "checkpoint_every": (14, pace("save_every"), 14),
}  # fmt: skip
"""Per key: a value, the place where it appears in what is built, its form there, and other keys that it needs."""

ELSEWHERE = {
    "name", "storage",  # the folder of the run: test_train.py and every test that resumes
    "data.path", "data.verify",  # test_data.py, test_row_groups.py
    "data.filter", "data.version",  # test_data_record.py
    "data.mix", "data.weights",  # test_sources.py
    "data.sigma_max_rows",  # test_objectives.py
    "data.precomputed",  # test_precompute.py
    "data.stream", "data.block_megabytes", "data.block_steps", "data.nodes",  # tests/cluster
    "train.compile",  # test_loop.py
    "publish", "keep.mode",  # test_keeping.py
    "validation.features", "validation.sampler",  # test_quality.py
    "validation.where", "validation.delay", "validation.actors", "validation.cpus", "validation.gpus",  # test_beside.py
    "attributes.names", "attributes.dropout", "sampling.attributes",  # conditioning/test_attributes.py
    "image_condition",  # conditioning/test_images.py
    "latent", "train.times", "text",  # nodes that are null
}  # fmt: skip
"""Keys with an effect that other tests show."""
OF_THE_CLUSTER = ("resources.", "tracking.")


def built(recipe, changes: dict[str, Any]) -> Built:
    base = {"class_conditional": True, "sampling.count": 4, "sampling.labels": [1], "validation.rows": 24}
    tree = recipe()
    loading.assign_paths(tree, [(key.split("."), value) for key, value in {**base, **changes}.items()])
    return Built(open_run(loading.parse_recipe(tree)))


@pytest.mark.parametrize("key", KEPT)
def test_a_key_reaches_what_is_built(recipe, key):
    """The value appears at its place, and does not appear without the key."""
    value, getter, expected, *beside = KEPT[key]
    others = beside[0] if beside else {}
    assert getter(built(recipe, {**others, key: value})) == expected
    without = {} if key in ("sde.alphas_cumprod", "network.kind") else others
    if key != "text.kind":
        assert getter(built(recipe, without)) != expected


def test_every_key_is_among_them(recipe):
    """A new key must be added to one of the two lists, with the place of its effect or the test of it."""
    keys: set[str] = set()
    for changes in ({}, {"train.times.kind": "lognormal"}):
        keys |= built(recipe, changes).run.config.flat().keys()
    mine = {key for key in keys if not key.startswith(OF_THE_CLUSTER)}
    assert mine - KEPT.keys() - ELSEWHERE == set()
    assert not KEPT.keys() & ELSEWHERE
    assert KEPT.keys() <= keys


def numbers(built: Built) -> list[Any]:
    """Return everything that determines a step: the loss, the updates of weights and averages, the rows, the model."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in built.groups]
    plan = built.run.plan
    rows = [plan.rows_of(0, index).tolist() for index in range(plan.microbatches)]
    ema, pace = built.state.ema, built.schedule
    averages = [ema.half_life, ema.rampup, *(profile.std for profile in built.state.profiles)]
    shapes = {name: value.shape for name, value in built.state.model.state_dict().items()}
    outside = [pace.lr, pace.warmup, pace.decay, pace.clip, built.run.held_out.tolist(), built.run.feed.view]
    outside += [pace.ranking, *measured_images(built)]  # ranks and patience compare metrics of one kind
    spec = built.run.spec.dump()
    spec["network"].pop("checkpointing", None)  # checkpointing does not change the results
    return [built.objective, groups, plan, rows, averages, shapes, outside, spec]


def measured_images(built: Built) -> list[Any]:
    """Return everything that determines the images whose metrics are compared."""
    question = make_question(built.run.config) if built.run.config.validation.metrics else None
    return [] if question is None else [replace(question, metrics=("kid",))]


@pytest.mark.parametrize(
    "key", [key for key in KEPT if key not in ("text.kind", "train.length.steps", "validation.metrics")]
)
def test_what_shapes_the_numbers_cannot_change_under_a_run(recipe, key):
    """A changed key is refused by name if, and only if, it changes the loss, optimizer, averages, rows or model."""
    value, _, _, *beside = KEPT[key]
    others = {} if key in ("sde.alphas_cumprod", "network.kind") or not beside else beside[0]
    before = built(recipe, others)
    after = built(recipe, {**(beside[0] if beside else {}), key: value})
    spec, flat, data = describe_run(before.run)
    found = type("Found", (), {"spec": spec, "recipe": flat, "data": data})()
    check_resumable(before.run, found)
    if key == "train.microbatch":
        with pytest.raises(ValueError, match="microbatches of 16, the recipe makes 4"):
            check_resumable(after.run, found)
    elif numbers(before) == numbers(after):
        check_resumable(after.run, found)
    else:
        # another kind has other keys; the first is named
        named = key.removesuffix(".kind") if key.endswith(".kind") else f"{key}="
        with pytest.raises(ValueError, match=rf"{re.escape(named)}"):
            check_resumable(after.run, found)


@pytest.mark.parametrize(
    ("key", "value"),
    [("storage", "elsewhere"), ("data.verify", "schema"), ("data.stream", "worker"), ("data.block_megabytes", 1.0),
     ("data.block_steps", 2), ("data.precomputed", "off"), ("train.compile", True), ("keep.newest", 9), ("publish", "last"),
     ("validation.metrics", ["kid"]),
     ("resources.workers", [1, 2]), ("resources.max_failures", 9), ("tracking.experiment", "other"),
     ("tracking.alias", "best"), ("tracking.uri", "sqlite:///x.db")],
)  # fmt: skip
def test_what_is_around_the_numbers_may_change_under_a_run(recipe, key, value):
    """Storage, reading, reporting and the number of workers may change."""
    spec, flat, data = describe_run(built(recipe, {"train.microbatch": 8}).run)
    found = type("Found", (), {"spec": spec, "recipe": flat, "data": data})()
    check_resumable(built(recipe, {"train.microbatch": 8, key: value}).run, found)


def test_other_data_cannot_continue_a_run(recipe, monkeypatch):
    """Data with another fingerprint, or with other precomputed captions and latents, is refused."""
    run = built(recipe, {}).run
    spec, flat, data = describe_run(run)
    for change, culprit in (
        ({"fingerprint": "x"}, "fingerprint x"), ({"text": "t"}, "precomputed text"), ({"latents": "l"}, "latents"),
    ):  # fmt: skip
        found = type("Found", (), {"spec": spec, "recipe": flat, "data": {**data, **change}})()
        with pytest.raises(ValueError, match=culprit):
            check_resumable(run, found)
    found = type("Found", (), {"spec": spec, "recipe": flat, "data": data})()
    monkeypatch.setattr(Run, "data_identity", {**data, "text": "t"})
    with pytest.raises(ValueError, match=r"no precomputed text, the recipe takes t; set data\.precomputed=off"):
        check_resumable(run, found)


def test_the_seed_is_that_of_weights_rows_and_order(recipe):
    """Different runs would share one of the three if it had another seed."""

    def of(seed: int) -> list[list[float]]:
        found = built(recipe, {"seed": seed, "validation.rows": 24})
        weights = found.network.enter.weight.flatten().tolist()
        return [weights, found.run.held_out.tolist(), found.run.plan.rows_of(0, 0).tolist()]

    first, again, other = of(0), of(0), of(1)
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_validation_is_of_the_recipe(recipe, monkeypatch):
    """Validation has the recipe's seed, range, view, rows, microbatches and latent space, and each rank its share."""
    changes = {"seed": 5, "data.range": [0.0, 2.0], "data.image_size": 4, "train.microbatch": 4}
    found = built(recipe, changes)
    asked = {}
    monkeypatch.setattr("raysde.runs.build.held_out_batches", lambda reader, *given: given)
    monkeypatch.setattr("raysde.runs.build.validation_loss", lambda *given: asked.update(enumerate(given)) or {})
    world = hooks.World(1, 3)
    assert make_validator(found.run, world)(found.state.model) == {}
    model, batches, seed, data_range, where, latent, spare, image_condition = asked.values()
    assert model is found.state.model
    rows, *others = batches
    assert rows.tolist() == found.run.held_out.tolist()
    assert others == [4, View((4, 4)), 1, 3]
    assert (seed, data_range, where, latent, spare, image_condition) == (5, (0.0, 2.0), world, None, None, None)


def test_without_held_out_rows_nothing_is_validated(recipe):
    found = built(recipe, {"validation.rows": 0, "validation.every": 5})
    assert found.schedule.validate_every == 0
    assert make_validator(found.run, hooks.World()) is None


def test_a_grid_without_prompts_and_classes_has_none(recipe):
    found = built(recipe, {"sampling.labels": []}).grid
    assert found["prompts"] is None
    assert found["labels"] is None
    assert found["n"] == 4
    assert found["spec"].classes == 10


def test_a_batch_of_more_rows_than_there_are_is_said_and_trained_on(tmp_path):
    """There is no warning for a batch of exactly as many rows, because the plan shows each of them once."""
    manifest = write_digit_shards(tmp_path / "shards", rows=16, shard_rows=16)

    def run_of(batch: int) -> Run:
        changes = {"train__batch": batch, "train__microbatch": 4, "validation__rows": 4}
        return open_run(loading.parse_recipe(small_recipe(manifest, tmp_path / "runs", **changes)))

    enough, more = run_of(12), run_of(16)
    assert enough.plan.rows == 12
    assert sorted(np.concatenate([enough.plan.rows_of(0, index) for index in range(3)])) == list(range(12))
    assert list_remarks(enough) == []
    (said,) = list_remarks(more)
    assert "train.batch=16" in said
    assert "12 rows" in said
