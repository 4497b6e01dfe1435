"""Arguments of Ray Train and Ray Tune, without a cluster: every setting of a recipe reaches them."""

import json
import os
import re
import shutil
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import ray.data
import ray.train
import torch
from ray import cloudpickle
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

from raysde import tracking
from raysde.checkpoints import checkpoint
from raysde.checkpoints.loading import DamagedCheckpointError
from raysde.cluster import connection, job, train
from raysde.cluster.backpressure import PAUSE, pause_if_exhausted, set_up_data
from raysde.cluster.entry import train_worker
from raysde.cluster.refusals import RefusedError, mark_refusals
from raysde.cluster.resources import (
    Cluster,
    DataShare,
    Share,
    assign_data_share,
    check_data_nodes,
    count_concurrent_runs,
    count_workers,
    survey_cluster,
)
from raysde.cluster.stream import blocks_in_slice, stream_spec
from raysde.cluster.train import root_cause, run_worker_group
from raysde.cluster.trial_reports import Mailbox
from raysde.cluster.tune_training import sweep_definition
from raysde.cluster.worker import check_shared, time_first_batch
from raysde.config import loading
from raysde.data.dataset.precomputed import PrecomputedFile, TextEmbeddings
from raysde.distributed.world import World
from raysde.io.errors import Interrupted
from raysde.io.filesystems import child_path
from raysde.io.own_code import OwnCodeError
from raysde.runs.build import new_state
from raysde.runs.hooks import save_checkpoint
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from raysde.tracking.backlog import backlog_folder
from raysde.tracking.spool import spool_folder
from raysde.tuning.training.settings import read_settings

RESOURCES = {
    "resources__workers": [1, 2],
    "resources__cpus_per_worker": 3,
    "resources__max_failures": 5,
    "resources__resize_every": 7.0,
    "keep_checkpoints": 4,
    "train__microbatch": 8,
}


@pytest.fixture
def launched(monkeypatch, recipe):
    """Launch a recipe with a trainer that only records its arguments."""

    def run(share=None, returned=None, raised=None, **changes):
        made = {}

        class Trainer:
            def __init__(self, worker, **given) -> None:
                made.update(given, worker=worker)

            def fit(self):
                if raised is not None:
                    raise raised
                return SimpleNamespace(return_value=returned)

        monkeypatch.setattr(train, "TorchTrainer", Trainer)
        monkeypatch.setattr(train, "release_orphaned_placement_groups", lambda: None)
        opened = open_run(loading.parse_recipe(recipe(**changes)))
        run_worker_group(opened, tracking_uri="sqlite:///x", run_id="abc", started=5.0, share=share)
        return made, opened

    return run


def test_every_setting_reaches_ray_train(launched):
    made, run = launched(Share(3, False), **RESOURCES, data__stream="ray")
    scaling, running = made["scaling_config"], made["run_config"]
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == ((1, 2), False, {"CPU": 3})
    assert scaling.elastic_resize_monitor_interval_s == 7.0
    assert (running.name, running.storage_path) == ("small", run.config.storage)
    assert running.failure_config.max_failures == 0  # raysde counts every failure in one place, see below
    assert running.checkpoint_config.num_to_keep is None  # workers delete older checkpoints themselves
    assert made["torch_config"].backend == "gloo"
    assert "datasets" not in made  # workers run data sets of their own
    loop = made["train_loop_config"]
    assert loading.parse_recipe(loop["recipe"]) == run.config
    assert (loop["tracking_uri"], loop["run_id"], loop["threads"], loop["started"]) == ("sqlite:///x", "abc", 3, 5.0)
    assert (loop["spool"], loop["reports"]) == (str(spool_folder("small", "abc")), None)


def test_workers_on_gpus_talk_by_nccl_and_may_read_for_themselves(launched):
    made, _ = launched(Share(2, True), data__stream="worker")
    assert made["torch_config"].backend == "nccl"
    assert made["scaling_config"].use_gpu
    assert made["scaling_config"].resources_per_worker == {"CPU": 2, "GPU": 1}


@pytest.mark.parametrize(
    ("stream", "labels", "expected"),
    [("ray", {"raysde": "data"}, {"raysde": "!data"}), ("worker", {"raysde": "data"}, None), ("ray", None, None)],
)
def test_workers_avoid_the_nodes_for_data_tasks(launched, stream, labels, expected):
    made, _ = launched(Share(1, False), data__stream=stream, data__nodes=labels)
    assert made["scaling_config"].label_selector == expected


