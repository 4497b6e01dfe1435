"""Measure images per second that reach a training process, by raysde's stream and other loaders, from the same JPEGs.

    pip install webdataset braceexpand                # peers; missing ones are skipped
    pip install --no-deps mosaicml-streaming brotli zstd xxhash python-snappy cramjam catalogue
    pip install --no-deps litdata lightning-utilities obstore
    python benchmarks/stream.py --font NotoColorEmoji.ttf [--work DIR] [--count 6000] [--images 38400] [--repeats 3]
    python benchmarks/stream.py --font NotoColorEmoji.ttf --memory [--work DIR]

Each loader delivers shuffled uint8 tensors [64, 3, 256, 256] with captions to one process that reads one byte per
image. All loaders use the same two cores, no pause between epochs, and two worker processes (raysde: Ray's own). "raw"
is the upper bound: two processes that only decode bytes in memory with raysde's decoder. Rates are measured over
``--images`` after a warm-up, each in a process of its own, in turn. Rates and ratios are medians over repeats. Aims: at
least the rate of every peer, and 0.9 of raw. Run it alone: a second busy process slows the loaders by different
amounts.

``--memory`` streams 200,000 small pictures through raysde, and prints the memory growth of each process. Aim: under 50
MB each.
"""

import argparse
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pictures256 import files, make

BATCH, WORKERS, PREFETCH, SHUFFLE, TARS = 64, 2, 4, 1000, 8
WARMUP, BEYOND = 128, 64
"""Batches before the clock starts (more than any loader has ready by then), and batches after it stops, so that no
loader runs dry while it is timed."""
SMALL, SMALL_COUNT, SMALL_WARMUP, SMALL_EACH, SMALL_IMAGES = 28, 20_000, 20_000, 10_000, 200_000
AIM_RAW, AIM_MEGABYTES = 0.9, 50.0

Batches = Iterator[Tensor]


def with_pillow(data: bytes) -> Tensor:
    """Return the image as uint8 [H, W, C]."""
    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB")))


def with_simplejpeg(data: bytes) -> Tensor:
    """Return the image as uint8 [H, W, C]."""
    return torch.from_numpy(importlib.import_module("simplejpeg").decode_jpeg(data))


DECODERS = {"pillow": with_pillow, "simplejpeg": with_simplejpeg}


def channels_first(batches: Any) -> Batches:
    """Yield a DataLoader's batches with images as [B, C, H, W]."""
    return (images.permute(0, 3, 1, 2) for images, _ in batches)


class Files(Dataset):
    """Image and caption of each file in a folder."""

    def __init__(self, folder: Path, decode: Callable[[bytes], Tensor]) -> None:
        self.entries, self.decode = [(str(path), caption) for path, caption in files(folder)], decode

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        path, caption = self.entries[index]
        with open(path, "rb") as source:
            return self.decode(source.read()), caption


def dataloader(work: Path, images: int, decoder: str) -> Batches:
    """Return batches of PyTorch's DataLoader over the files."""
    data = Files(work / "pictures", DECODERS[decoder])
    order = RandomSampler(data, num_samples=images)
    return channels_first(DataLoader(data, BATCH, sampler=order, num_workers=WORKERS, prefetch_factor=PREFETCH))


