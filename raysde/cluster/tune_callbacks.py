"""Searcher, scheduler and stopper of Ray Tune for a sweep; all state is in the sweep's ledger."""

import copy
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from raysde import tracking
from raysde.cluster.resources import Share
from raysde.cluster.trial import trial_settings
from raysde.config import loading
from raysde.config.intervals import seconds_of, steps_of
from raysde.config.places import resolve_places
from raysde.io.filesystems import child_path
from raysde.runs import identity
from raysde.tracking.backlog import backlog_folder
from raysde.tracking.spool import spool_folder
from raysde.tuning.training.ledger import Trial
from raysde.tuning.training.progress import SweepLine
from raysde.tuning.training.space import Space, vary_recipe
from raysde.tuning.training.sweep import Sweep

ENDS: dict[str, tracking.Ended] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
STOPPED = "raysde.stopped"
"""Tag of the MLflow run of a trial that early stopping ended."""


@dataclass(frozen=True)
class Children:
    """The trials as training runs: their names, recipes and MLflow runs, which are children of the sweep's run.

    Attributes:
        client, uri: client and URI of the MLflow store.
        space: axes of the search.
        recipe: recipe of the sweep, with the sweep's name and absolute paths.
        tree: the recipe that trials vary, as read from YAML.
        parent: id of the sweep's MLflow run.
        metric: name of the metric that the sweep compares.
    """

    client: tracking.MlflowClient
    uri: str
    recipe: loading.RunConfig
    tree: Mapping[str, Any]
    space: Space
    parent: str
    metric: str = ""

    def name(self, number: int) -> str:
        """Return the name of the training run of trial ``number``, counted from 0: NAME-003."""
        return f"{self.recipe.name}-{number:03d}"

    def recipe_of(self, trial: Trial, share: Share) -> loading.RunConfig:
        """Return the recipe of a trial: in the sweep's folder, without sample grids, with a checkpoint at each
        validation.

        If the driver dies before a validation is reported, the resumed trial repeats that validation.
        """
        tree, base = vary_recipe(self.tree, self.space, trial.values), self.recipe.model_dump(mode="json")
        data = {**copy.deepcopy(tree["data"]), **{name: base["data"][name] for name in ("path", "mix")}}
        sampling = {**base["sampling"], "every": 0}
        resources = {**base["resources"], "cpus_per_worker": share.cpus, "gpu": share.gpu}
        own: dict[str, Any] = {
            "name": self.name(trial.number),
            "storage": child_path(self.recipe.storage, self.recipe.name),
        }
        every = self.recipe.validation.interval_of(self.metric)
        # a time becomes the interval of validations: 0 steps would mean no checkpoint before the end
        asked = steps_of(self.recipe.checkpoint_every) if not seconds_of(self.recipe.checkpoint_every) else every
        own["checkpoint_every"] = -(-asked // every) * every
        return resolve_places(
            loading.parse_recipe({**tree, **own, "data": data, "sampling": sampling, "resources": resources})
        )

    def open_run(self, trial: Trial, recipe: loading.RunConfig) -> str:
        """Return the id of a trial's MLflow run; create the run if there is none.

        Raises:
            RuntimeError: if the server does not answer.
        """
        place, experiment = tracking.default_artifact_root(self.uri), self.recipe.tracking.experiment
        word = identity.settle_word(child_path(recipe.storage, recipe.name), {}, begun=bool(trial.run_id))
        with tracking.report_server_errors(self.uri):
            return tracking.open_mlflow_run(
                self.client, experiment, recipe.name, recipe.flat(), place, parent=self.parent, word=word
            )

    def close_run(self, trial: Trial) -> None:
        """Mark the MLflow run of an ended trial as finished or failed, with a tag if early stopping ended it.

        Raises:
            RuntimeError: if the server does not answer.
        """
        if trial.run_id and trial.state in ENDS:
            with tracking.report_server_errors(self.uri):
                if trial.state == "stopped" and trial.last is not None:
                    tracking.set_tags(self.client, trial.run_id, {STOPPED: f"early, at step {trial.last.step}"})
                tracking.close_run(self.client, trial.run_id, ENDS[trial.state])

    def deliver_leftovers(self, trial: Trial) -> None:
        """Send the metrics that a stopped trial's worker left on this machine's disk."""
        if trial.run_id:
            name = self.name(trial.number)
            backlog = backlog_folder(child_path(self.recipe.storage, self.recipe.name, name), trial.run_id)
            tracking.deliver_leftovers(self.uri, trial.run_id, spool_folder(name, trial.run_id), backlog)


class Asked(Searcher):
    """A searcher that hands the sweep's next trial to Tune."""

    def __init__(self, sweep: Sweep, children: Children, share: Share, line: SweepLine) -> None:
        super().__init__()
        self.sweep, self.children, self.share, self.line = sweep, children, share, line
        self.next: Trial | None = None
        self.said = False

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's settings, or None (Tune asks again later) while the MLflow server is away."""
        self.next = self.next or self.sweep.next()
        if self.next is None:
            return Searcher.FINISHED
        trial = self.next
        try:
            recipe = self.children.recipe_of(trial, self.share)
            run_id = self.children.open_run(trial, recipe)
        except ValueError as error:  # Optuna combined values that do not fit together
            self.sweep.end(trial.number, "failed", str(error))
            self.next = None
            return None
        except RuntimeError as error:
            if not self.said:
                print(f"trial {trial.number:03d} waits for the MLflow server: {error}", flush=True)
            self.said = True
            return None
        self.said, self.next = False, None
        self.sweep.note_run(trial.number, run_id)
        self.line.show()
        return trial_settings(trial.number, recipe, self.children.uri, run_id, self.share, self.sweep.metric)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler receives the same result."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger is saved already."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: the ledger is saved already."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Judged(FIFOScheduler):
    """A scheduler that passes the trials' reports to the sweep and stops trials that early stopping ends.

    Attributes:
        refused: error that prevents the sweep from going on, else None.
    """

    def __init__(self, sweep: Sweep, children: Children, line: SweepLine) -> None:
        super().__init__()
        self.sweep, self.children, self.line = sweep, children, line
        self.refused: ValueError | None = None

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Return Tune's decision after a report: stop or continue. The last report says how the trial ended."""
        number = trial.config["number"]
        stops = False
        if "ended" in result:
            self.sweep.end(number, **json.loads(result["ended"]))
        elif "report" in result:
            try:
                stops = self.sweep.report(number, **json.loads(result["report"]))
            except ValueError as error:
                self.refused = self.refused or error
        self._show(number)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Record a trial as failed, unless Tune will restart it; Tune calls this before a restart too."""
        if trial.should_recover():
            return
        lines = Path(trial.error_file).read_text().split("\n") if trial.error_file else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "its process died")
        number = trial.config["number"]
        self.sweep.end(number, "failed", last[:500])
        self._show(number)

    def _show(self, number: int) -> None:
        trial = self.sweep.ledger.trials[number]
        with suppress(RuntimeError):  # the end of the sweep closes the run again
            self.children.close_run(trial)
        self.line.show()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Refusal(Stopper):
    """A stopper that ends all trials once the scheduler has an error."""

    def __init__(self, judged: Judged) -> None:
        self.judged = judged

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Return True if the scheduler has an error."""
        return self.judged.refused is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}
