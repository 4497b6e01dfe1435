"""Mistakes in raysde/runs/."""

from tools.mutants.mutant import Mutant

HISTORY = "tests/runs/test_history.py"
STEPS = "tests/training/test_steps.py"

MUTANTS = [
    Mutant("zeros for the empty caption's vectors", "raysde.runs.build:objective", ".empty.copy())[None]", ".empty * 0.0)[None]", "tests/precompute/test_jobs.py -k 'loss_and_gradient'"),
    Mutant("steps told twice", "raysde.runs.history:History._open", 'if line["step"] <= self.start]', "]", HISTORY + " -k 'keeps_its_history'"),
    Mutant("a bare run without its word", "raysde.runs.history:opened", "place, data, word=word)", "place, data)", HISTORY + " -k 'folder_was_removed'"),
    Mutant("a bare run that never ends", "raysde.runs.history:recorded", "    identity.ended(folder)\n", "", HISTORY + " -k 'folder_was_removed'"),
    Mutant("a word of runs with a store alone", "raysde.runs.history:recorded", "word, folder = settled(run), folder_of(run)", 'word, folder = settled(run) if run.config.tracking.uri else "", folder_of(run)', HISTORY + " -k 'no_older_one'"),
    Mutant("MLflow hears of a run that is refused", "raysde.runs.history:recorded", "        check_resumable(run, description)", "        pass", HISTORY + " -k 'cannot_go_on'"),
    Mutant("an interrupted bare run that is marked by nobody", "raysde.runs.history:tracked", "with tracking.marked(client, lambda: [run_id], lambda: identity.interrupted(folder_of(run))):", "if True:", HISTORY + " -k 'somebody_ended'"),
    Mutant("no end to patience that stays ended", "raysde.runs.resume:_is_more_patient", "(now == 0 or now > before)", "now > before", "tests/cluster_without_ray/test_launch.py -k 'unless_more'"),
    Mutant("a longer run that stops at once", "raysde.runs.resume:resume", "            state.stale = 0", "            pass", STEPS + " -k 'wanted_longer'"),
    Mutant("a stop that stays though more is asked for", "raysde.runs.resume:resume", "        state.stopped = False", "        pass", STEPS + " -k 'more_patience'"),
    Mutant("a resumed run by the new default", "raysde.runs.run:continued", "return replace(run, spec=replace(run.spec, default_solver=usual))", "return run", STEPS + " -k 'before_the_default'"),
]  # fmt: skip