def write_tars(work: Path) -> None:
    """Write the files as WebDataset archives, equally many per worker."""
    (work / "tars").mkdir()
    entries = list(files(work / "pictures"))
    for number in range(TARS):
        with tarfile.open(work / "tars" / f"{number:03d}.tar", "w") as tar:
            for path, caption in entries[number::TARS]:
                for suffix, content in (("jpg", path.read_bytes()), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{path.stem}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def webdataset(work: Path, images: int, decoder: str) -> Batches:
    """Return batches of WebLoader over the archives: shards in random order, then a shuffle buffer."""
    wds = importlib.import_module("webdataset")
    tars = sorted(str(path) for path in (work / "tars").glob("*.tar"))
    decode = "rgb8" if decoder == "pillow" else wds.handle_extension("jpg", with_simplejpeg)

    def batched(samples: list[tuple[Any, str]]) -> tuple[Tensor, list[str]]:
        return default_collate([image for image, _ in samples]), [caption for _, caption in samples]

    data = wds.WebDataset(tars, resampled=True, shardshuffle=False).shuffle(SHUFFLE)  # endless
    data = data.decode(decode).to_tuple("jpg", "txt").batched(BATCH, collation_fn=batched)
    return channels_first(wds.WebLoader(data, batch_size=None, num_workers=WORKERS, prefetch_factor=PREFETCH))


def mosaic() -> ModuleType:
    """Import the package ``streaming.base`` alone: ``streaming`` would import torchvision for data sets not used
    here."""
    if "streaming" not in sys.modules:
        found = importlib.util.find_spec("streaming")
        assert found is not None
        assert found.submodule_search_locations is not None
        package = ModuleType("streaming")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["streaming"] = package
    return importlib.import_module("streaming.base")


def write_mds(work: Path) -> None:
    """Write the files as MDS shards, once as a type that Pillow decodes and once as bytes."""
    for encoding in ("jpeg", "bytes"):
        columns = {"image": encoding, "caption": "str"}
        with mosaic().MDSWriter(out=str(work / f"mds-{encoding}"), columns=columns) as out:
            for path, caption in files(work / "pictures"):
                # MDS stores an image that was opened from a file as that file's bytes
                image = Image.open(path) if encoding == "jpeg" else path.read_bytes()
                out.write({"image": image, "caption": caption})


def mosaicml(work: Path, images: int, decoder: str) -> Batches:
    """Return batches of MosaicML's StreamingDataset under a DataLoader."""
    base, pillow = mosaic(), decoder == "pillow"
    importlib.import_module("streaming.base.util").clean_stale_shared_memory()

    class Pictures(base.StreamingDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, str]:
            sample = super().__getitem__(index)
            if pillow:
                return torch.from_numpy(np.array(sample["image"].convert("RGB"))), sample["caption"]
            return with_simplejpeg(sample["image"]), sample["caption"]

    folder = work / ("mds-jpeg" if pillow else "mds-bytes")
    data = Pictures(local=str(folder), shuffle=True, batch_size=BATCH, epoch_size=images)
    return channels_first(DataLoader(data, BATCH, num_workers=WORKERS, prefetch_factor=PREFETCH))


def write_shards(pictures: Path, shards: Path) -> None:
    """Write the files as raysde's shards, byte for byte."""
    command = [sys.executable, "-m", "raysde.cli", "ingest", str(pictures), str(shards), "--encode", "keep"]
    subprocess.run(command, check=True, capture_output=True, timeout=1800, env=own_cluster())


def own_cluster() -> dict[str, str]:
    """Return the environment variables without those of another Ray cluster."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def raysde(shards: Path, images: int) -> Batches:
    """Return batches of raysde's stream for one worker, which is this process."""
    from raysde.cluster.connection import connect
    from raysde.cluster.resources import assign_data_share, list_live_nodes
    from raysde.cluster.stream import read_stream, stream_spec
    from raysde.config import loading
    from raysde.runs.run import open_run

    settings = [f"data.path={shards}", f"storage={shards / 'no-runs'}", f"train.batch={BATCH}", "validation.rows=0"]
    settings.append(f"train.length.steps={images // BATCH}")
    recipe = loading.load_recipe("digits", settings)
    run = open_run(recipe)
    connect()
    share = assign_data_share(recipe, list_live_nodes(), 1, 0)
    for (batch,) in read_stream(stream_spec(run, 0), run.manifest.channels, 0, 1, lambda: share):
        yield batch.images


LOADERS: dict[str, tuple[Callable[[Path, int], Batches], str | None]] = {
    "raysde": (lambda work, images: raysde(work / "shards", images), None),
    "DataLoader, Pillow": (lambda work, images: dataloader(work, images, "pillow"), None),
    "DataLoader, simplejpeg": (lambda work, images: dataloader(work, images, "simplejpeg"), None),
    "webdataset, Pillow": (lambda work, images: webdataset(work, images, "pillow"), "webdataset"),
    "webdataset, simplejpeg": (lambda work, images: webdataset(work, images, "simplejpeg"), "webdataset"),
    "mosaicml, Pillow": (lambda work, images: mosaicml(work, images, "pillow"), "streaming"),
    "mosaicml, simplejpeg": (lambda work, images: mosaicml(work, images, "simplejpeg"), "streaming"),
    "litdata, Pillow": (lambda work, images: litdata(work, images, "pillow"), "litdata"),
    "litdata, simplejpeg": (lambda work, images: litdata(work, images, "simplejpeg"), "litdata"),
}
"""Each loader, and the package that it needs."""
KINDS = ("raw", *LOADERS)


def decode_share(encoded: list[bytes], images: int, ready: Any, times: Any) -> None:
    """Decode ``images`` JPEGs, and put start and end times in seconds on the queue ``times``."""
    from raysde.images.codec import decode_image

    for data in encoded[:BATCH]:
        decode_image(data, 3)
    ready.wait()
    begin = time.perf_counter()
    for number in range(images):
        decode_image(encoded[number % len(encoded)], 3)
    times.put((begin, time.perf_counter()))


def raw(work: Path, images: int) -> dict[str, float]:
    """Return the rate (images/s) of decoding alone, in two processes."""
    encoded = [path.read_bytes() for path, _ in files(work / "pictures")]
    forked = multiprocessing.get_context("fork")
    ready, times = forked.Barrier(WORKERS), forked.Queue()
    share = images // WORKERS
    processes = [
        forked.Process(target=decode_share, args=(encoded[n::WORKERS], share, ready, times)) for n in range(WORKERS)
    ]
    for process in processes:
        process.start()
    begins, ends = zip(*(times.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return {"rate": share * WORKERS / (max(ends) - min(begins)), "first": 0.0}


def consumed(batches: Batches, images: int, begin: float) -> dict[str, float]:
    """Return the rate (images/s) after the warm-up, and the seconds from ``begin`` to the first batch."""
    first = started = 0.0
    last = WARMUP + images // BATCH
    for number, batch in enumerate(batches, start=1):
        assert (*batch.shape, batch.dtype) == (BATCH, 3, 256, 256, torch.uint8), (batch.shape, batch.dtype)
        int(batch[:, 0, 0, 0].sum())
        if number == 1:
            first = time.perf_counter() - begin
        if number == WARMUP:
            started = time.perf_counter()
        if number == last:
            return {"rate": (last - WARMUP) * BATCH / (time.perf_counter() - started), "first": first}
    raise SystemExit(f"the loader stopped before batch {last}")


def measured_here(kind: str, work: Path, images: int) -> dict[str, float]:
    """Return rate (images/s) and seconds to the first batch of a loader, measured in this process on two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if kind == "raw":
        return raw(work, images)
    begin = time.perf_counter()
    return consumed(LOADERS[kind][0](work, images + (WARMUP + BEYOND) * BATCH), images, begin)


def to_chunk_item(entry: tuple[Path, str]) -> dict[str, Any]:
    """Return an item of litdata's chunks: the file's bytes and the caption."""
    path, caption = entry
    return {"image": path.read_bytes(), "caption": caption}


def write_chunks(work: Path) -> None:
    """Write the files as litdata's chunks."""
    optimize = importlib.import_module("litdata").optimize
    where = str(work / "chunks")
    optimize(to_chunk_item, list(files(work / "pictures")), where, chunk_bytes="16MB", num_workers=1)


def litdata(work: Path, images: int, decoder: str) -> Batches:
    """Return batches of LitData's StreamingDataset under its StreamingDataLoader, whose workers stay between epochs."""
    library, decode = importlib.import_module("litdata"), DECODERS[decoder]

    class Pictures(library.StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Tensor, str]:
            sample = super().__getitem__(index)
            return decode(sample["image"]), sample["caption"]

    data = Pictures(str(work / "chunks"), shuffle=True, drop_last=True)
    loader = library.StreamingDataLoader(
        data, batch_size=BATCH, num_workers=WORKERS, prefetch_factor=PREFETCH, persistent_workers=True
    )
    while True:
        yield from channels_first(loader)


def measure(kind: str, work: Path, images: int) -> dict[str, float]:
    """Return the result of :func:`measured_here` in a new process."""
    command = [sys.executable, __file__, "--measure", kind, "--work", str(work), "--images", str(images)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=own_cluster(), check=False)
    if ended.returncode:
        raise SystemExit(f"{kind} failed:\n{ended.stderr[-3000:]}")
    result = json.loads(ended.stdout.strip().splitlines()[-1])
    print(f"  {kind:24} {result['rate']:7.0f} images/s, first batch after {result['first']:.1f} s", flush=True)
    return result


def prepare(work: Path, font: str, count: int, kinds: list[str]) -> None:
    """Write the same files in the form that each loader reads, unless they exist."""
    make(work / "pictures", font, count)
    if "raysde" in kinds and not (work / "shards" / "manifest.json").exists():
        write_shards(work / "pictures", work / "shards")
    if any(kind.startswith("webdataset") for kind in kinds) and not (work / "tars").exists():
        write_tars(work)
    if any(kind.startswith("mosaicml") for kind in kinds) and not (work / "mds-bytes" / "index.json").exists():
        write_mds(work)
    if any(kind.startswith("litdata") for kind in kinds) and not (work / "chunks" / "index.json").exists():
        write_chunks(work)


def report(results: dict[str, list[dict[str, float]]]) -> None:
    """Print the closing table."""
    ours = [result["rate"] for result in results.get("raysde", [])]
    print(f"\n{'':24} images/s  first batch   raysde / it")
    for kind, found in results.items():
        rates = [result["rate"] for result in found]
        first = f"{statistics.median(result['first'] for result in found):9.1f} s" if kind != "raw" else " " * 11
        line = f"{kind:24} {statistics.median(rates):8.0f}  {first}"
        if ours and kind != "raysde":
            each = [mine / rate for mine, rate in zip(ours, rates, strict=True)]
            shown = " ".join(f"{ratio:.3f}" for ratio in each)
            line += f"   {statistics.median(each):.3f}   (aim {AIM_RAW if kind == 'raw' else 1.0}; repeats {shown})"
        print(line)


def compare(work: Path, font: str, count: int, images: int, repeats: int, kinds: list[str]) -> None:
    """Measure all loaders in turn."""
    missing = {name for _, name in LOADERS.values() if name is not None and not importlib.util.find_spec(name)}
    if missing:
        print(f"not installed, skipped: {', '.join(sorted(missing))}")
    kinds = [kind for kind in kinds if kind == "raw" or LOADERS[kind][1] not in missing]
    prepare(work, font, count, kinds)
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind in kinds:
            results[kind].append(measure(kind, work, images))
    report(results)


def resident() -> dict[str, tuple[float, float]]:
    """Return resident MB, and unshared MB, of this process and of the processes that Ray started for it."""
    import psutil  # Ray depends on psutil

    found = {}
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        try:
            title, memory = " ".join(process.cmdline()), process.memory_info()
        except psutil.Error:
            continue
        kind = "driver" if process == here else title.split()[0] if title.startswith("ray::") else ""
        if kind:
            # a worker's title changes with its current task
            name = kind if kind == "driver" else "worker"
            found[f"{name} {process.pid}"] = (memory.rss / 1e6, (memory.rss - memory.shared) / 1e6)
    return found


def memory(work: Path, font: str, count: int, images: int) -> None:
    """Print the memory growth of raysde's processes during the stream."""
    make(work / "small", font, count, grey=SMALL)
    if not (work / "small-shards" / "manifest.json").exists():
        write_shards(work / "small", work / "small-shards")
    os.environ.pop("RAY_ADDRESS", None)
    samples: list[dict[str, tuple[float, float]]] = []
    passed, due = 0, SMALL_WARMUP
    # images beyond the end keep the workers busy at the last sample
    for batch in raysde(work / "small-shards", images + 2 * SMALL_WARMUP):
        passed += len(batch)
        int(batch[:, 0, 0, 0].sum())
        if passed >= due:
            samples.append(resident())
            due += SMALL_EACH
            shown = ", ".join(f"{name} {all_:.0f}/{own:.0f}" for name, (all_, own) in samples[-1].items())
            print(f"  {passed:7} images: {shown} MB", flush=True)
        if passed >= images + SMALL_WARMUP:
            break
    print(f"growth from image {SMALL_WARMUP} to {passed} (resident, and the part that is not shared memory):")
    for name in sorted({name for sample in samples for name in sample}):
        seen = [sample[name] for sample in samples if name in sample]
        (first, own), (last, own_last) = seen[0], seen[-1]
        note = "" if len(seen) == len(samples) else f", there in {len(seen)} of {len(samples)} samples"
        print(f"  {name:32} {last - first:+7.1f} MB, {own_last - own:+7.1f} MB (aim {AIM_MEGABYTES:.0f}{note})")


def parsed() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--font", help="a colour emoji font with bitmaps: NotoColorEmoji.ttf")
    arguments.add_argument("--work", type=Path, help="folder to keep and reuse files (default: none)")
    arguments.add_argument("--count", type=int, help=f"pictures (default 6000; {SMALL_COUNT} with --memory)")
    arguments.add_argument("--images", type=int, help=f"timed images (default 38400; {SMALL_IMAGES} with --memory)")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=str(KINDS))
    arguments.add_argument("--memory", action="store_true", help="see above")
    arguments.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if not (given.font or given.measure):
        arguments.error("--font is missing")
    return given


def main() -> None:
    given = parsed()
    if given.measure:
        print(json.dumps(measured_here(given.measure, given.work, given.images)))
        return
    work = given.work or Path(tempfile.mkdtemp(prefix="raysde-bench-"))
    if given.memory:
        memory(work, given.font, given.count or SMALL_COUNT, given.images or SMALL_IMAGES)
    else:
        compare(work, given.font, given.count or 6000, given.images or 38400, given.repeats, given.only)
    if given.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
