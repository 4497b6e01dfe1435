"""Going on from a checkpoint of a run, and whether there is anything left to do."""

from pathlib import Path

from raysde.checkpoints import checkpoint
from raysde.config.sections import Length
from raysde.runs.run import Run, continue_run
from raysde.training.state import TrainState


def is_run_over(run: Run, found: checkpoint.Description) -> bool:
    """Return True if a checkpoint is the end of its run: at the last step, or where early stopping ended it.

    An early-stopped run goes on if the recipe now asks for more patience, or for more steps, than it did then.
    """
    stopped = bool(found.state.get("stopped"))
    return found.step >= run.steps or (stopped and not (_is_longer(run, found) or _is_more_patient(run, found)))


def describe_start(step: int, steps: int) -> str:
    """Return where a resumed run begins, as its user is told."""
    if step > steps:
        return f"the run is at step {step}, beyond the {steps} of the recipe's length: nothing is left to train"
    return f"continuing from step {step} of {steps}"


def resume_run(run: Run, state: TrainState, found: Path) -> Run:
    """Load a checkpoint of the run into its fresh state, and return the run that goes on from there.

    Raises:
        ValueError: if the checkpoint is damaged, or as :func:`raysde.runs.run.continue_run`.
    """
    description = checkpoint.read_description(found)
    run = continue_run(run, description)
    checkpoint.restore_state(state, found)
    if state.stopped and not is_run_over(run, description):
        state.stopped = False
        if _is_longer(run, description):
            state.stale = 0  # or the next validation would stop a run that is wanted longer
    return run


def _is_longer(run: Run, found: checkpoint.Description) -> bool:
    """Return True if the recipe asks for more steps than the one of a checkpoint."""
    prefix = "train.length."
    length = {key.removeprefix(prefix): value for key, value in found.recipe.items() if key.startswith(prefix)}
    return run.steps > Length(**length).in_steps(run.config.train.batch, run.feed.rows.count)


def _is_more_patient(run: Run, found: checkpoint.Description) -> bool:
    """Return True if the recipe waits for more validations than the one of a checkpoint; 0 waits forever."""
    before, now = found.recipe.get("validation.patience", 0), run.config.validation.patience
    return before > 0 and (now == 0 or now > before)
