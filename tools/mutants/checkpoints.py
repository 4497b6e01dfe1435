"""Mistakes in raysde/checkpoints/."""

from tools.mutants.mutant import Mutant

CHECKPOINT = "tests/checkpoints/test_checkpoint.py"
SHARDED = "tests/multiprocess/test_sharded.py"
STORAGE = "tests/checkpoints/test_storage.py"
SAVING = "tests/runs/test_saving.py"
LOADING = "tests/checkpoints/test_loading.py"
RETENTION = "tests/checkpoints/test_retention.py"
RANKING = "tests/training/test_ranking.py"
KEEPING = "tests/runs/test_keeping.py"
NAMES = "tests/checkpoints/test_names.py"

MUTANTS = [
    Mutant("moments that nobody compares", "raysde.checkpoints.checkpoint:files_to_load", "for each in _files_by_kind(state, description, where).values()", "for each in [['ema.safetensors']]", CHECKPOINT + " -k 'only_what_is_read'"),
    Mutant("a rank's state in an exported model", "raysde.checkpoints.checkpoint:copy_model", 'for name in (kind, f"{kind}.safetensors")', 'for name in (f"{kind}.safetensors",)', SHARDED + " -k 'is_a_model'"),
    Mutant("a card of other weights", "raysde.checkpoints.checkpoint:copy_model", "FILE, *CARDS)", "FILE)", "tests/models/test_sampling_defaults.py -k 'tells_settings'"),
    Mutant("a model of damaged weights", "raysde.checkpoints.checkpoint:find_newest_checkpoint.check_drawable", "        verify_model(Path(each.path))\n", "", CHECKPOINT + " -k 'weights_are_right'"),
    Mutant("an edited description", "raysde.checkpoints.description:parse_description", "if OWN in values and values[OWN] != content_hash(values):", "if False:", CHECKPOINT + " -k 'no_change'"),
    Mutant("a file that was cut", "raysde.checkpoints.description:read_complete_description", "if sizes[name] != expected:", "if False:", CHECKPOINT + " -k 'damage_is_named'"),
    Mutant("an older checkpoint that nobody hears of", "raysde.checkpoints.description:choose_checkpoint", "        if say is not None:", "        if False:", CHECKPOINT + " -k 'tensors_are_right or whatever_lies'"),
    Mutant("a run that begins again in silence", "raysde.checkpoints.description:choose_checkpoint", "    if faults:", "    if False:", CHECKPOINT + " -k 'not_a_beginning'"),
    Mutant("the last name for the highest step", "raysde.checkpoints.description:list_checkpoints", "key=lambda each: (each.step, each.name == checkpoint_name(each.step), each.name)", "key=lambda each: each.name", CHECKPOINT + " -k 'whatever_lies'"),
    Mutant("old checkpoints taken for whole unread", "raysde.checkpoints.description:read_complete_description", "if not description.sizes and", "if False and", CHECKPOINT + " -k 'before_sizes'"),
    Mutant("a description without its own hash", "raysde.checkpoints.description:parse_description", 'if "bytes" in values and OWN not in values:', "if False:", CHECKPOINT + " -k 'hash_of_its_own'"),
    Mutant("a bad disk that ends a run", "raysde.checkpoints.description:_judge_checkpoint", "if not isinstance(system, pafs.LocalFileSystem):", "if True:", CHECKPOINT + " -k 'cannot_be_read'"),
    Mutant("tensors that a disk does not give", "raysde.checkpoints.description:compare_hashes", "        except OSError as error:", "        except ZeroDivisionError as error:", CHECKPOINT + " -k 'cannot_be_read'"),
    Mutant("an average that passes over in silence", "raysde.checkpoints.ema_snapshots:_write_model", "fetch_newest_checkpoint(storage, name, say)", "fetch_newest_checkpoint(storage, name)", "tests/checkpoints/test_ema_snapshots.py -k 'passes_over'"),
    Mutant("the live weights for their average", "raysde.checkpoints.staging:stage_checkpoint", "{**own_weights(state.model), **state.ema.average}", "own_weights(state.model)", CHECKPOINT + " -k 'folder_is_enough'"),
    Mutant("hashes of the first rank's files alone", "raysde.checkpoints.writing:gather_listed", "world.sum(digests).cpu().tolist()", "digests.cpu().tolist()", SHARDED + " -k 'any_number or moments'"),
    Mutant("profiles left out of sharded checkpoints", "raysde.checkpoints.staging:stage_checkpoint", "    if state.profiles:", "    if not state.profiles:", SHARDED + " -k 'moments'"),
    Mutant("pieces that begin at row 0", "raysde.checkpoints.staging:stage_pieces", '{"saved_offsets": [start, ', '{"saved_offsets": [0, ', SHARDED + " -k 'any_number or moments or torch_reads'"),
    Mutant("every rank reads the first rows", "raysde.checkpoints.sharded_tensors:Stored._rows_like", "self.rows(name, *local_rows(target))", "self.rows(name, 0, local_rows(target)[1] - local_rows(target)[0])", SHARDED + " -k 'any_number or goes_on_sharded'"),
    Mutant("missing rows passed over", "raysde.checkpoints.sharded_tensors:Stored.rows", "if place < stop:", "if place < start:", SHARDED + " -k 'no_file_holds'"),
    Mutant("lengths in elements for bytes", "raysde.checkpoints.tensor_files:build_header", "end = place + tensor.numel() * tensor.element_size()", "end = place + tensor.numel()", SHARDED + " -k 'library or whole_tensors'"),
    Mutant("the oldest checkpoints kept", "raysde.checkpoints.retention:Retention.choose_old", "*found[: self.newest]", "*found[-self.newest :]", CHECKPOINT + " -k 'only_the_newest'"),
    Mutant("what is not whole counted among the kept", "raysde.checkpoints.storage:prune_checkpoints", "[each for each in found if each.description is not None and", "[each for each in found if", STORAGE + " -k 'are_kept'"),
    Mutant("a damaged folder of the user's taken for a torn one", "raysde.checkpoints.storage:prune_checkpoints", "if not (each.begun or is_local(str(folder)))", "if each.description is None", STORAGE + " -k 'are_kept'"),
    Mutant("tensors that nobody compares", "raysde.checkpoints.storage:_fetcher.fetch_if_intact", "            verify_checkpoint(folder)", "            pass", STORAGE + " -k 'do_not_stay'"),
    Mutant("a torn checkpoint from an object store", "raysde.checkpoints.storage:_choose", "each for each in found if each.begun or is_local(storage)", "each for each in found", STORAGE + " -k 'saved_first'"),
    Mutant("a silent restart at step 0", "raysde.checkpoints.storage:_choose", "if not begun and len(found) > 1:", "if False:", STORAGE + " -k 'no_beginning'"),
    Mutant("a damaged checkpoint in the place of a new one", "raysde.checkpoints.storage:prune_checkpoints", " and each.step <= saved]", "]", STORAGE + " -k 'just_now'"),
    Mutant("a copy that the next step changes", "raysde.checkpoints.staging:HostCopies.copy", "return place.copy_(value.contiguous() if pinned else value, non_blocking=pinned)", "return value.cpu()", SAVING + " -k 'training_went_on or shares_memory'"),
    Mutant("two checkpoints in flight", "raysde.checkpoints.background:BackgroundWriter.wait_for_others", "            self.wait()", "            pass", SAVING + " -k 'keep_their_order'"),
    Mutant("a checkpoint whose averages are lost", "raysde.checkpoints.background:BackgroundWriter._run", "                    self.works.clear()", "                    pass", SAVING + " -k 'outlive_the_loss'"),
    Mutant("work of saving that outlives its run", "raysde.checkpoints.background:BackgroundWriter.wait", "            thread.join()", "            pass", SAVING + " -k 'interrupted_run or next_save'"),
    Mutant("a node folder removed under its users", "raysde.checkpoints.node_folders:_remove_unused", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", LOADING + " -k 'killed_process'"),
    Mutant("a node folder that nobody removes", "raysde.checkpoints.node_folders:_remove_unused", "        shutil.rmtree(gone, ignore_errors=True)", "        pass", LOADING + " -k 'once_for_eight or killed_process'"),
    Mutant("every rank downloads", "raysde.checkpoints.node_folders:shared_folder", 'if not (folder / "ready").exists():', "if True:", LOADING + " -k 'once_for_eight'"),
    Mutant("a download that nobody compares", "raysde.checkpoints.loading:_download", "            _compare(kept.path, description, name, found)", "            pass", LOADING + " -k 'agree_on_the_damage'"),
    Mutant("damage that other ranks do not hear of", "raysde.checkpoints.loading:_agree", "if world.any(bool(fault)):", "if world.any(bool(fault)) and fault:", SHARDED + " -k 'damaged_piece'"),
    Mutant("pieces of remote ranks unverified", "raysde.checkpoints.loading:_verify_share", "owners.get(name, number % world.size) == world.rank", "owners.get(name) is None and number % world.size == world.rank", SHARDED + " -k 'damaged_piece'"),
    Mutant("a finished run that nobody verifies", "raysde.checkpoints.storage:is_intact", 'hash_stream(system, f"{kept.path}/{name}") == expected', "expected", LOADING + " -k 'finished_run'"),
    Mutant("remote rows from the tensor's beginning", "raysde.checkpoints.ranges:Rows.__getitem__", "self.place.start + start * each", "self.place.start", LOADING + " -k 'read_as_ranges'"),
    Mutant("an object sent from where it broke off", "raysde.checkpoints.tensor_files:_write_parts", "digest, size = hashlib.sha256(), 0", "digest, size = hashlib.sha256(b'x'), 0", "tests/checkpoints/test_tensor_files.py"),
    Mutant("a failed write that other ranks do not hear of", "raysde.checkpoints.writing:fail_together", "    if failed:", "    if failed and error:", SHARDED + " -k 'cannot_write'"),
    Mutant("the worst checkpoints for the best", "raysde.checkpoints.retention:rank_checkpoints", "sorted(costs, key=lambda item: item[:2])", "sorted(costs, key=lambda item: item[:2], reverse=True)", RETENTION),
    Mutant("the later of equal checkpoints", "raysde.checkpoints.retention:rank_checkpoints", "each.step, each) for", "-each.step, each) for", RETENTION),
    Mutant("unranked checkpoints among the best", "raysde.checkpoints.retention:rank_checkpoints", " if math.isfinite(cost)]", "]", RETENTION),
    Mutant("no checkpoint kept for good", "raysde.checkpoints.retention:Retention.choose_old", "        if self.every:\n", "        if False:\n", RETENTION),
    Mutant("a direction that is not read", "raysde.training.ranking:Ranking.cost", 'return value if self.mode == "min" else -value', "return value", RETENTION),
    Mutant("an infinite record", "raysde.training.ranking:Ranking.cost", "value is None or not math.isfinite(value)", "value is None", RANKING),
    Mutant("a checkpoint ranked by an earlier step", "raysde.training.state:TrainState.metrics", "if self.measured[0] == self.step else {}", "", RANKING),
    Mutant("a patience that ranks use up", "raysde.training.measuring:rank_checkpoint", "        log_average(", "        state.stale += 1\n        log_average(", RANKING),
    Mutant("the last checkpoint for the best", "raysde.runs.keeping:choose_published", "        if best is not None:", "        if False:", KEEPING + " -k 'choice_of'"),
    Mutant("the best checkpoint for the last", "raysde.checkpoints.names:find_checkpoint", "    if name == LAST:", "    if False:", NAMES + " -k 'by_its_name'"),
    Mutant("a name that hides a folder", "raysde.checkpoints.names:split_name", " or folder.is_dir()", "", NAMES + " -k 'in_its_name'"),
    Mutant("a damaged best model", "raysde.checkpoints.names:_check", "    verify_model(Path(kept.path))\n", "", NAMES + " -k 'passed_over'"),
    Mutant("the checkpoint of an open measurement deleted", "raysde.checkpoints.storage:prune_checkpoints", ".union(*(open_steps(state) for state in states))", "", "tests/cluster_without_ray/test_beside.py -k 'keep_their'"),
    Mutant("a description's former hash beside late results", "raysde.checkpoints.late_results:_write_state", "        content[OWN] = content_hash(content)\n", "        pass\n", "tests/cluster_without_ray/test_beside.py -k 'leave_the_rest'"),
    Mutant("late results in place of earlier ones", "raysde.checkpoints.late_results:add_metrics", "**state.get(\"metrics\", {}), ", "", "tests/cluster_without_ray/test_beside.py -k 'leave_the_rest'"),
]  # fmt: skip
