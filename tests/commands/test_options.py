"""Every option and argument of every command reaches the function that uses it, with the given value."""

import argparse
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

import raysde
from raysde.cli import FORMER, build_parser, main
from raysde.conditioning.images import ColumnCondition
from raysde.config import loading
from raysde.data.attributes import Attribute
from tests.support.pictures import rng_image

RECIPE = "digits"


@pytest.fixture(autouse=True, scope="module")
def everything() -> None:
    """Import every module, so that none is first imported while a stand-in is in place, and keeps it."""
    for module in pkgutil.walk_packages(raysde.__path__, "raysde."):
        importlib.import_module(module.name)


class Recorder:
    """A recorder that replaces functions and keeps their arguments by parameter name."""

    def __init__(self, monkeypatch) -> None:
        self.monkeypatch, self.calls = monkeypatch, []

    def stand_in(self, name: str, original, gives=None):
        """Return a function with the parameters of ``original``, recorded as ``name``."""
        signature = inspect.signature(original)

        def called(*args, **kwargs):
            arguments = signature.bind(*args, **kwargs).arguments
            self.calls.append((name, dict(arguments)))
            return gives(*args, **kwargs) if callable(gives) else gives

        return called

    def replace(self, place: str, gives=None) -> None:
        """Replace ``module.function``; the recorded parameters are the original's own."""
        module, _, name = place.rpartition(".")
        original = getattr(__import__(module, fromlist=[name]), name)
        self.monkeypatch.setattr(place, self.stand_in(name, original, gives))

    def leaves(self) -> list[tuple[str, Any]]:
        """Recorded (key, value) pairs at any depth, and the names of the called functions."""
        found = [("called", name) for name, _ in self.calls]
        return found + [leaf for _, arguments in self.calls for leaf in leaves("", arguments)]


def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(str(name), inner)
    elif isinstance(value, list | tuple):
        yield key, list(value)
        for inner in value:
            yield from leaves(key, inner)
    elif isinstance(value, torch.Tensor):
        yield key, value.float().mean().item()
    else:
        yield key, str(value) if isinstance(value, Path | torch.device) else value


# stand-ins for the functions behind each command

GENERATION: dict[str, Any] = {}
"""Sampler settings of the stand-in model."""


def drawing(recorder: Recorder) -> Any:
    """Return a model of 8 x 8 grey images whose methods are recorded."""
    images = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)

    def drawn(count: int) -> Any:
        save = recorder.stand_in(
            "save", lambda folder, progress: None, lambda folder, progress: [Path("a"), Path("grid.png")]
        )
        return SimpleNamespace(images=images[:count], nfe=1, save=save, metadata=lambda index: {})

    spec = SimpleNamespace(
        generation=GENERATION, image=(1, 8, 8), latent=None, conditional=True, classes=10, class_names=(),
        default_solver="heun", attributes=(Attribute("age", 0.0, 90.0),), fold=1,
        image_condition=ColumnCondition(name="edges", channels=1),
    )  # fmt: skip
    methods = {
        "sample": (lambda **settings: None, lambda **settings: drawn(settings["n"])),
        "sample_path": (lambda points, **settings: None, lambda points, **settings: drawn(settings["n"])),
        "inpaint": (lambda images, known, **settings: None, lambda images, *_, **settings: drawn(len(images))),
        "colorise": (lambda grey, **settings: None, lambda images, **settings: drawn(len(images))),
        "upscale": (lambda small, factor, **settings: None, lambda images, *_, **settings: drawn(len(images))),
        "edit": (lambda images, strength, **settings: None, lambda images, *_, **settings: drawn(len(images))),
    }
    stand_ins = {name: recorder.stand_in(name, original, gives) for name, (original, gives) in methods.items()}
    return SimpleNamespace(spec=spec, **stand_ins)


def for_sample(recorder: Recorder) -> None:
    recorder.replace("raysde.registry.load", drawing(recorder))


def for_edit(recorder: Recorder) -> None:
    for_sample(recorder)
    recorder.replace("raysde.images.tensors.save_png", None)
    recorder.replace("raysde.inference.edit_files.draw_sheet", None)
    recorder.replace("raysde.images.tensors.save_picture", None)


def for_bulk(recorder: Recorder) -> None:
    for_sample(recorder)
    requests = SimpleNamespace(unread=(), count=3)
    requests.labelled = recorder.stand_in("labelled", lambda classes, names: None, requests)
    recorder.replace("raysde.inference.prompt_file.read_requests", requests)
    recorder.replace("raysde.inference.bulk.Bulk", SimpleNamespace(parts=[], out=""))
    recorder.replace("raysde.inference.bulk.draw_all", 0)
    recorder.replace("raysde.cluster.sample.draw_on_actors", None)


