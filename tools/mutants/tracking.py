"""Mistakes in raysde/tracking/."""

from tools.mutants.mutant import Mutant

TRACKING = "tests/tracking/test_tracking.py"

MUTANTS = [
    Mutant("a large file with a short time-out", "raysde.tracking.store:wait_for_transfer", "    variable.set(600 + size // 10_000_000)\n", "", "tests/registry/test_slow_proxy.py -m slow"),
    Mutant("a failed run that goes on", "raysde.tracking.marking:mark_runs", "            fail_run(client, run_id)", "            pass", "tests/runs/test_history.py -k 'store_that_is_named'"),
    Mutant("an interrupted run as a failed one", "raysde.tracking.marking:mark_runs", "            interrupt_run(client, run_id)", "            fail_run(client, run_id)", "tests/runs/test_history.py -k 'somebody_ended'"),
    Mutant("entries of an error dropped", "raysde.tracking.outbox:Outbox._deliver", "if self.refused(error):", "if True:", TRACKING + " -k 'tried_again'"),
    Mutant("a batch refused for one of its entries", "raysde.tracking.outbox:Outbox._one_by_one", "if len(batch) == 1:", "if batch:", TRACKING + " -k 'waits'"),
    Mutant("an outbox that is drained before it is sent", "raysde.tracking.outbox:Outbox._work", "            self._deliver(batch)\n            with self.changed:\n                self.sending = []\n                self.gone += len(batch)\n                self.changed.notify_all()", "            with self.changed:\n                self.sending = []\n                self.gone += len(batch)\n                self.changed.notify_all()\n            self._deliver(batch)", TRACKING + " -k 'waits'"),
    Mutant("an experiment made twice", "raysde.tracking.runs:find_or_create_experiment", "            if found is None:\n                raise error", "            raise error", "tests/registry/test_registry.py -k 'made_once'"),
    Mutant("a run that stays without its recipe", "raysde.tracking.runs:open_mlflow_run", '    log_description(client, found, params, data)\n    return str(found.info.run_id)', "    return str(found.info.run_id)", "tests/registry/test_registry.py -k 'cut_short'"),
    Mutant("a torn line stays in the spool", "raysde.tracking.spool:Spool.take_over", 'partial.write_text("".join(json.dumps(line) + "\\n" for line in lines))', 'partial.write_text(self.path.read_text() if self.path.exists() else "")', "tests/tracking/test_spool.py"),
    Mutant("tables made by several processes at once", "raysde.tracking.store:_open_one_at_a_time", "        fcntl.flock(lock, fcntl.LOCK_EX)\n", "", TRACKING + " -k 'many_writers'"),
    Mutant("steps logged again after a restart", "raysde.tracking.tracker:Tracker._send_metrics", 'if line["step"] not in self.logged.get(key, ()):', "if True:", TRACKING + " -k 'never_logged_twice'"),
    Mutant("a spool that forgets", "raysde.tracking.tracker:Tracker.__init__", "        for line in lines:\n            self.lines.put(line)\n", "", TRACKING + " -k 'dead_process'"),
    Mutant("pictures that are forgotten", "raysde.tracking.tracker:Tracker.__init__", "            self.images.put(path)", "            pass", TRACKING + " -k 'wait_on_disk'"),
    Mutant("a new time for what is sent again", "raysde.tracking.tracker:Tracker._send_metrics", 'Metric(key, value, line["time"], line["step"])', 'Metric(key, value, int(1000 * time.time()), line["step"])', TRACKING + " -k 'lost'"),
    Mutant("a spool thrown away with entries in it", "raysde.tracking.tracker:Tracker.close", "        if not sent:\n            return self._left()", "", TRACKING + " -k 'next_process'"),
    Mutant("more metrics than MLflow takes", "raysde.tracking.tracker", "METRICS_AT_ONCE = 200, 1000", "METRICS_AT_ONCE = 200, 2000", TRACKING),
    Mutant("waiting steps logged twice", "raysde.tracking.tracker:Tracker._send_metrics", "            self.logged.setdefault(key, set()).add(step)", "            pass", TRACKING + " -k 'wait_twice'"),
    Mutant("a lost run marked as failed", "raysde.tracking.marking:mark_runs", "    except TakenOver:\n        raise\n", "", "tests/runs/test_lease.py -k 'writes_nothing_more'"),
    Mutant("metrics of a run that was lost", "raysde.tracking.tracker:Tracker._send_metrics", "            self.confirm()", "            pass", "tests/runs/test_lease.py -k 'leaves_the_files'"),
    Mutant("another command's spool deleted", "raysde.tracking.tracker:Tracker.close", "        if self._is_taken_over():\n            return False\n", "", "tests/runs/test_lease.py -k 'leaves_the_files'"),
]  # fmt: skip