def test_a_failure_that_a_worker_returns_is_the_runs(launched):
    with pytest.raises(RuntimeError, match=r"^run 'small' failed: the loss is nan at step 3$"):
        launched(Share(1, False), returned={"step": 3, "failed": "the loss is nan at step 3"})
    launched(Share(1, False), returned={"step": 3, "failed": ""})


DEATHS = [
    ray.train.WorkerGroupError("died", {0: RuntimeError("died")}),
    ray.train.ControllerError(ray.exceptions.ActorDiedError()),
    ray.exceptions.ActorDiedError(),
]


@pytest.mark.parametrize("death", DEATHS, ids=["worker", "worker that starts", "controller"])
@pytest.mark.parametrize(("deaths", "most"), [(0, 0), (1, 0), (1, 1), (3, 3), (4, 3), (2, 7)])
def test_whatever_dies_is_started_again_so_many_times(monkeypatch, recipe, capsys, death, deaths, most):
    """Each time a new trainer starts, until there are more failures than the recipe allows; reserved CPUs are freed."""
    fits, releases = [], []
    monkeypatch.setattr(train, "release_orphaned_placement_groups", lambda: releases.append(len(fits)))

    class Trainer:
        def __init__(self, worker, **given) -> None:
            pass

        def fit(self):
            fits.append(1)
            if len(fits) <= deaths:
                raise death
            return SimpleNamespace(return_value={"step": 10, "failed": ""})

    monkeypatch.setattr(train, "TorchTrainer", Trainer)
    run = open_run(loading.parse_recipe(recipe(resources__max_failures=most)))
    given = {"tracking_uri": "sqlite:///x", "run_id": "abc", "started": 5.0, "share": Share(1, False)}
    if deaths > most:
        with pytest.raises(RuntimeError, match=r"^run 'small' failed: .*died"):
            run_worker_group(run, **given)
    else:
        run_worker_group(run, **given)
    restarts = min(deaths, most)
    assert len(fits) == restarts + 1
    assert releases == list(range(1, restarts + 1))
    first, *said = capsys.readouterr().err.splitlines()
    assert first == "starting 1 worker"
    assert [line.partition("starting again ")[2] for line in said] == [
        f"from step 0 ({number} of {most} times)" for number in range(1, restarts + 1)
    ]


@pytest.mark.parametrize(
    ("workers", "said"), [(1, "starting 1 worker"), (2, "starting 2 workers"), ([1, 4], "starting 1 worker")]
)
def test_it_is_said_how_many_workers_start(launched, capsys, workers, said):
    launched(Share(1, False), resources__workers=workers, train__microbatch=4)
    assert capsys.readouterr().err.splitlines() == [said]


def test_what_is_no_death_is_not_tried_again(monkeypatch, recipe):
    class Trainer:
        def __init__(self, worker, **given) -> None:
            pass

        def fit(self):
            raise KeyError("a mistake")

    monkeypatch.setattr(train, "TorchTrainer", Trainer)
    run = open_run(loading.parse_recipe(recipe(resources__max_failures=3)))
    with pytest.raises(KeyError, match="a mistake"):
        run_worker_group(run, tracking_uri="sqlite:///x", run_id="abc", started=5.0, share=Share(1, False))


HARMS = ["deleted", "truncated", "older", "unlisted", "empty", "not JSON", "another run's", "folder", "link"]