def for_evaluate(recorder: Recorder) -> None:
    recorder.replace("raysde.registry.load", "a model")
    subject = recorder_subject()
    recorder.replace("raysde.registry.resolve_with_subject", (Path("folder"), subject))
    recorder.replace("raysde.evaluation.evaluate.choose_network", None)
    recorder.replace("raysde.evaluation.real_data.open_filtered", None)
    answer = SimpleNamespace(figures=[], dump=dict, pairs=None)
    recorder.replace("raysde.evaluation.evaluate.evaluate", lambda *_, **how: (how["open_features"](None), answer)[1])
    recorder.replace("raysde.evaluation.evaluate.format_figures", "")
    recorder.replace("raysde.io.filesystems.check_writable", None)
    recorder.replace("raysde.io.filesystems.write_json", None)

    class Workers:
        __enter__ = __exit__ = lambda self, *_: None

    recorder.replace("raysde.cluster.evaluate.Workers", Workers())


def recorder_subject() -> Any:
    from raysde.evaluation.report import Subject

    return Subject("somewhere")


def for_settle(recorder: Recorder) -> None:
    from raysde.sde import VP

    spec = SimpleNamespace(conditional=True, generation={}, process=VP(), default_solver="heun")
    recorder.replace("raysde.registry.resolve_checkpoint", Path("checkpoint"))
    recorder.replace("raysde.checkpoints.checkpoint.verify_checkpoint", SimpleNamespace(spec=spec))
    recorder.replace("raysde.tuning.sampler.search.claim_folder", None)
    recorder.replace("raysde.tuning.sampler.search.check_code", None)
    recorder.replace("raysde.registry.check_model_name", None)
    study = SimpleNamespace(
        metric="kid", models={None: "own"}, question=lambda *_: None, rehearse=lambda *_: None, allow_code=False
    )
    recorder.replace("raysde.tuning.sampler.study.Study", study)
    recorder.replace("raysde.tuning.sampler.search.replace", study)
    recorder.replace(
        "raysde.checkpoints.checkpoint.export_checkpoint", lambda source, folder: folder.mkdir(parents=True)
    )
    recorder.replace("raysde.checkpoints.ema_snapshots.export_average", None)
    recorder.replace("raysde.cluster.tune_sampler.measure_on_ray", None)
    winner = SimpleNamespace(candidate=SimpleNamespace(average=None, drawing={}, values={}))
    recorder.replace("raysde.tuning.sampler.search.halve_successively", SimpleNamespace(winner=winner))
    recorder.replace(
        "raysde.checkpoints.checkpoint.export_with_settings", lambda source, folder, drawing: folder.mkdir()
    )
    recorder.replace("raysde.tuning.sampler.search.write_table", None)
    recorder.replace("raysde.commands.tune_sampler.print_report", None)
    recorder.replace("raysde.tracking.connect_client", None)
    recorder.replace("raysde.registry.register_model", SimpleNamespace(name="m", version="1"))


def for_registry(recorder: Recorder) -> None:
    version = SimpleNamespace(name="m", version="1", tags={})
    recorder.replace("raysde.tracking.connect_client", None)
    recorder.replace("raysde.evaluation.report.read_report", {})
    recorder.replace("raysde.evaluation.report.read_subject", None)
    recorder.replace("raysde.registry.register_model", version)
    recorder.replace("raysde.registry.promotion.record_figures", None)
    done = SimpleNamespace(version=version, figure=None, before=None)
    recorder.replace("raysde.registry.promotion.promote_version", done)
    recorder.replace("raysde.registry.list_aliases", {})
    recorder.replace("raysde.registry.list_versions", [])
    recorder.replace("raysde.registry.list_registered_models", [])


def for_exchange(recorder: Recorder) -> None:
    spec = SimpleNamespace(sde=SimpleNamespace(kind="vp"), target="v")
    made = SimpleNamespace(model=SimpleNamespace(spec=spec), pipeline="P", scheduler={}, settings="")
    recorder.replace("raysde.interop.convert", made)
    recorder.replace("raysde.interop.export", "P")
    recorder.replace("raysde.registry.load", "a model")


def for_ingest(recorder: Recorder) -> None:
    recorder.replace("raysde.data.ingest.sources.open_source", SimpleNamespace(notes=[]))
    recorder.replace(
        "raysde.data.ingest.probe.choose_rules", SimpleNamespace(shape=(3, 5), bucket_multiple=0, fit="crop")
    )
    base = SimpleNamespace(attributes=(), kept=None, size=(3, 5), channels=3, row_group=None, condition=None)
    recorder.replace("raysde.data.dataset.manifest.read_manifest", base)
    recorder.replace("raysde.data.ingest.append.check_appendable", None)
    recorder.replace("raysde.cluster.ingest.ingest", None)
    recorder.replace("raysde.commands.ingest.print_summary", None)


