"""Mistakes in raysde/checkpoints/."""

from tools.mutants.mutant import Mutant

CHECKPOINT = "tests/checkpoints/test_checkpoint.py"
SHARDED = "tests/multiprocess/test_sharded.py"
STORAGE = "tests/checkpoints/test_storage.py"

MUTANTS = [
    Mutant("moments that nobody compares", "raysde.checkpoints.checkpoint:restore_state", "*(name for each in names.values() for name in each)]", "]", CHECKPOINT + " -k 'only_what_is_read'"),
    Mutant("a rank's state in an exported model", "raysde.checkpoints.checkpoint:copy_model", 'for name in (kind, f"{kind}.safetensors")', 'for name in (f"{kind}.safetensors",)', SHARDED + " -k 'is_a_model'"),
    Mutant("a card of other weights", "raysde.checkpoints.checkpoint:copy_model", "FILE, *CARDS)", "FILE)", "tests/models/test_sampling_defaults.py -k 'tells_settings'"),
    Mutant("a model of damaged weights", "raysde.checkpoints.checkpoint:find_newest_checkpoint.check_drawable", "        verify_model(Path(each.path))\n", "", CHECKPOINT + " -k 'weights_are_right'"),
    Mutant("an edited description", "raysde.checkpoints.description:parse_description", "if OWN in values and values[OWN] != content_hash(values):", "if False:", CHECKPOINT + " -k 'no_change'"),
    Mutant("a file that was cut", "raysde.checkpoints.description:read_complete_description", "if sizes[name] != expected:", "if False:", CHECKPOINT + " -k 'damage_is_named'"),
    Mutant("an older checkpoint that nobody hears of", "raysde.checkpoints.description:choose_newest_checkpoint", "        if say is not None:", "        if False:", CHECKPOINT + " -k 'tensors_are_right or whatever_lies'"),
    Mutant("a run that begins again in silence", "raysde.checkpoints.description:choose_newest_checkpoint", "    if faults:", "    if False:", CHECKPOINT + " -k 'not_a_beginning'"),
    Mutant("the last name for the highest step", "raysde.checkpoints.description:list_checkpoints", "key=lambda each: (each.step, each.name == checkpoint_name(each.step), each.name)", "key=lambda each: each.name", CHECKPOINT + " -k 'whatever_lies'"),
    Mutant("old checkpoints taken for whole unread", "raysde.checkpoints.description:read_complete_description", "if not description.sizes and", "if False and", CHECKPOINT + " -k 'before_sizes'"),
    Mutant("a description without its own hash", "raysde.checkpoints.description:parse_description", 'if "bytes" in values and OWN not in values:', "if False:", CHECKPOINT + " -k 'hash_of_its_own'"),
    Mutant("a bad disk that ends a run", "raysde.checkpoints.description:_judge_checkpoint", "if not isinstance(system, pafs.LocalFileSystem):", "if True:", CHECKPOINT + " -k 'cannot_be_read'"),
    Mutant("tensors that a disk does not give", "raysde.checkpoints.description:_compare_hashes", "        except OSError as error:", "        except ZeroDivisionError as error:", CHECKPOINT + " -k 'cannot_be_read'"),
    Mutant("an average that passes over in silence", "raysde.checkpoints.ema_snapshots:_write_model", "fetch_newest_checkpoint(storage, name, say)", "fetch_newest_checkpoint(storage, name)", "tests/checkpoints/test_ema_snapshots.py -k 'passes_over'"),
    Mutant("the live weights for their average", "raysde.checkpoints.sharded:write_rank_part", "with state.ema.swap_weights():", "if folder:", SHARDED + " -k 'moments'"),
    Mutant("hashes of the first rank's files alone", "raysde.checkpoints.sharded:gather_hashes", "world.sum(digests).cpu().tolist()", "digests.cpu().tolist()", SHARDED + " -k 'any_number or moments'"),
    Mutant("profiles left out of sharded checkpoints", "raysde.checkpoints.sharded:write_rank_part", "    if state.profiles:", "    if not state.profiles:", SHARDED + " -k 'moments'"),
    Mutant("pieces that begin at row 0", "raysde.checkpoints.sharded_tensors:write_pieces", '{"saved_offsets": [start, ', '{"saved_offsets": [0, ', SHARDED + " -k 'any_number or moments or torch_reads'"),
    Mutant("every rank reads the first rows", "raysde.checkpoints.sharded_tensors:Stored.like", "local = self.rows(name, *local_rows(target))", "local = self.rows(name, 0, local_rows(target)[1] - local_rows(target)[0])", SHARDED + " -k 'any_number or goes_on_sharded'"),
    Mutant("missing rows passed over", "raysde.checkpoints.sharded_tensors:Stored.rows", "if place < stop:", "if place < start:", SHARDED + " -k 'no_file_holds'"),
    Mutant("lengths in elements for bytes", "raysde.checkpoints.sharded_tensors:build_header", "end = place + tensor.numel() * tensor.element_size()", "end = place + tensor.numel()", SHARDED + " -k 'library or whole_tensors'"),
    Mutant("the oldest checkpoints kept", "raysde.checkpoints.storage:prune_checkpoints", "and each.step <= saved][keep:]", "and each.step <= saved][:-keep]", CHECKPOINT + " -k 'only_the_newest'"),
    Mutant("what is not whole counted among the kept", "raysde.checkpoints.storage:prune_checkpoints", "[each for each in found if each.description is not None and", "[each for each in found if", STORAGE + " -k 'are_kept'"),
    Mutant("a damaged folder of the user's taken for a torn one", "raysde.checkpoints.storage:prune_checkpoints", "if not (each.begun or is_local(str(folder)))", "if each.description is None", STORAGE + " -k 'are_kept'"),
    Mutant("tensors that nobody compares", "raysde.checkpoints.storage:fetch_newest_checkpoint.fetch_if_intact", "            verify_checkpoint(folder)", "            pass", CHECKPOINT + " -k 'tensors_are_right'"),
    Mutant("a torn checkpoint from an object store", "raysde.checkpoints.storage:fetch_newest_checkpoint", "each for each in found if each.begun or is_local(storage)", "each for each in found", STORAGE + " -k 'saved_first'"),
    Mutant("a silent restart at step 0", "raysde.checkpoints.storage:fetch_newest_checkpoint", "if not begun and len(found) > 1:", "if False:", STORAGE + " -k 'no_beginning'"),
    Mutant("a damaged checkpoint in the place of a new one", "raysde.checkpoints.storage:prune_checkpoints", " and each.step <= saved]", "]", STORAGE + " -k 'just_now'"),
]  # fmt: skip
