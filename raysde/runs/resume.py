"""Resuming a run from its checkpoint, and the test if it is already complete."""

from pathlib import Path

from raysde.checkpoints import checkpoint
from raysde.config.sections import Length
from raysde.runs.run import Run, continue_run
from raysde.training.state import TrainState


def is_run_over(run: Run, found: checkpoint.Description) -> bool:
    """Return True if a checkpoint ends its run: at the last step, or by early stopping.

    An early-stopped run resumes if the recipe now asks for more patience or more steps than before.
    """
    stopped = bool(found.state.get("stopped"))
    return found.step >= run.steps or (stopped and not (_is_longer(run, found) or _is_more_patient(run, found)))


def describe_start(step: int, steps: int) -> str:
    """Return the message about the step that a run resumes from."""
    if step > steps:
        return f"the run is at step {step}, beyond the {steps} of the recipe's length: nothing is left to train"
    return f"continuing from step {step} of {steps}"


def resume_run(run: Run, state: TrainState, found: Path) -> Run:
    """Load a checkpoint into the run's fresh state, and return the run that resumes from it.

    Raises:
        ValueError: if the checkpoint is damaged, or as :func:`raysde.runs.run.continue_run`.
    """
    description = checkpoint.read_description(found)
    run = continue_run(run, description)
    checkpoint.restore_state(state, found)
    if state.stopped and not is_run_over(run, description):
        state.stopped = False
        if _is_longer(run, description):
            state.stale = 0  # otherwise the next validation would stop the longer run
    return run


def _is_longer(run: Run, found: checkpoint.Description) -> bool:
    """Return True if the recipe asks for more steps than the recipe of the checkpoint."""
    prefix = "train.length."
    length = {key.removeprefix(prefix): value for key, value in found.recipe.items() if key.startswith(prefix)}
    return run.steps > Length(**length).in_steps(run.config.train.batch, run.feed.rows.count)


def _is_more_patient(run: Run, found: checkpoint.Description) -> bool:
    """Return True if the recipe waits for more validations than the recipe of the checkpoint; 0 waits forever."""
    before, now = found.recipe.get("validation.patience", 0), run.config.validation.patience
    return before > 0 and (now == 0 or now > before)