@pytest.mark.parametrize("harm", HARMS)
def test_rays_list_of_checkpoints_is_no_second_truth(monkeypatch, recipe, tmp_path, harm):
    """Ray's own checkpoint manager starts in a folder with a wrong list as it does in a fresh one."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
    from ray.train.v2._internal.execution.storage import StorageContext
    from ray.train.v2._internal.execution.training_report import _TrainingReport

    monkeypatch.setattr(CheckpointManager, "_notify", lambda self: None)
    run = open_run(loading.parse_recipe(recipe()))
    place = tmp_path / "runs"
    context, state = StorageContext(str(place), "small"), new_state(run, World().device)
    manager = CheckpointManager(ray.train.CheckpointConfig(), context)
    for step in (3, 6, 9):
        state.step = step
        folder = save_checkpoint(run, state, place / "small", World())
        if (step, harm) != (9, "unlisted"):
            report = _TrainingReport(ray.train.Checkpoint.from_directory(str(folder)), {"step": step}, False)
            manager.register_checkpoint(report)
    listing, newest = place / "small" / train.SNAPSHOT, place / "small" / checkpoint.checkpoint_name(9)
    if harm == "deleted":
        shutil.rmtree(newest)
    if harm == "truncated":
        os.truncate(listing, 50)
    if harm == "empty":
        os.truncate(listing, 0)
    if harm == "not JSON":
        listing.write_bytes(b"\x00\xff step")
    if harm == "another run's":
        listing.write_text(listing.read_text().replace(checkpoint.checkpoint_name(9), checkpoint.checkpoint_name(12)))
    if harm == "folder":
        listing.unlink()
        (listing / "inside").mkdir(parents=True)
    if harm == "link":
        listing.unlink()
        listing.symlink_to(tmp_path / "nowhere")
    if harm == "older":
        os.truncate(newest / "weights.safetensors", 50)
    assert train.prepare_folder(run, print) == (6 if harm in ("deleted", "older") else 9)
    again = CheckpointManager(ray.train.CheckpointConfig(), context)
    assert again.best_checkpoint_results == []


def test_every_limit_of_ray_data_rests(monkeypatch):
    """All policies of the installed Ray that limit reads are replaced by raysde's subclasses."""
    pauses = []
    monkeypatch.setattr("raysde.cluster.backpressure.time.sleep", pauses.append)
    assert [pause_if_exhausted(limit) for limit in (0, None, 5, 0)] == [0, None, 5, 0]
    assert pauses == [PAUSE, PAUSE]
    set_up_data()
    context = ray.data.DataContext.get_current()
    chosen = context.get_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY)
    assert not context.enable_progress_bars
    for policy, ours in zip(ENABLED_BACKPRESSURE_POLICIES, chosen, strict=True):
        limits = policy.max_task_output_bytes_to_read is not BackpressurePolicy.max_task_output_bytes_to_read
        assert issubclass(ours, policy)
        assert (ours is not policy) == limits


class Failed(ray.train.TrainingFailedError):
    """An error as Ray Train raises it."""

    def __init__(self, failures: dict) -> None:
        self.worker_failures = failures


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ({1: "ValueError: late", 0: "ValueError: first"}, "worker 0: ValueError: first"),
        ({0: "OSError: a\n\nDuring that:\nmy.own.DataError: b: c"}, "worker 0: my.own.DataError: b: c"),
        ({2: "ValueError: a\nray.exceptions.RayTaskError: wrapped"}, "worker 2: ValueError: a"),
        ({3: RuntimeError("one\ntwo\n")}, "worker 3: RuntimeError: two"),
        ({10: "ValueError: ten", 9: "ValueError: nine"}, "worker 9: ValueError: nine"),
    ],
)
def test_the_error_of_the_first_worker_is_reported(launched, failures, expected):
    assert root_cause(Failed(failures)) == expected
    with pytest.raises(RuntimeError, match=f"^run 'small' failed: {expected}$"):
        launched(Share(1, False), raised=Failed(failures))


@pytest.mark.parametrize("kind", [OwnCodeError, RefusedError])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("form", ["traceback", "error"])
def test_a_mistake_of_the_user_ends_a_run_at_once(launched, capsys, rank, form, kind):
    """Another worker group would meet the error again; other workers lose their connection only because of it."""
    mistake = kind("network.factory 'my:Net' raised KeyError: 'a' at my.py:3")
    said = mistake if form == "error" else "".join(traceback.format_exception(mistake))
    failures = {rank: said, 1 - rank: "RuntimeError: Connection closed by peer"}
    with pytest.raises(ValueError, match=rf"^run 'small' failed: worker {rank}: network\.factory 'my:Net' raised"):
        launched(Share(1, False), raised=Failed(failures), resources__max_failures=3)
    assert "starting again" not in capsys.readouterr().err


