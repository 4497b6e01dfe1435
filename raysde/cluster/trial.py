"""One trial of a sweep on Ray Tune: a function that trains a recipe with Ray Train and forwards its reports."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.actor import ActorHandle

from raysde.cluster.connection import quiet_ray
from raysde.cluster.resources import Share
from raysde.cluster.train import run_worker_group
from raysde.cluster.trial_reports import Slot
from raysde.config import loading
from raysde.runs.run import open_run

POLL = 0.3
"""Seconds between two polls of the mailbox."""


def trial_settings(
    number: int, recipe: loading.RunConfig, uri: str, run_id: str, share: Share, metric: str = ""
) -> dict[str, Any]:
    """Return the settings that Tune hands to trial ``number``, counted from 0.

    Args:
        metric: name of the metric that the sweep compares.
    """
    trial = {"recipe": recipe.model_dump(mode="json"), "uri": uri, "run_id": run_id, "share": asdict(share)}
    trial["metric"] = metric
    return {"number": number, "trial": json.dumps(trial)}


def make_trainable(mailbox: ActorHandle) -> Callable[[dict[str, Any]], None]:
    """Return the function that Tune runs for each trial."""

    def run(settings: dict[str, Any]) -> None:
        run_trial(settings, mailbox)

    return run


def run_trial(settings: dict[str, Any], mailbox: ActorHandle) -> None:
    """Train to the end, from the trial's newest checkpoint if there is one, and report every validation to Tune.

    The last report says how the trial ended. A trial without it was stopped or died.
    """
    quiet_ray()
    # an ended worker group is noticed at the next health check
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    trial = json.loads(settings["trial"])
    slot = Slot(mailbox, settings["number"], trial["metric"])
    ended: dict[str, str] = {}
    worker = threading.Thread(target=_train_trial, args=(trial, slot, ended), daemon=True)
    worker.start()
    while True:
        alive = worker.is_alive()
        for message in slot.take():
            tune.report({"report": json.dumps(message)})
        if not alive:
            break
        worker.join(POLL)
    tune.report({"ended": json.dumps(ended)})


def _train_trial(trial: dict[str, Any], slot: Slot, ended: dict[str, str]) -> None:
    """Run the trial's worker group and record how it ended; an error ends the trial and not the sweep."""
    started, share = time.time(), Share(**trial["share"])
    try:
        run = open_run(loading.parse_recipe(trial["recipe"]))
        run_worker_group(
            run, tracking_uri=trial["uri"], run_id=trial["run_id"], started=started, share=share, reports=slot
        )
    except Exception as error:
        ended.update(state="failed", error=" ".join(str(error).split())[:500] or type(error).__name__)
    else:
        ended.update(state="finished", error="")