def for_looks(recorder: Recorder) -> None:
    recorder.replace("raysde.data.dataset.versions.choose_version", lambda path, wanted, key: wanted)
    recorder.replace("raysde.data.dataset.manifest.read_manifest", SimpleNamespace(rows=4, path="p"))
    recorder.replace("raysde.data.dataset.contact_sheet.describe_manifest", [])
    recorder.replace("raysde.data.dataset.verify.verify_here", [])
    recorder.replace("raysde.data.dataset.verify.hashing_needs_ray", False)
    recorder.replace("raysde.data.dataset.verify.is_local", True)
    recorder.replace("raysde.data.dataset.reader.Reader", None)
    recorder.replace("raysde.data.dataset.contact_sheet.draw_contact_sheet", None)
    recorder.replace("raysde.images.tensors.save_picture", None)
    recorder.replace("raysde.commands.data.check_picture", None)
    recorder.replace("raysde.commands.data.inspect_duplicates", [])
    plan = SimpleNamespace(epoch=recorder.stand_in("epoch", lambda step: None, 0.5), batch=4, microbatches=0)
    sources = SimpleNamespace(is_plain=True, open_reader=lambda columns: None)
    recorder.replace(
        "raysde.runs.run.open_run",
        SimpleNamespace(steps=10, plan=plan, sources=sources, config=loading.load_recipe(RECIPE, [])),
    )
    recorder.replace("raysde.checkpoints.storage.find_newest_checkpoint", None)


def for_precompute(recorder: Recorder) -> None:
    from raysde.precompute.jobs import LatentsJob, TextJob

    for_looks(recorder)
    for kind in (TextJob, LatentsJob):
        of = recorder.stand_in(kind.__name__, kind.of, kind.__name__)
        recorder.monkeypatch.setattr(f"raysde.precompute.jobs.{kind.__name__}", SimpleNamespace(of=of))
    recorder.replace("raysde.cluster.precompute.precompute", SimpleNamespace(all_files=[], kind="k", path="p"))


def for_training(recorder: Recorder) -> None:
    done = SimpleNamespace(checkpoint="", model="", tracking_uri="", run_id="", choice="")
    recorder.replace("raysde.cluster.job.train_job", done)
    run = lambda recipe: SimpleNamespace(steps=10, plan=SimpleNamespace(batch=4), config=recipe)  # noqa: E731
    recorder.replace("raysde.runs.run.open_run", run)
    recorder.replace("raysde.runs.run.check_run", [])
    recorder.replace("raysde.runs.run.list_remarks", [])
    recorder.replace("raysde.checkpoints.storage.find_newest_checkpoint", None)
    recorder.replace("raysde.commands.train.suggest_sample_command", "")
    recorder.replace("raysde.runs.local.check_place", None)
    recorder.replace("raysde.runs.local.train_here", None)
    recorder.replace("raysde.runs.history.record_history", lambda run, shown, lease: nullcontext(shown))
    recorder.replace("raysde.runs.lease.hold_run", nullcontext())
    recorder.replace("raysde.cluster.demo.demo_job", None)
    recorder.replace("raysde.config.loading.load_recipe", loading.load_recipe)
    recorder.replace("raysde.config.reference.format_reference", "")
    swept = SimpleNamespace(table="", csv="", recipe="", checkpoint=None, run_id="", tracking_uri="")
    recorder.replace("raysde.cluster.tune_training.tune_job", swept)


def for_listing(recorder: Recorder) -> None:
    recorder.replace("raysde.config.builtin.find_builtin", Path(__file__))


def for_ema(recorder: Recorder) -> None:
    recorder.replace("raysde.checkpoints.ema_snapshots.export_average", 5)


def for_ui(recorder: Recorder) -> None:
    recorder.replace("raysde.tracking.connect_client", None)
    recorder.replace("raysde.tracking.list_experiments", {})
    recorder.replace("raysde.commands.ui.serve_store", None)


# command-line words, then the expected (key, value)