def test_only_refusals_of_raysde_itself_are_marked(tmp_path):
    """An error of another library, of a subclass or of another type may be of one machine or moment."""
    with pytest.raises(RefusedError, match=r"storage .* is not one folder for all nodes"), mark_refusals():
        check_shared(SimpleNamespace(config=SimpleNamespace(storage=str(tmp_path), name="absent")))
    for raised in (lambda: int("x"), lambda: torch.zeros(2).reshape(3), lambda: json.loads("{")):
        with pytest.raises((ValueError, RuntimeError)) as found, mark_refusals():
            raised()
        assert type(found.value) is not RefusedError
    with pytest.raises(DamagedCheckpointError), mark_refusals():
        raise DamagedCheckpointError("step_000000006", "weights.safetensors is missing")


def test_a_worker_marks_its_refusals(recipe):
    """The driver tells refusals from other errors by the type in the worker's traceback."""
    run = loading.parse_recipe(recipe(storage="/nonexistent/runs", data__stream="worker"))
    settings = {"recipe": run.model_dump(mode="json"), "threads": torch.get_num_threads(), "reports": "a sweep"}
    with pytest.raises(RefusedError, match="storage /nonexistent/runs is not one folder"):
        train_worker(settings)


def test_a_checkpoint_that_workers_find_damaged_is_passed_over(recipe, monkeypatch, capsys):
    """The group starts again from the checkpoint before it, without using up max_failures; the workers learn of
    it. The same fault for a second time is a failure."""
    run = open_run(loading.parse_recipe(recipe(resources__max_failures=0, data__stream="ray")))
    state, place = new_state(run, World().device), Path(run.config.storage) / "small"
    for state.step in (3, 6):
        save_checkpoint(run, state, place, World())
    fault = "weights.safetensors in checkpoint small does not match its sha256 in checkpoint.json"
    attempts = []

    class Trainer:
        def __init__(self, worker, **given) -> None:
            attempts.append(dict(given["train_loop_config"]["damaged"]))

        def fit(self):
            if len(attempts) == 1 or always:
                error = DamagedCheckpointError(checkpoint.checkpoint_name(6), fault)
                raise Failed({0: "".join(traceback.format_exception(error))})
            return SimpleNamespace(return_value=None)

    monkeypatch.setattr(train, "TorchTrainer", Trainer)
    monkeypatch.setattr(train, "release_orphaned_placement_groups", lambda: None)
    given = {"tracking_uri": "sqlite:///x", "run_id": "abc", "started": 5.0, "share": Share(1, False)}
    always = False
    run_worker_group(run, **given)
    assert attempts == [{}, {checkpoint.checkpoint_name(6): fault}]
    said = capsys.readouterr().err
    assert f"passed over a damaged checkpoint: {fault}; the newest whole one is step_000000003" in said
    assert "starting again" not in said
    always = True
    with pytest.raises(RuntimeError, match="DamagedCheckpointError"):
        run_worker_group(run, **given)


@pytest.mark.parametrize("start", [0, 9])
def test_the_stream_of_a_run(recipe, start):
    """Tasks get a reference to the run's data; a block has as many steps as its bytes allow."""
    run = open_run(loading.parse_recipe(recipe(train__microbatch=4, data__block_steps=3, validation__rows=20)))
    spec = stream_spec(run, start)
    assert (spec.start, spec.stop, spec.block_steps, spec.block_bytes) == (start, 10, 3, 3 * 4 * 64)  # grey, 8 x 8
    feed, reader = spec.data.open()
    assert (feed.plan, feed.view, reader.manifest) == (run.plan, run.feed.view, run.manifest)
    everything = np.arange(run.plan.rows)
    assert np.array_equal(feed.rows[everything], run.feed.rows[everything])
    assert spec.data.open()[1] is reader
    small = open_run(
        loading.parse_recipe(recipe(train__microbatch=4, data__block_steps=64, data__block_megabytes=0.0012))
    )
    assert stream_spec(small, 0).block_steps == 4  # 4 rows of 64 bytes: 256 per step, 1200 in all


def test_the_specification_of_a_task_is_small(recipe):
    """It names precomputed embeddings by path and hash, whatever the number of their files."""
    run = open_run(loading.parse_recipe(recipe()))
    file = PrecomputedFile("train-00000.parquet", 4096, 1 << 28, "0" * 64)
    text = TextEmbeddings(path="shards/text-0", encoder="t5", sha256="1" * 64, width=4096, max_tokens=77, dtype="fp16",
                          fingerprint=run.manifest.fingerprint, files=(file,) * 50_000, empty=file)  # fmt: skip
    (source,) = run.sources.sources
    runs = [replace(run, sources=replace(run.sources, sources=(replace(source, text=each),))) for each in (None, text)]
    sizes = [len(cloudpickle.dumps(stream_spec(each, 0))) for each in runs]
    assert sizes[1] - sizes[0] < 200
    assert max(sizes) < 2_000


