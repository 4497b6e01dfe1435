"""Mistakes in raysde/cluster/."""

from tools.mutants.mutant import Mutant

LAUNCH = "tests/cluster_without_ray/test_launch.py"
SESSION_ON_RAY = "tests/cluster/test_session.py"
SPEECH_ON_RAY = "tests/cluster/test_speech.py"
SPREAD_ON_RAY = "tests/cluster/test_spread.py"
STREAM = "tests/cluster_without_ray/test_stream.py"

MUTANTS = [
    Mutant("a stream that spins", "raysde.cluster.backpressure:pause_if_exhausted", "if limit == 0:", "if False:", LAUNCH + " -k 'limit_of_ray'"),
    Mutant("a cluster of others whose processes search for it", "raysde.cluster.connection:worker_environment", '{"env_vars": {"RAY_ADDRESS": canonicalize_bootstrap_address_or_die(address)}}', "None", SESSION_ON_RAY),
    Mutant("a local cluster whose processes search for it", "raysde.cluster.connection:use_port", '"RAY_ADDRESS": address, OWN: address}', "OWN: address}", SESSION_ON_RAY),
    Mutant("a cluster of one's own taken for another's", "raysde.cluster.connection:joins_existing_cluster", '"local", os.environ.get(OWN))', '"local")', SESSION_ON_RAY),
    Mutant("Ray's stack at SIGTERM", "raysde.cluster.connection:heed_sigterm", "        signal.signal(signal.SIGTERM, handler)", "        pass", "tests/cluster/test_leaving.py -k 'on_ray'"),
    Mutant("Ray Train's end at Ctrl-C", "raysde.cluster.connection:connect", "    DataParallelTrainer._register_sigint_handler = _leave_ctrl_c", "    _unused = _leave_ctrl_c", "tests/cluster/test_leaving.py -k 'on_ray'"),
    Mutant("workers unheard though asked for", "raysde.cluster.connection:show_worker_messages", "    if not is_verbose():", "    if True:", SPEECH_ON_RAY),
    Mutant("Ray unheard though asked for", "raysde.cluster.connection:quiet_ray", '    if is_verbose():\n        return\n    os.environ', "    os.environ", SPEECH_ON_RAY),
    Mutant("a sentence told twice", "raysde.cluster.connection:tell_driver", '    sys.stdout.write(f"{MARK}{sentence}\\n")', '    print(f"{MARK}{sentence}")', SPEECH_ON_RAY),
    Mutant("a lost data task as Ray's error", "raysde.cluster.errors:iterate_results", "except RayError as error:", "except KeyError as error:", "tests/cluster/test_carried.py"),
    Mutant("a full disk under tasks as Ray's error", "raysde.cluster.errors:attempt_work", "except CARRIED as error:", "except ValueError as error:", "tests/cluster/test_ingest.py -k 'cannot_write'"),
    Mutant("a full disk under drawing actors as Ray's error", "raysde.cluster.errors:describe_error", "if isinstance(cause, CARRIED):", "if isinstance(cause, ValueError):", "tests/cluster/test_carried.py"),
    Mutant("a lost stretch forgotten", "raysde.cluster.evaluate:Workers._next", "                left.appendleft(stretch)", "                pass", SPREAD_ON_RAY + " -k 'replaced'"),
    Mutant("lost as often as it likes", "raysde.cluster.evaluate:Workers._replace", "if self.lost[stretch] > (", "if False and self.lost[stretch] > (", "tests/cluster/test_spread.py -m slow -k 'kills_every'"),
    Mutant("room counted over all nodes at once", "raysde.cluster.resources:largest_share", "if sum(unit // each for unit in units) >= workers", "if sum(units) // each >= workers", SPREAD_ON_RAY + " -k 'room'"),
    Mutant("more workers than units, each with one", "raysde.cluster.resources:largest_share", "return 1.0 / -(-workers // sum(units))", "return 1.0", SPREAD_ON_RAY + " -k 'room'"),
    Mutant("no CPU for data tasks", "raysde.cluster.resources:Cluster.kept", 'return 0 if stream == "worker" and self.joined else self.nodes', "return 0", "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"),
    Mutant("a CPU kept for tasks that there are not", "raysde.cluster.resources:Cluster.kept", 'return 0 if stream == "worker" and self.joined else self.nodes', "return self.nodes", "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"),
    Mutant("a CPU that the machine has not", "raysde.cluster.resources:Cluster.kept", 'stream == "worker" and self.joined', 'stream == "worker"', "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"),
    Mutant("more CPUs beside GPUs than there are", "raysde.cluster.resources:assign_share", "min(BESIDE_GPU, max(1, spare // cluster.gpus)) if cluster.gpus else BESIDE_GPU", "BESIDE_GPU", "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"),
    Mutant("workers that wait forever", "raysde.cluster.resources:check_resources", "if not cluster.joined:", "if False:", "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"),
    Mutant("workers that wait without a word", "raysde.cluster.resources:check_resources", '    print(f"{said}', '    str(f"{said}', "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"),
    Mutant("CPUs of a dead controller never released", "raysde.cluster.train:run_worker_group", "            release_orphaned_placement_groups()\n", "", "tests/cluster_without_ray/test_launch.py -k 'started_again'"),
    Mutant("the driver's placement groups taken for orphans", "raysde.cluster.resources:release_orphaned_placement_groups", "by_actor and group.creator_actor_dead", "group.creator_actor_dead", "tests/cluster/test_placement.py"),
    Mutant("detached placement groups removed", "raysde.cluster.resources:release_orphaned_placement_groups", " and not group.is_detached", "", "tests/cluster/test_placement.py"),
    Mutant("placement groups of the living removed", "raysde.cluster.resources:release_orphaned_placement_groups", "by_actor and group.creator_actor_dead", "by_actor", "tests/cluster/test_placement.py"),
    Mutant("a block's steps counted from the first", "raysde.cluster.stream:StreamSpec.steps_of", "first = (self.start // self.block_steps + number", "first = (number", STREAM),
    Mutant("steps past the end of the stream", "raysde.cluster.stream:StreamSpec.steps_of", "min(first + self.block_steps, self.stop))", "first + self.block_steps)", STREAM),
    Mutant("the last steps in no block", "raysde.cluster.stream:StreamSpec.blocks", "-(-self.stop // self.block_steps)", "self.stop // self.block_steps", STREAM),
    Mutant("blocks dealt out anew in each run of steps", "raysde.cluster.stream:group_by_step", "if j % world == rank]", "if j % total % world == rank]", STREAM),
    Mutant("any microbatch for the one expected", "raysde.cluster.stream:group_by_step", "if found != [(step, index) for index in mine]:", "if None in found:", STREAM),
    Mutant("Ray's list as a second truth", "raysde.cluster.train:prepare_folder", "        system.delete_file(root)", "        pass", LAUNCH + " -k 'second_truth'"),
    Mutant("one restart too many", "raysde.cluster.train:run_worker_group", "if failures == most:", "if failures > most:", LAUNCH + " -k 'started_again'"),
    Mutant("a controller that is not replaced", "raysde.cluster.train:run_worker_group", "(ray.train.TrainingFailedError, ray.exceptions.RayActorError)", "ray.train.TrainingFailedError", LAUNCH + " -k 'started_again'"),
    Mutant("the most workers for those that have to be", "raysde.cluster.train:own_share", "share, run.config.resources.least, lower", "share, run.config.resources.most, lower", "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"),
    Mutant("a worker group begins at step 0", "raysde.cluster.train:data_factory.make", "stream_spec(*resume_point(open_run(loading.parse_recipe(recipe))))", "stream_spec(open_run(loading.parse_recipe(recipe)), 0)", LAUNCH),
    Mutant("a stream in another order than its run's", "raysde.cluster.train:resume_point", "return follow_order(run, description.data), description.step", "return run, description.step", LAUNCH + " -k 'newest_checkpoint'"),
    Mutant("a worker in another order than its run's", "raysde.cluster.worker:run_worker", "start, run = description.step, follow_order(run, description.data)", "start = description.step", "tests/cluster_without_ray/test_resumed_jobs.py -k 'order'"),
    Mutant("a folder in the place of Ray's list", "raysde.cluster.train:prepare_folder", "    if found == FileType.Directory:\n        system.delete_dir(root)\n    elif", "    if", LAUNCH + " -k 'second_truth'"),
    Mutant("one worker for many", "raysde.cluster.train:run_worker_group", "amount(run.config.resources.least, 'worker')", "f'{run.config.resources.least} worker'", LAUNCH + " -k 'how_many_workers'"),
    Mutant("a figure without its images", "raysde.cluster.tune_sampler:measure_on_ray.measure", "if not (file.exists() and influence_file(file).exists())", "if not file.exists()", "tests/cluster/test_settle.py -m slow"),
    Mutant("a sweep that does not say what it leaves out", "raysde.cluster.tune_training:tune_job", "        say(remark)", "        pass", "tests/precompute/test_lookup.py -k 'in_vain'"),
    Mutant("workers keep all checkpoints", "raysde.cluster.worker:report_checkpoint", "        storage.prune_checkpoints(folder,", "        (lambda *_: None)(folder,", "tests/cluster/test_train.py -k 'than_asked_for'"),
    Mutant("the user's mistake tried again", "raysde.cluster.train:run_worker_group", "            if OWN.search(said):", "            if False:", "tests/cluster_without_ray/test_launch.py -k 'at_once'"),
]  # fmt: skip