MODEL = {
    "model": (["MODEL"], ("source", "MODEL")),
    "device": (["--device", "meta"], ("device", "meta")),
    "allow_code": (["--allow-code"], ("allow_code", True)),
    "tracking_uri": (["--tracking-uri", "sqlite:///x"], ("tracking_uri", "sqlite:///x")),
}
SOLVER = {
    "solver": (["--solver", "unipc"], ("solver", "unipc")),
    "steps": (["--steps", "7"], ("steps", 7)),
    "grid": (["--grid", "quadratic"], ("grid", "quadratic")),
    "rho": (["--grid", "edm", "--rho", "5"], ("rho", 5.0)),
    "corrector": (["--corrector", "langevin"], ("corrector", "langevin")),
    "corrector_steps": (["--solver", "pc", "--corrector-steps", "2"], ("corrector_steps", 2)),
    "target_snr": (["--solver", "pc", "--target-snr", "0.25"], ("target_snr", 0.25)),
    "eta": (["--solver", "ddim", "--eta", "0.75"], ("eta", 0.75)),
    "order": (["--solver", "deis", "--order", "2"], ("order", 2)),
    "churn": (["--solver", "edm", "--churn", "40"], ("churn", 40.0)),
    "churn_low": (["--solver", "edm", "--churn-low", "0.05"], ("churn_low", 0.05)),
    "churn_high": (["--solver", "edm", "--churn-high", "50"], ("churn_high", 50.0)),
    "churn_noise": (["--solver", "edm", "--churn-noise", "1.003"], ("churn_noise", 1.003)),
    "rtol": (["--solver", "rk45", "--rtol", "0.01"], ("rtol", 0.01)),
    "atol": (["--solver", "rk45", "--atol", "0.02"], ("atol", 0.02)),
    "denoise": (["--denoise"], ("denoise", True)),
    "set": (["--solver", "ddim", "--set", "eta=0.5"], ("eta", 0.5)),
    "batch_size": (["--batch-size", "5"], ("batch_size", 5)),
}
LED = {
    "guidance": (["--guidance", "3"], ("guidance", 3.0)),
    "guidance_interval": (["--guidance", "3", "--guidance-interval", "0.2", "5"], ("guidance_interval", [0.2, 5.0])),
    "negative": (["--negative", "blurred"], ("negative", "blurred")),
    "autoguide": (["--autoguide", "YOUNGER"], ("source", "YOUNGER")),
    "autoguidance": (["--autoguide", "YOUNGER", "--autoguidance", "1.5"], ("autoguidance", 1.5)),
}
CONDITIONS = {
    "prompt": (["--prompt", "a seven"], ("prompts", "a seven")),
    "label": (["--label", "7"], ("labels", 7)),
    "attribute": (["--attribute", "age=30"], ("age", [30.0])),
    "seed": (["--seed", "9"], ("seed", 9)),
    **LED,
}
REAL = {
    "data": (["--data", "SHARDS"], ("data", str(Path("SHARDS").absolute()))),
    "split": (["--split", "validation"], ("split", "validation")),
    "reference": (["--reference", "7777"], ("reference", 7777)),
    "features": (["--features", "judge"], ("features", "judge")),
    "samples": (["--samples", "3000"], ("samples", 3000)),
    "seed": (["--seed", "9"], ("seed", 9)),
    "allow_few": (["--allow-few"], ("allow_few", True)),
    "metric": (["--metric", "is"], ("metric", "is")),
}
RECIPES = {
    "recipe": ([RECIPE], ("path", RECIPE)),
    "overrides": (["train.lr=0.5"], ("overrides", ["train.lr=0.5"])),
}
OVER = ["--over", "train.lr=[1,2]"]