@pytest.mark.parametrize(
    ("nodes", "workers", "labels", "expected"),
    [
        ([(3, 8e9, {})], 1, None, (1, 4e9)),
        ([(3, 8e9, {})], 2, None, (1, 2e9)),
        ([(16, 8e9, {}), (64, 32e9, {"raysde": "data"})], 4, None, (18, 5e9)),
        ([(16, 8e9, {}), (64, 32e9, {"raysde": "data"})], 4, {"raysde": "data"}, (16, 4e9)),
        ([(16, 8e9, {})], 4, {"raysde": "data"}, (1, 0.0)),
    ],
)
def test_each_worker_has_its_part_of_the_data_tasks(recipe, nodes, workers, labels, expected):
    """Workers of two CPUs each leave the rest to tasks, or leave them to the nodes with the labels of data.nodes."""
    config = loading.parse_recipe(recipe(data__nodes=labels))
    listed = [{"Resources": {"CPU": cpus, "object_store_memory": memory}, "Labels": found} for cpus, memory, found in nodes]  # fmt: skip
    share = assign_data_share(config, listed, workers, 2)
    assert (share.tasks, share.bytes, dict(share.nodes)) == (*expected, labels or {})


@pytest.mark.parametrize(
    ("megabytes", "block", "held", "expected"),
    [(100, 1, 4, 32), (34, 1, 4, 20), (10, 1, 4, 4), (5, 1, 4, 1), (0, 1, 4, 1)],
)
def test_slices_fit_their_share(megabytes, block, held, expected):
    """One and a half slices and the blocks that a worker holds fit the share, if it has room for them at all."""
    assert blocks_in_slice(DataShare(1, megabytes * 1e6), block * 1_000_000, held) == expected


@pytest.mark.parametrize(
    ("trials", "cluster", "changes", "expected"),
    [
        (3, Cluster(9), {}, 3),
        (16, Cluster(9), {}, 8),
        (16, Cluster(9), {"resources__workers": 3, "train__batch": 24, "train__microbatch": 4}, 2),
        (16, Cluster(9, nodes=2), {}, 7),
        (16, Cluster(9, nodes=2, joined=True), {"data__stream": "worker"}, 9),
        (16, Cluster(40, 5), {"resources__workers": 2}, 2),
        (16, Cluster(1), {}, 1),
    ],
)
def test_as_many_trials_run_at_once_as_fit(recipe, trials, cluster, changes, expected):
    assert (
        count_concurrent_runs(loading.parse_recipe(recipe(**{"data__stream": "ray", **changes})), cluster, trials)
        == expected
    )


