"""Mistakes in raysde/runs/."""

from tools.mutants.mutant import Mutant

HISTORY = "tests/runs/test_history.py"
LEASE = "tests/runs/test_lease.py"
RECOVERY = "tests/runs/test_recovery.py"
STEPS = "tests/training/test_steps.py"

MUTANTS = [
    Mutant("moments of the steps that are undone", "raysde.runs.resume:return_to_base", "            state.optimizer.state.clear()", "            pass", RECOVERY + " -k 'led_to_the_bad'"),
    Mutant("a return to the newest checkpoint", "raysde.runs.resume:return_to_base", "speak, damaged, base)", "speak, damaged)", RECOVERY + " -k 'departures'"),
    Mutant("checkpoints of undone steps that stay", "raysde.runs.saving:Saver.restore", "                storage.delete_later_checkpoints(self.folder, state.step)", "                pass", RECOVERY + " -k 'kill_within'"),
    Mutant("a checkpoint to return to that is deleted", "raysde.runs.saving:Saver._write", "staged.step, base)", "staged.step)", RECOVERY + " -k 'departures'"),
    Mutant("a return before its checkpoint is written", "raysde.runs.saving:Saver.restore", "        self.finish()\n", "", RECOVERY + " -k 'since_the_checkpoint'"),
    Mutant("metrics of undone steps that stay", "raysde.runs.history:History._open", "elif step < self.last:", "elif False:", RECOVERY + " -k 'abandoned'"),
    Mutant("a resume at the step for the plan position", "raysde.runs.local:train_here", "read(state.position, stop)", "read(state.step, stop)", RECOVERY + " -k 'departures'"),
    Mutant("zeros for the empty caption's vectors", "raysde.runs.build:make_objective", ".empty.copy())[None]", ".empty * 0.0)[None]", "tests/precompute/test_jobs.py -k 'loss_and_gradient'"),
    Mutant("steps recorded twice", "raysde.runs.history:History._forget_after", 'if line["step"] <= last]', "]", HISTORY + " -k 'keeps_its_history'"),
    Mutant("a bare run without its word", "raysde.runs.history:open_tracking_run", "place, data, word=word", "place, data", HISTORY + " -k 'folder_was_removed'"),
    Mutant("a bare run that never ends", "raysde.runs.history:record_history", '    identity.note_end(folder)\n', "", HISTORY + " -k 'folder_was_removed'"),
    Mutant("a word of runs with a store alone", "raysde.runs.history:record_history", "word, folder = settle_run_word(run), run_folder(run)", 'word, folder = settle_run_word(run) if run.config.tracking.uri else "", run_folder(run)', HISTORY + " -k 'no_older_one'"),
    Mutant("MLflow hears of a run that is refused", "raysde.runs.history:record_history", "        check_resumable(run, description)", "        pass", HISTORY + " -k 'cannot_go_on'"),
    Mutant("an interrupted bare run that is marked by nobody", "raysde.runs.history:track_run", "with tracking.mark_runs(client, lambda: [run_id], lambda: identity.describe_interruption(run_folder(run))):", "if True:", HISTORY + " -k 'somebody_ended'"),
    Mutant("no end to patience that stays ended", "raysde.runs.resume:_is_more_patient", "(now == 0 or now > before)", "now > before", "tests/cluster_without_ray/test_launch.py -k 'unless_more'"),
    Mutant("checkpoints without an order taken for lanes", "raysde.runs.resume:follow_order", 'data.get("order", WINDOWED)', 'data.get("order", LANED)', "tests/runs/test_order.py"),
    Mutant("a resumed run in the newest order", "raysde.runs.resume:resume_run", "run = follow_order(continue_run(run, description), description.data)", "run = continue_run(run, description)", "tests/runs/test_order.py -k 'keeps_its_order'"),
    Mutant("an order that is not recorded", "raysde.runs.hooks:describe_run", ', "order": run.plan.order', "", "tests/runs/test_order.py"),
    Mutant("a longer run that stops at once", "raysde.runs.resume:resume_run", "            state.stale = 0", "            pass", STEPS + " -k 'wanted_longer'"),
    Mutant("a stop that stays though more is asked for", "raysde.runs.resume:resume_run", "        state.stopped = False", "        pass", STEPS + " -k 'more_patience'"),
    Mutant("a resumed run by the new default", "raysde.runs.run:continue_run", "return replace(run, spec=replace(run.spec, default_solver=usual))", "return run", STEPS + " -k 'before_the_default'"),
    Mutant("a damaged checkpoint for the place to go on from", "raysde.runs.identity:describe_interruption", " if each.description is not None", "", "tests/runs/test_identity.py -k 'goes_on'"),
    Mutant("captions read by every rank", "raysde.runs.build:sample_captions", " if world.is_first else []", "", "tests/multiprocess/test_gloo.py -k 'captions'"),
    Mutant("captions of the first rank alone", "raysde.runs.build:sample_captions", "if isinstance(run.spec.text, ScratchText):", "if False:", "tests/multiprocess/test_gloo.py -k 'captions'"),
    Mutant("a lock that never expires", "raysde.runs.lease:await_expiry", "time.monotonic() - seen >= found.seconds:", "time.monotonic() - seen >= 1e6:", LEASE + " -k 'silent'"),
    Mutant("a living command's run taken", "raysde.runs.lease:await_expiry", "        if found.is_alive:", "        if False:", LEASE + " -k 'while_the_first'"),
    Mutant("signs of life unseen", "raysde.runs.lease:await_expiry", "if (newest.number, newest.beat) != (found.number, found.beat):", "if False:", LEASE + " -k 'sign_of_life'"),
    Mutant("a dead command waited for", "raysde.runs.claims:Claim.is_free", "all(holder.is_gone() for holder in self.holders)", "False", LEASE + " -k 'killed_command'"),
    Mutant("two commands that begin at once", "raysde.runs.claims:Claims._create", 'file.open("xb")', 'file.open("wb")', LEASE + " -k 'many_commands'"),
    Mutant("two commands that begin at once in an object store", "raysde.runs.claims:Claims._contend", "return read_bytes(self._file(claim.number)) == _format(claim)", "return True", LEASE + " -k 'many_commands'"),
    Mutant("a worker that was cut off and writes on", "raysde.runs.lease:Lease._look", " or self.me not in newest.holders", "", LEASE + " -k 'later_worker'"),
    Mutant("a lease that is not renewed", "raysde.runs.lease:Lease._beat", "beat=uuid4().hex", "beat=claim.beat", LEASE + " -k 'outlasts'"),
    Mutant("a run that is not let go", "raysde.runs.lease:Lease.release", "released=True", "released=False", LEASE + " -k 'let_go'"),
    Mutant("a stopped command that goes on in MLflow", "raysde.runs.history:track_run", "confirm=None if lease is None else lease.confirm", "confirm=None", LEASE + " -k 'at_its_end'"),
    Mutant("a checkpoint of a run that was lost meanwhile", "raysde.checkpoints.writing:write_into_folder", "                confirm()\n", "", LEASE + " -k 'never_seen'"),
    Mutant("a run that is over before its results", "raysde.runs.resume:is_run_over", "run.config.validation.is_beside and open_steps(found.state)", "False", "tests/cluster_without_ray/test_beside.py -k 'not_over'"),
    Mutant("trials on the newest version", "raysde.runs.data_record:pin_sweep", "or version\n", "and version\n", "tests/cluster_without_ray/test_sweep_versions.py"),
    Mutant("a sweep that trusts an older one's fingerprint alone", "raysde.runs.data_record:pin_sweep", "read_record(folder_of(config)) or (", "(", "tests/cluster_without_ray/test_sweep_versions.py -k 'several'"),
    Mutant("a file that is gone for a run that was taken over", "raysde.runs.local:train_here", "        confirm()  # a command", "        pass  # a command", "tests/runs/test_lease.py -k 'gone_after'"),
]  # fmt: skip