MODES = {
    "sample": (for_sample, [], {
        **MODEL, **CONDITIONS, **SOLVER,
        "condition_image": (["--condition-image", "white.png"], ("condition_images", 255.0)),
        "n": (["-n", "3"], ("n", 3)),
        "size": (["--size", "6x10"], ("size", [6, 10])),
        "path": (["--path", "5"], ("points", 5)),
        "times": (["--times", "0.75,0.25"], ("times", 0.5)),
        "start": (["--start", "start.npy"], ("start", 0.125)),
        "out": (["--out", "DRAWN"], ("folder", "DRAWN")),
    }),
    "sample of a file": (for_bulk, ["--prompts-file", "FILE"], {
        **MODEL, **LED,
        "allow_code": MODEL["allow_code"],
        "set": SOLVER["set"], "solver": SOLVER["solver"], "steps": SOLVER["steps"], "grid": SOLVER["grid"],
        "batch_size": SOLVER["batch_size"],
        "seed": (["--seed", "9"], ("seed", 9)),
        "size": (["--size", "6x10"], ("size", [6, 10])),
        "prompts_file": (["--prompts-file", "OTHER"], ("file", "OTHER")),
        "form": (["--form", "png"], ("form", "png")),
        "workers": (["--workers", "3"], ("workers", 3)),
        "out": (["--out", "DRAWN"], ("out", str(Path("DRAWN").absolute()))),
    }),
    "sample of a file by workers": (for_bulk, ["--prompts-file", "FILE", "--workers", "2"], {
        "device": (["--device", "meta"], ("device", "meta")),
    }),
    "evaluate by workers": (for_evaluate, ["--data", "REAL", "--workers", "2"], {
        "device": (["--device", "meta"], ("device", "meta")),
    }),
    "edit": (for_edit, ["--image", "grey.png", "--mask", "mask.png", "--out", "edited"], {
        **MODEL, **CONDITIONS, **SOLVER,
        "image": (["--image", "other.png"], ("names", ["image-000", "image-001"])),
        "mask": (["--mask", "white.png"], ("known", 1.0)),
        "n": (["-n", "3"], ("n", 3)),
        "out": (["--out", "elsewhere"], ("folder", "elsewhere")),
        "method": (["--method", "replacement"], ("method", "replacement")),
        "noise": (["--noise", "3"], ("noise", 3.0)),
        "iterations": (["--iterations", "4"], ("iterations", 4)),
        "resample": (["--resample", "2"], ("resample", 2)),
    }),
    "edit by --colorise": (for_edit, ["--image", "grey.png", "--out", "edited"], {
        "colorise": (["--colorise"], ("called", "colorise")),
    }),
    "edit by --upscale": (for_edit, ["--image", "small.png", "--out", "edited"], {
        "upscale": (["--upscale", "2"], ("factor", 2)),
    }),
    "edit by --strength": (for_edit, ["--image", "grey.png", "--out", "edited"], {
        "strength": (["--strength", "0.5"], ("strength", 0.5)),
    }),
    "evaluate": (for_evaluate, ["--data", "REAL"], {
        **MODEL, **SOLVER, **{name: given for name, given in REAL.items() if name != "metric"},
        "data_version": (["--data-version", "2"], ("version", 2)),
        "filter": (["--filter", "score > 3"], ("condition", "score > 3")),
        "metrics": (["--metrics", "bpd, kid"], ("metrics", ["bpd", "kid"])),
        "output": (["--output", "other.json"], ("path", str(Path("other.json").absolute()))),
        "rows": (["--rows", "33"], ("rows", 33)),
        "t": (["--t", "0.25"], ("t", 0.25)),
        "bpd_rtol": (["--bpd-rtol", "0.03"], ("rtol", 0.03)),
        "bpd_atol": (["--bpd-atol", "0.02"], ("atol", 0.02)),
        "lpips": (["--lpips", "WEIGHTS"], ("lpips", "WEIGHTS")),
        "clip": (["--clip", "CLIP"], ("clip", "CLIP")),
        "dinov2": (["--dinov2", "DINOV2"], ("dinov2", "DINOV2")),
        "cache": (["--cache", "CACHE"], ("cache", "CACHE")),
        "guidance": LED["guidance"], "autoguide": LED["autoguide"], "autoguidance": LED["autoguidance"],
        "workers": (["--workers", "3"], ("count", 3)),
    }),
    "tune-sampler": (for_settle, ["--data", "REAL", "--out", "OUT"], {
        **REAL,
        "model": MODEL["model"], "tracking_uri": MODEL["tracking_uri"], "allow_code": MODEL["allow_code"],
        "device": MODEL["device"],
        "overrides": (["steps=7"], ("steps", 7)),
        "rounds": (["--rounds", "2"], ("images", [667, 2000])),
        "samples": (["--samples", "900"], ("images", [100, 300, 900])),
        "batch_size": SOLVER["batch_size"],
        "out": (["--out", "THERE"], ("out", str(Path("THERE").absolute()))),
        "name": (["--name", "named"], ("name", "named")),
        "cache": (["--cache", "CACHE"], ("cache", str(Path("CACHE").absolute()))),
    }),
    "register": (for_registry, [], {
        "model": (["MODEL"], ("source", "MODEL")),
        "name": (["--name", "named"], ("name", "named")),
        "alias": (["--alias", "blue"], ("alias", "blue")),
        "report": (["--report", "figures.json"], ("path", "figures.json")),
        "tracking_uri": (["--tracking-uri", "sqlite:///x"], ("uri", "sqlite:///x")),
    }),
    "promote": (for_registry, [], {
        "model": (["MODEL"], ("source", "MODEL")),
        "report": (["--report", "figures.json"], ("path", "figures.json")),
        "metric": (["--metric", "kid"], ("metric", "kid")),
        "better": (["--better", "higher"], ("better", "higher")),
        "alias": (["--alias", "blue"], ("alias", "blue")),
        "force": (["--force", "--reason", "so"], ("reason", "so")),
        "reason": (["--force", "--reason", "so"], ("reason", "so")),
        "tracking_uri": (["--tracking-uri", "sqlite:///x"], ("uri", "sqlite:///x")),
    }),
    "models": (for_registry, [], {
        "name": (["named"], ("name", "named")),
        "tracking_uri": (["--tracking-uri", "sqlite:///x"], ("uri", "sqlite:///x")),
    }),
    "import": (for_exchange, [], {
        "folder": (["MODEL", "OUT"], ("folder", "MODEL")),
        "out": (["MODEL", "OUT"], ("target", "OUT")),
    }),
    "export": (for_exchange, [], {
        "model": (["MODEL", "OUT"], ("source", "MODEL")),
        "out": (["MODEL", "OUT"], ("folder", "OUT")),
        "solver": (["MODEL", "OUT", "--solver", "ancestral"], ("solver", "ancestral")),
        "target_snr": (["MODEL", "OUT", "--target-snr", "0.3"], ("target_snr", 0.3)),
        "tracking_uri": (["MODEL", "OUT", "--tracking-uri", "sqlite:///x"], ("tracking_uri", "sqlite:///x")),
    }),
    "ingest": (for_ingest, ["SOURCE", "OUT"], {
        "source": ([], ("path", "SOURCE")),
        "out": ([], ("out", "OUT")),
        "size": (["--size", "24x32"], ("size", [24, 32])),
        "fit": (["--fit", "pad"], ("fit", "pad")),
        "buckets": (["--buckets", "8"], ("bucket_multiple", 8)),
        "channels": (["--channels", "3"], ("channels", 3)),
        "encode": (["--encode", "png"], ("encode", "png")),
        "quality": (["--quality", "80"], ("quality", 80)),
        "background": (["--background", "7"], ("background", 7)),
        "caption_template": (["--caption-template", "a {label}"], ("caption_template", "a {label}")),
        "caption_column": (["--caption-column", "said"], ("caption_column", "said")),
        "label_column": (["--label-column", "kind"], ("label_column", "kind")),
        "label_names": (["--label-names", "NAMES"], ("label_names", "NAMES")),
        "images": (["--images", "ROOT"], ("images", "ROOT")),
        "validation": (["--validation", "0.25"], ("validation", 0.25)),
        "order": (["--order", "source"], ("order", "source")),
        "shard_rows": (["--shard-rows", "99"], ("shard_rows", 99)),
        "row_group": (["--row-group", "11"], ("row_group", 11)),
        "licence": (["--licence", "CC0"], ("licence", "CC0")),
        "skip_bad": (["--skip-bad"], ("skip_bad", True)),
        "attributes": (["--attributes", "age,weight"], ("attributes", ["age", "weight"])),
        "keep_columns": (["--keep-columns", "score,url"], ("keep", ["score", "url"])),
        "condition_image": (["--condition-image", "depth"], ("condition", "depth")),
        "condition_channels": (
            ["--condition-image", "depth", "--condition-channels", "3"],
            ("condition_channels", 3),
        ),
        "condition_resample": (
            ["--condition-image", "depth", "--condition-resample", "nearest"],
            ("condition_resample", "nearest"),
        ),
        "append": (["--append"], ("called", "check_appendable")),
        "drop_duplicates": (["--drop-duplicates"], ("threshold", 0.03)),
        "duplicate_distance": (["--drop-duplicates", "--duplicate-distance", "0.01"], ("threshold", 0.01)),
        "mirrored_duplicates": (["--drop-duplicates", "--mirrored-duplicates"], ("mirrored", True)),
    }),
    "inspect": (for_looks, [], {
        "shards": (["SHARDS"], ("path", "SHARDS")),
        "sheet": (["SHARDS", "--sheet", "other.png"], ("path", "other.png")),
        "n": (["SHARDS", "-n", "12"], ("count", 12)),
        "seed": (["SHARDS", "--seed", "9"], ("seed", 9)),
        "fast": (["SHARDS", "--fast"], ("verification", "schema")),
        "version": (["SHARDS", "--version", "2"], ("version", 2)),
        "duplicates": (["SHARDS", "--duplicates"], ("threshold", 0.03)),
        "duplicate_sheet": (["SHARDS", "--duplicates", "--duplicate-sheet", "pairs.png"], ("sheet", "pairs.png")),
        "duplicate_distance": (["SHARDS", "--duplicates", "--duplicate-distance", "0.01"], ("threshold", 0.01)),
        "mirrored_duplicates": (["SHARDS", "--duplicates", "--mirrored-duplicates"], ("mirrored", True)),
        "features": (["SHARDS", "--duplicates", "--features", "NETWORK"], ("features", "NETWORK")),
        "feature_similarity": (["SHARDS", "--duplicates", "--features", "NETWORK", "--feature-similarity", "0.8"],
                               ("similarity", 0.8)),
        "allow_code": (["SHARDS", "--duplicates", "--features", "NETWORK", "--allow-code"], ("allow_code", True)),
    }),
    "plan": (for_looks, ["--step", "2"], {
        "recipe": ([RECIPE], ("name", "digits")),
        "overrides": ([RECIPE, "train.lr=0.5"], ("lr", 0.5)),
        "step": ([RECIPE, "--step", "7"], ("step", 7)),
    }),
    "precompute": (for_precompute, ["SHARDS", "--text", "BERT"], {
        "shards": ([], ("path", str(Path.cwd() / "SHARDS"))),
        "text": (["--text", "T5"], ("encoder", "T5")),
        "vae": (["--vae", "KL"], ("vae", "KL")),
        "max_tokens": (["--max-tokens", "32"], ("max_tokens", 32)),
        "batch_size": (["--batch-size", "5"], ("batch_size", 5)),
        "dtype": (["--dtype", "fp32"], ("dtype", "fp32")),
        "flip": (["--vae", "KL", "--flip"], ("flip", True)),
        "crops": (["--vae", "KL", "--crops", "3"], ("crops", 3)),
        "scale": (["--vae", "KL", "--crops", "3", "--scale", "0.5", "0.9"],
                  ("scale", [0.5, 0.9])),
    }),
    "train": (for_training, [], {
        "recipe": ([RECIPE], ("path", RECIPE)),
        "overrides": ([RECIPE, "train.lr=0.5"], ("lr", 0.5)),
        "no_ray": ([RECIPE, "--no-ray"], ("called", "train_here")),
    }),
    "tune": (for_training, [RECIPE], {
        "recipe": (OVER, ("name", "digits")),
        "overrides": ([*OVER, "train.batch=64"], ("batch", 64)),
        "name": ([*OVER, "--name", "swept"], ("name", "swept")),
        "sweep": (["--sweep", "sweep.yaml"], ("trials", 17)),
        "over": (["--over", "train.clip=[3,4]"], ("train.clip", [3, 4])),
        "search": ([*OVER, "--search", "grid"], ("search", "grid")),
        "trials": ([*OVER, "--trials", "2"], ("trials", 2)),
        "seed": ([*OVER, "--seed", "9"], ("seed", 9)),
        "scheduler": ([*OVER, "--scheduler", "fifo"], ("scheduler", "fifo")),
        "grace": ([*OVER, "--grace", "13"], ("grace", 13)),
        "reduction": ([*OVER, "--reduction", "3.5"], ("reduction", 3.5)),
        "metric": ([*OVER, "--metric", "val/loss"], ("metric", "val/loss")),
        "concurrent": ([*OVER, "--concurrent", "5"], ("concurrent", 5)),
    }),
    "ema": (for_ema, ["RUN", "--std", "0.1", "--out", "OUT"], {
        "source": ([], ("run", "RUN")),
        "std": (["--std", "0.2"], ("std", 0.2)),
        "out": (["--out", "THERE"], ("target", "THERE")),
        "step": (["--step", "400"], ("step", 400)),
    }),
    "config": (for_training, [], {
        "recipe": ([RECIPE], ("path", RECIPE)),
        "overrides": ([RECIPE, "train.lr=0.5"], ("overrides", ["train.lr=0.5"])),
    }),
    "recipes": (for_listing, [], {
        "name": (["digits"], ("name", "digits")),
        "sweep": (["digits", "--sweep"], ("kind", "sweep")),
    }),
    "demo": (for_training, [], {
        "recipe": (["--recipe", "other.yaml"], ("recipe", "other.yaml")),
        "out": (["--out", "THERE"], ("out", str(Path("THERE").absolute()))),
        "overrides": (["train.lr=0.5"], ("overrides", ["train.lr=0.5"])),
    }),
    "ui": (for_ui, [], {
        "port": (["--port", "5123"], ("port", 5123)),
        "no_browser": (["--no-browser"], ("browse", False)),
        "tracking_uri": (["--tracking-uri", "sqlite:///x"], ("uri", "sqlite:///x")),
    }),
}  # fmt: skip
"""Stand-ins, required words and options for each command and each way to use it."""
POSITIONAL = {"sample": "M", "edit": "M", "evaluate": "M", "tune-sampler": "M", "register": "M", "promote": "M"}
"""First word of the commands that take a model."""
CASES = [(mode, option) for mode, (_, _, options) in MODES.items() for option in options]


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def options_of(command: argparse.ArgumentParser) -> set[str]:
    return {action.dest for action in command._actions} - {"help"}