@pytest.mark.parametrize(("address", "joined"), [(None, False), ("local", False), ("auto", True)])
def test_a_survey_counts_what_lives(monkeypatch, address, joined):
    """A node without CPUs, such as a head that only coordinates, needs none reserved for data tasks."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 12.0, "GPU": 3.0, "memory": 1e9})
    cpus = [(6.0, True), (8.0, False), (0.0, True), (6.0, True)]
    nodes = [{"Alive": alive, "Resources": {"CPU": each} if each else {}} for each, alive in cpus]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert survey_cluster() == Cluster(12, 3, 2, joined)


def test_nodes_for_data_tasks_are_not_counted_for_workers(monkeypatch):
    """Nor do the other nodes keep a CPU for data tasks, in a cluster that counts no CPU too many."""
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}, "Labels": {"ray.io/node-id": "a"}},
             {"Alive": True, "Resources": {"CPU": 64.0}, "Labels": {"raysde": "data", "ray.io/node-id": "b"}}]  # fmt: skip
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 72.0, "GPU": 1.0})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    apart = survey_cluster({"raysde": "data"})
    assert apart == Cluster(8, 1, 1, joined=True, apart=True)
    assert [survey_cluster(labels).spare("ray") for labels in (None, {"raysde": "data"}, {"no": "node"})] == [70, 8, 70]
    assert Cluster(8, apart=True).spare("ray") == 7


@pytest.mark.parametrize("joined", [True, False])
def test_labels_that_no_node_has_are_named(recipe, capsys, joined):
    config, said = loading.parse_recipe(recipe(data__nodes={"raysde": "data"}, data__stream="ray")), "data.nodes: no node has the labels"  # fmt: skip
    check_data_nodes(config, Cluster(8, joined=joined, apart=True))
    assert not capsys.readouterr().out
    if joined:
        check_data_nodes(config, Cluster(8, joined=True))
        assert said in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match=said):
            check_data_nodes(config, Cluster(8))


@pytest.mark.parametrize(
    ("units", "resources", "expected"),
    [
        (9, {"CPU": 5.0}, (4, 0)),
        (3, {"CPU": 5.0}, (3, 0)),
        (9, {"CPU": 1.0}, (1, 0)),
        (9, {}, (1, 0)),
        (9, {"CPU": 16.0, "GPU": 2.0}, (2, 1)),
        (1, {"CPU": 16.0, "GPU": 2.0}, (1, 1)),
    ],
)
def test_encoders_are_shared_out(units, resources, expected):
    workers, share = count_workers(units, resources)
    assert (workers, share) == (expected[0], Share(1, expected[1]))


def test_messages_are_taken_once_in_their_order():
    """Each slot has its own messages, and is empty before the first."""
    mailbox = Mailbox()
    for number in range(3):
        mailbox.put(1, {"n": number})
    mailbox.put(10, {"n": 10})
    assert mailbox.take(1) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert (mailbox.take(1), mailbox.take(2), mailbox.take(10)) == ([], [], [{"n": 10}])


def test_the_first_batch_is_timed_once(monkeypatch):
    monkeypatch.setattr("raysde.cluster.worker.time.time", lambda: 107.5)
    logged, batches = [], iter([["a"], ["b"], ["c"]])
    tracker = SimpleNamespace(tags=logged.append)
    assert list(time_first_batch(batches, 100.0, tracker)) == [["a"], ["b"], ["c"]]
    assert logged == [{"raysde.startup.first_batch": "7.5"}]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"log_every": 7}, True),
        ({"checkpoint_every": 2}, True),
        ({"keep_checkpoints": 9}, True),
        ({"resources__max_failures": 9}, True),
        ({"tracking__experiment": "other"}, True),
        ({"data__block_steps": 2}, True),
        ({"data__verify": "hash"}, True),
        ({"storage": "elsewhere"}, True),
        ({"name": "other"}, True),
        ({"train__lr": 5e-4}, False),
        ({"train__batch": 32}, False),
        ({"sde": {"kind": "vp", "beta_max": 10.0}}, False),
        ({"seed": 3}, False),
        ({"validation__rows": 9}, False),
        ({"data__image_size": 4, "network__attention": [2]}, False),
        ({"resources__workers": 2}, False),
    ],
)
def test_what_a_sweep_may_go_on_with(recipe, changes, same):
    """Settings that affect a trial's result must stay the same; all others may change."""
    settings = read_settings(None, ["train.lr=[1e-3,1e-2]"], {})
    one, two = (sweep_definition(open_run(loading.parse_recipe(recipe(**each))), settings) for each in ({}, changes))
    assert (one == two) == same


@pytest.mark.parametrize("text", [["train.lr=[1e-3,2e-3]"], ["train.lr=[1e-2,1e-3]"]])
def test_another_space_search_or_seed_is_another_sweep(recipe, text):
    run = open_run(loading.parse_recipe(recipe()))
    first = sweep_definition(run, read_settings(None, ["train.lr=[1e-3,1e-2]"], {}))
    assert sweep_definition(run, read_settings(None, text, {})) != first
    assert sweep_definition(run, read_settings(None, ["train.lr=[1e-3,1e-2]"], {"seed": 1})) != first
    assert sweep_definition(run, read_settings(None, ["train.lr=[1e-3,1e-2]"], {"search": "grid"})) != first
    assert sweep_definition(run, read_settings(None, ["train.lr=[1e-3,1e-2]"], {"trials": 1, "concurrent": 1})) == first


