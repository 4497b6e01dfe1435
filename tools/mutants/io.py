"""Mistakes in raysde/io/."""

from tools.mutants.mutant import Mutant

MUTANTS = [
    Mutant("a file without its place", "raysde.io.atomic:whole_file", "    with writing(what, path):", "    if True:", "tests/io/test_filesystems.py -k 'full_disk'"),
    Mutant("a folder without its place", "raysde.io.atomic:whole_folder", "    with writing(what, folder):", "    if True:", "tests/io/test_filesystems.py -k 'full_disk'"),
    Mutant("a file written in its place", "raysde.io.atomic:whole_file", 'partial = path.with_name(f".{path.name}.{uuid4().hex}.part")', "partial = path", "tests/io/test_atomic.py -k 'killed'"),
    Mutant("what a killed process left in a new folder", "raysde.io.atomic:cleared", "    shutil.rmtree(partial, ignore_errors=True)\n    return partial", "    return partial", "tests/io/test_atomic.py -k 'killed'"),
    Mutant("a torn file of a remote place", "raysde.io.filesystems:copy_in", "partial = inside if system.type_name in WHOLE_ON_CLOSE else", "partial = inside if True else", "tests/io/test_atomic.py -k 'copy'"),
    Mutant("one temporary name for all", "raysde.io.atomic:whole_file", ".{uuid4().hex}.part", ".part", "tests/evaluation/test_evaluate.py -k 'at_once'"),
    Mutant("the second of two equal keys counts", "raysde.io.documents:repeated", "if before is not key:", "if False:", "tests/config/test_loading.py -k 'twice'"),
    Mutant("a list of files for a reason", "raysde.io.errors:writing", "except shutil.Error as error:", "except KeyError as error:", "tests/io/test_filesystems.py -k 'full_disk'"),
    Mutant("pickles behind an index", "raysde.io.hashing:weight_files", '_found(path, part) if part.endswith(".safetensors") else None', "_found(path, part)", "tests/conditioning/test_pretrained.py -k 'pickles_and_code'"),
    Mutant("a hash of names alone", "raysde.io.hashing:weights_hash", "        digest.update(value.detach()", "        digest.copy().update(value.detach()", "tests/evaluation/test_features.py -k 'hash'"),
    Mutant("weights of no account", "raysde.io.hashing:model_hash", " + weights_hash(module)", "", "tests/inference/test_bulk.py -k 'weights'"),
]  # fmt: skip