def test_no_option_is_left_out():
    """The table above must list every option of every command; add new options there."""
    known: dict[str, set[str]] = {}
    for mode, (_, _, options) in MODES.items():
        known.setdefault(mode.split()[0], set()).update(options)
    assert known == {name: options_of(command) for name, command in commands().items() if name not in FORMER}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Return a working folder with the files that options name."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("grey", 8), ("other", 8), ("mask", 8), ("small", 4)):
        Image.fromarray(rng_image(0, size)[..., 0]).save(tmp_path / f"{name}.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    np.save(tmp_path / "start.npy", np.full((2, 1, 8, 8), 0.125, np.float32))
    (tmp_path / "sweep.yaml").write_text("{space: {train.lr: 'log(1e-4,1e-2)'}, trials: 17}")
    return tmp_path


def arrived(command: str, mode: str, words: list[str], monkeypatch) -> list[tuple[str, Any]]:
    """Return the arguments that reach the functions behind a command."""
    install, always, _ = MODES[mode]
    with monkeypatch.context() as patch:
        recorder = Recorder(patch)
        install(recorder)
        first = [POSITIONAL[command]] if command in POSITIONAL else []
        if words and words[0] == "MODEL":
            first = []
        try:
            status = main([command, *first, *always, *words])
        except SystemExit as ended:
            status = ended.code
        assert status == 0, words
        return recorder.leaves()


def here(expected: tuple[str, Any], place: Path) -> tuple[str, Any]:
    """Return the expected pair with absolute paths in the working folder of the command."""
    key, value = expected
    above = str(Path.cwd() if not isinstance(value, str) else STARTED)
    return key, value.replace(above, str(place)) if isinstance(value, str) and value.startswith(above) else value


STARTED = Path.cwd()


@pytest.mark.parametrize(("mode", "option"), CASES, ids=[f"{mode}-{option}" for mode, option in CASES])
def test_an_option_arrives(place, monkeypatch, mode, option):
    words, expected = MODES[mode][2][option]
    command = mode.split()[0]
    expected = (expected[0], RECIPE) if expected[1] == RECIPE else here(expected, place)
    found = arrived(command, mode, words, monkeypatch)
    assert expected in found, [value for key, value in found if key == expected[0]]


@pytest.mark.parametrize("mode", ["sample", "edit", "evaluate", "tune-sampler", "ingest", "inspect", "ema"])
def test_a_value_that_is_not_the_default_is_not_there_without_its_option(place, monkeypatch, mode):
    """Otherwise the test above could not fail."""
    command = mode.split()[0]
    base = arrived(command, mode, ["SHARDS"] if mode == "inspect" else [], monkeypatch)
    for option, (words, expected) in MODES[mode][2].items():
        given = [word for word in words if word.startswith("-")]
        if given and expected[0] != "called":
            assert here(expected, place) not in base, option


def test_prompts_and_labels_are_taken_in_turn(place, monkeypatch):
    """Seven images take three prompts and two labels in turn; without -n there is one per prompt, and 16 without
    prompts."""
    prompts = ["--prompt", "a", "--prompt", "b", "--prompt", "c", "--label", "4", "--label", "5"]
    found = arrived("sample", "sample", [*prompts, "-n", "7"], monkeypatch)
    assert ("prompts", ["a", "b", "c", "a", "b", "c", "a"]) in found
    assert ("labels", [4, 5, 4, 5, 4, 5, 4]) in found
    assert ("n", 3) in arrived("sample", "sample", prompts, monkeypatch)
    assert ("n", 16) in arrived("sample", "sample", [], monkeypatch)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], 1.0),
        (["--prompt", "a"], 2.0),
        (["--label", "1"], 2.0),
        (["--negative", "a"], 2.0),
        (["--autoguide", "M"], 2.0),
        (["--autoguide", "M", "--autoguidance", "3"], 1.0),
    ],
)
def test_the_default_guidance_of_each_way_to_be_led(place, monkeypatch, words, expected):
    """The default is that of the help text."""
    assert ("guidance", expected) in arrived("sample", "sample", words, monkeypatch)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [1.0, None]),
        (["--prompt", "a"], [3.0, [0.2, 5.0]]),
        (["--autoguide", "M"], [3.0, [0.2, 5.0]]),
        (["--negative", "a"], [3.0, [0.2, 5.0]]),
        (["--prompt", "a", "--guidance", "4"], [4.0, None]),
        (["--prompt", "a", "--guidance-interval", "1", "2"], [3.0, [1.0, 2.0]]),
    ],
)
def test_the_guidance_that_was_found_for_a_model(place, monkeypatch, words, expected):
    """The stored scale is the default whenever there is a condition or guide; an explicit scale comes without the
    stored interval."""
    monkeypatch.setitem(GENERATION, "guidance", 3.0)
    monkeypatch.setitem(GENERATION, "guidance_interval", [0.2, 5.0])
    found = arrived("sample", "sample", words, monkeypatch)
    assert ("guidance", expected[0]) in found
    assert ("guidance_interval", expected[1]) in found