@pytest.mark.parametrize(
    ("then", "now", "ended"),
    [
        ({}, {}, True),
        ({"validation__patience": 2}, {"validation__patience": 2}, True),
        ({"validation__patience": 2}, {"validation__patience": 1}, True),
        ({"validation__patience": 2}, {"validation__patience": 3}, False),
        ({"validation__patience": 2}, {"validation__patience": 0}, False),
        ({"validation__patience": 2}, {"train__length__steps": 11}, False),
        ({"validation__patience": 2}, {"train__length__steps": 9}, True),
        ({"validation__patience": 2}, {"train__length": {"images": 176}}, False),
        ({"validation__patience": 2}, {"train__length": {"images": 160}}, True),
        ({}, {"validation__patience": 3}, True),
    ],
)
def test_a_stopped_run_is_over_unless_more_is_asked_for(recipe, then, now, ended):
    """More patience or more steps, in any unit, resume a run; a run stopped for another reason waits for no
    validation."""
    run = open_run(loading.parse_recipe(recipe(validation__rows=8, **then)))
    state = new_state(run, World().device)
    state.step, state.stopped, state.stale = 4, True, 2
    save_checkpoint(run, state, Path(run.config.storage) / "small", World())
    again = open_run(loading.parse_recipe(recipe(validation__rows=8, **{**then, **now})))
    assert job.is_run_finished(again) == ended


@pytest.mark.parametrize(("step", "stopped", "ended"), [(9, False, False), (10, False, True), (4, True, True)])
def test_a_run_is_finished_at_its_last_step_or_where_it_stopped(recipe, step, stopped, ended):
    run = open_run(loading.parse_recipe(recipe()))
    assert not job.is_run_finished(run)
    state = new_state(run, World().device)
    state.step, state.stopped = step, stopped
    save_checkpoint(run, state, Path(run.config.storage) / "small", World())
    assert job.is_run_finished(run) == ended
    with pytest.raises(ValueError, match=r"sde\.kind=vp, the recipe says ve"):
        job.is_run_finished(open_run(loading.parse_recipe(recipe(sde={"kind": "ve"}))))


# whole jobs, whose workers are replaced by the bare loop in this process


def bare(run, *, tracking_uri: str, run_id: str, started: float, share: Share, lease, departure) -> None:
    """Train as the first worker of a group does."""
    folder = child_path(run.config.storage, run.config.name)
    spool = spool_folder(run.config.name, run_id)
    tracker = tracking.Tracker(tracking_uri, run_id, spool, backlog_folder(folder, run_id), lease.confirm)
    train_here(run, tracker, lease=lease)
    assert tracker.close()


