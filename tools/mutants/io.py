"""Mistakes in raysde/io/."""

from tools.mutants.mutant import Mutant

FILESYSTEMS = "tests/io/test_filesystems.py"

MUTANTS = [
    Mutant("a folder without its place", "raysde.io.atomic:write_folder_atomically", "with name_place_of_write(what, folder):", "if True:", FILESYSTEMS + " -k 'full_disk'"),
    Mutant("a client for each file", "raysde.io.filesystems:_open_bucket", "@lru_cache(maxsize=32)\n", "", FILESYSTEMS + " -k 'one_client'"),
    Mutant("a client with former credentials", "raysde.io.filesystems:open_filesystem", "os.getpid(), settings)", "os.getpid(), ())", FILESYSTEMS + " -k 'one_client'"),
    Mutant("one temporary name for all", "raysde.io.atomic:write_atomically", ".{uuid4().hex}.part", ".part", "tests/evaluation/test_evaluate.py -k 'at_once'"),
    Mutant("a file without its place", "raysde.io.atomic:write_atomically", "with name_place_of_write(what, path):", "if True:", FILESYSTEMS + " -k 'full_disk'"),
    Mutant("the second of two equal keys counts", "raysde.io.documents:find_repeated_keys", "if before is not key:", "if False:", "tests/config/test_loading.py -k 'twice'"),
    Mutant("a list of files for a reason", "raysde.io.errors:name_place_of_write", "except shutil.Error as error:", "except KeyError as error:", FILESYSTEMS + " -k 'full_disk'"),
    Mutant("pickles behind an index", "raysde.io.hashing:weight_files", '_find_file(path, part) if part.endswith(".safetensors") else None', "_find_file(path, part)", "tests/conditioning/test_pretrained.py -k 'pickles_and_code'"),
    Mutant("a hash of names alone", "raysde.io.hashing:weights_hash", "        digest.update(value.detach()", "        digest.copy().update(value.detach()", "tests/evaluation/test_features.py -k 'hash'"),
    Mutant("weights of no account", "raysde.io.hashing:model_hash", " + weights_hash(module)", "", "tests/inference/test_bulk.py -k 'weights'"),
    Mutant("values of another shape pass", "raysde.io.shapes:of_shape", "if value.shape != shape:", "if False:", "tests/sampling/test_score.py -k 'another_shape'"),
    Mutant("a full memory as the user's mistake", "raysde.io.own_code:is_of_machine", "kinds = (torch.OutOfMemoryError, torch.AcceleratorError) if torch else ()", "kinds = ()", "tests/training/test_own_code.py -k 'machine'"),
    Mutant("a mistake without its place", "raysde.io.own_code:describe_own_error", 'return said + "".join(own[-1:])', "return said", "tests/training/test_own_code.py -k 'its_place'"),
    Mutant("a misspelt keyword passed on", "raysde.io.keywords:own_keywords.call", "if name not in known:", "if False:", "tests/io/test_keywords.py"),
    Mutant("any file of shards taken for the manifest's", "raysde.io.shared_file:open_shared_file", "!= sha256:", '== "":', "tests/data/dataset/test_shard_table.py -k 'another_manifest'"),
    Mutant("the file of shards read into each process", "raysde.io.shared_file:open_shared_file", "pa.py_buffer(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))", "pa.py_buffer(local.read_bytes())", "tests/data/dataset/test_shard_table.py -k 'mapped'"),
    Mutant("a damaged copy of a remote file kept", "raysde.io.shared_file:fetch_copy", "if not _is_copy(copy, sha256):", "if not copy.exists():", "tests/data/dataset/test_verify.py -k 'downloaded'"),
    Mutant("a remote file downloaded by each process", "raysde.io.shared_file:fetch_copy", "if not _is_copy(copy, sha256):", "if True:", "tests/data/dataset/test_verify.py -k 'downloaded'"),
    Mutant("a range of names that begins one late", "raysde.io.listing:_list_range", "names[first - 1]", "names[first]", "tests/io/test_listing.py -k 'every_file'"),
    Mutant("a listing that ends with its first name", "raysde.io.listing:_list_range", "if name >= names[stop - 1]:", "if name >= names[first]:", "tests/io/test_listing.py -k 'every_file'"),
    Mutant("objects below the folder listed one by one", "raysde.io.listing:_list_range", 'Delimiter="/", ', "", "tests/io/test_listing.py -k 'below'"),
]  # fmt: skip