@pytest.fixture
def jobs(monkeypatch, recipe, tmp_path, empty_store):
    """Run jobs of the recipe in their own store; `surroundings` replaces the checks before anything is logged."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr(job, "run_worker_group", bare)
    monkeypatch.setattr(job, "connect", lambda **_: None)
    monkeypatch.setattr(job, "list_live_nodes", lambda: [{}])
    monkeypatch.setattr(train, "survey_cluster", lambda *_: Cluster(9))

    def run(**changes):
        settings = {"tracking__uri": "sqlite:///mlflow.db", "train__length__steps": 4, "checkpoint_every": 2}
        tree = recipe(**{**settings, **changes})
        return job.train_job(loading.parse_recipe(tree))

    return run


def logged(run_id: str) -> list[int]:
    client = tracking.connect_client(tracking.store_uri("sqlite:///mlflow.db"))
    return sorted(metric.step for metric in client.get_metric_history(run_id, "train/loss"))


def runs_of(name: str) -> list:
    client = tracking.connect_client(tracking.store_uri("sqlite:///mlflow.db"))
    place = client.get_experiment_by_name("raysde")
    return (
        [] if place is None else [run for run in client.search_runs([place.experiment_id]) if run.info.run_name == name]
    )


def test_a_run_whose_folder_was_removed_is_another_mlflow_run(jobs, tmp_path):
    """The run is trained again, shorter and with another learning rate; the old MLflow run stays unchanged."""
    first = jobs()
    shutil.rmtree(tmp_path / "runs" / "small")
    second = jobs(train__length__steps=3, train__lr=2e-3)
    assert second.run_id != first.run_id
    assert (logged(first.run_id), logged(second.run_id)) == ([1, 2, 3, 4], [1, 2, 3])
    client = tracking.connect_client(first.tracking_uri)
    old, new = (client.get_run(run_id).data for run_id in (first.run_id, second.run_id))
    assert (old.params["train.lr"], new.params["train.lr"]) == ("0.001", "0.002")
    assert (old.params["train.length.steps"], new.params["train.length.steps"]) == ("4", "3")
    assert new.metrics["train/images"] == 3 * 16
    assert {"raysde.startup.imports", "raysde.startup.ray"} <= new.tags.keys()
    assert not any("startup" in key or "time" in key for key in new.metrics)
    again = jobs(train__length__steps=3, train__lr=2e-3)
    assert (again.run_id, again.model) == (second.run_id, second.model)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(15), SystemExit(143)])
def test_an_interrupted_job_says_how_to_go_on(jobs, monkeypatch, tmp_path, error):
    """Ctrl-C or SIGTERM after the checkpoint of step 2 gives one sentence, and the MLflow run is marked as killed.
    The resumed run is the same MLflow run, with every step once."""

    def interrupted(run, **settings) -> None:
        tree = run.config.model_dump(mode="json")
        tree["train"]["length"] = {"steps": 3}
        bare(open_run(loading.parse_recipe(tree)), **settings)
        shutil.rmtree(tmp_path / "runs/small/step_000000003")
        raise error

    monkeypatch.setattr(job, "run_worker_group", interrupted)
    with pytest.raises(Interrupted, match=r"run 'small' was interrupted; .* its checkpoint at step 2") as caught:
        jobs()
    assert caught.value.__cause__ is error
    (killed,) = runs_of("small")
    assert killed.info.status == "KILLED"
    monkeypatch.setattr(job, "run_worker_group", bare)
    done = jobs()
    assert done.run_id == killed.info.run_id
    assert logged(done.run_id) == [1, 2, 3, 4]
    (found,) = runs_of("small")
    assert found.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("changes", "nodes", "culprit"),
    [
        ({"resources__gpu": True}, 1, "resources.gpu"),
        ({"resources__workers": 16, "resources__cpus_per_worker": 2}, 1, "resources.workers"),
        ({"resources__cpus_per_worker": 64}, 1, "resources.cpus_per_worker"),
        ({}, 2, "the cluster has 2 nodes"),
        ({"validation__rows": 5000}, 1, "validation.rows"),
        ({"tracking__register_as": "prompted"}, 1, "has a prompt named 'prompted'"),
    ],
)
def test_what_the_surroundings_lack_is_found_before_anything_is_logged(jobs, monkeypatch, changes, nodes, culprit):
    """A job that cannot begin leaves no MLflow run and no run folder."""
    client = tracking.connect_client(tracking.store_uri("sqlite:///mlflow.db"))
    client.register_prompt(name="prompted", template="x")
    monkeypatch.setattr(job, "list_live_nodes", lambda: [{}] * nodes)
    with pytest.raises(ValueError, match=re.escape(culprit)):
        jobs(**changes)
    assert runs_of("small") == []
    assert not Path("runs/small").exists()


def test_a_cluster_that_does_not_start_is_a_sentence(jobs, monkeypatch, capsys):
    """Ray raises plain Exceptions, for example when a node times out."""
    monkeypatch.undo()

    def fails(*arguments, **settings):
        raise Exception("The current node timed out during startup. This\ncould happen because ...")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match=r"Ray does not start on this machine: The current node timed out.*--no-ray"):
        connection.connect()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(
        ValueError, match=r"the Ray cluster '10\.0\.0\.1:6379' does not answer: The current node timed out"
    ):
        connection.connect()


def test_relative_places_are_those_of_the_driver(jobs, monkeypatch, tmp_path, digits):
    """The workers' settings have no relative path, since workers may start in another folder."""
    shutil.copytree(digits.path, tmp_path / "shards")
    given = {}

    def elsewhere(run, *, tracking_uri: str, **settings) -> None:
        given.update(uri=tracking_uri, run=run)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        bare(open_run(loading.parse_recipe(run.config.model_dump(mode="json"))), tracking_uri=tracking_uri, **settings)

    monkeypatch.setattr(job, "run_worker_group", elsewhere)
    done = jobs(storage="runs", data__path="shards")
    assert given["uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert (given["run"].config.storage, given["run"].config.data.path) == (f"{tmp_path}/runs", f"{tmp_path}/shards")
    assert done.checkpoint == tmp_path / "runs/small" / checkpoint.checkpoint_name(4)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert logged(done.run_id) == [1, 2, 3, 4]
    assert tracking.connect_client(done.tracking_uri).get_run(done.run_id).data.params["storage"] == f"{tmp_path}/runs"
