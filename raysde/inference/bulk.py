"""Sample images for a prompt file in parts, on one process or many workers.

OUT/sampling.json            the settings that determine the images, written first
OUT/part-00000.parquet, ...  or folders of PNG files, see :mod:`raysde.inference.image_files`

Complete parts are not sampled again, so that an interrupted job resumes where it stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.fs as pafs
from torch import Tensor

from raysde.images.codec import encode_image
from raysde.images.png import png_metadata
from raysde.images.tensors import to_pil
from raysde.inference.image_conditions import read_image_conditions, sample_with_images
from raysde.inference.image_files import WHOLE, WRITERS, Form, part_name
from raysde.inference.model import Model
from raysde.inference.prompt_file import Requests
from raysde.inference.ranges import split_range
from raysde.inference.samples import Drawn
from raysde.io.atomic import is_partial
from raysde.io.filesystems import child_path, exists, open_filesystem, read_bytes
from raysde.io.hashing import model_hash
from raysde.io.journal import Journal
from raysde.io.progress import Progress
from raysde.sampling.method import Method, make_method

FORMAT = 1
PART = 256
"""Target number of images in a part."""
PLAN = "sampling.json"


@dataclass(frozen=True)
class Bulk:
    """A sampling job for a prompt file; image i depends on its seed, i and its own prompt and label.

    Attributes:
        model: the model that samples.
        requests: the rows of the prompt file.
        out: folder or URI of the results.
        form: file format of the images.
        seed, negative: seed and negative prompt of rows that give none.
        settings: further keyword arguments of the model's ``sample``: batch_size, guidance, solver and so on.
        images_per_part: maximum number of images in a part, but at least one batch. A part holds whole batches, the
            same as those of one call of ``sample``.
    """

    model: Model
    requests: Requests
    out: str
    form: Form
    seed: int
    negative: str | None
    settings: dict[str, Any]
    images_per_part: int = PART

    @property
    def batch(self) -> int:
        return int(self.settings["batch_size"])

    @property
    def parts(self) -> list[tuple[int, int]]:
        """(first, count) of the images of each part."""
        return split_range(self.requests.count, self.batch * max(1, self.images_per_part // self.batch))

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that determine the images and their files."""
        model, guide = self.model, self.settings.get("autoguide")
        return {
            "format": FORMAT,
            "model": model_hash(model.spec.dump(), model.score_model),
            "prompts": self.requests.sha256,
            "form": self.form,
            "images_per_part": self.images_per_part,
            "seed": self.seed,
            "negative": self.negative,
            **self.settings,
            "autoguide": None if guide is None else model_hash(guide.spec.dump(), guide.score_model),
        }

    def check(self) -> None:
        """Check all rows and settings before the first image is sampled.

        Raises:
            ValueError: naming the row or setting that the model cannot sample.
        """
        if self.batch < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch}")
        conditioner, settings = self.model.score_model.conditioner, self.settings
        names = self.model.spec.class_names
        self.requests.fit(prompts=conditioner.tokenizer is not None, classes=conditioner.classes, names=names)
        if self.negative is not None and conditioner.tokenizer is None:
            raise ValueError(f"negative {self.negative!r} was given, but the model takes no prompts; leave it out")
        if self.requests.negatives is not None and settings["guidance"] == 1.0:
            raise ValueError(
                f"{self.requests.file} has a column negative, which has no effect at guidance 1; set another guidance"
            )
        scale, interval = settings["guidance"], settings["guidance_interval"]
        apart = settings.get("autoguidance")
        self.model.guidance(1, scale, interval, self.negatives(0, 1), settings["autoguide"], apart)
        if (size := settings.get("size")) is not None:
            self.model.spec.shape_of(size)
        Method(**make_method(settings)).check(self.model.sde)
        if self.requests.image_files and settings.get("size") is not None:
            raise ValueError("--size does not go with images as conditions in a prompt file; leave it out")
        for row in range(self.requests.count) if self.requests.image_files else ():
            self.image_conditions(range(row, row + 1))

    def image_conditions(self, rows: range) -> tuple[Tensor, Tensor | None]:
        """Return the condition images of rows of the prompt file, and masks for inpainting.

        Raises:
            ValueError: naming the row, if a file does not exist or does not fit the model.
        """
        found: dict[str, list[tuple[str, bytes]]] = {}
        for column, paths in self.requests.image_files.items():
            for row in rows:
                name = f"{self.requests.file}, row {row + 1}: {column} {paths[row]}"
                try:
                    found.setdefault(column, []).append((name, bytes(read_bytes(paths[row]))))
                except (FileNotFoundError, IsADirectoryError):
                    raise ValueError(f"{name} does not exist") from None
        return read_image_conditions(self.model.spec, found)

    def seeds(self, first: int, count: int) -> list[int]:
        """Return the seeds of ``count`` images from number ``first`` on."""
        given = self.requests.seeds or [None] * self.requests.count
        return [self.seed if each is None else each for each in given[first : first + count]]

    def negatives(self, first: int, count: int) -> list[str] | None:
        """Return the negative prompts of ``count`` images from number ``first`` on; None if none has one."""
        if self.requests.negatives is None:
            return None if self.negative is None else [self.negative] * count
        other = self.negative or ""
        return [other if each is None else each for each in self.requests.negatives[first : first + count]]

    def sample(self, first: int, count: int, progress: Callable[[int, int], None] | None = None) -> Drawn:
        """Sample ``count`` images from number ``first`` on; ``progress(done, all)`` gets solver steps."""
        rows, asked = slice(first, first + count), self.requests
        draw: Callable[..., Drawn] = partial(self.model.sample, n=count)
        if asked.image_files:
            draw = partial(sample_with_images, self.model, *self.image_conditions(range(first, first + count)))
        return draw(
            prompts=None if asked.prompts is None else asked.prompts[rows],
            labels=None if asked.labels is None else asked.labels[rows],
            attributes={name: values[rows] for name, values in asked.attributes.items()},
            seed=self.seeds(first, count),
            first=first,
            progress=progress,
            **{**self.settings, "negative": self.negatives(first, count)},
        )

    def draw(self, part: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Sample the images of a part and write them as PNG files with their settings, as :meth:`Drawn.save` does.

        Args:
            progress: callback ``progress(done, all)`` that gets solver steps.

        Raises:
            ValueError: as :func:`raysde.inference.sample.sample`.
            OSError: naming the file that cannot be written.
        """
        first, count = self.parts[part]
        drawn = self.sample(first, count, progress)
        files = [
            encode_image(to_pil(image), quality=None, chunks=png_metadata(drawn.metadata(index)))
            for index, image in enumerate(drawn.images)
        ]
        WRITERS[self.form](self.place(part), files, self.rows(first, count))

    def rows(self, first: int, count: int) -> list[dict[str, Any]]:
        """Return the metadata rows of ``count`` images from number ``first`` on."""
        rows, asked = range(first, first + count), self.requests
        seeds, negatives = self.seeds(first, count), self.negatives(first, count)
        return [
            {
                "number": row,
                "prompt": None if asked.prompts is None else asked.prompts[row],
                "label": None if asked.labels is None else asked.labels[row],
                "seed": seeds[row - first],
                "negative": None if negatives is None else negatives[row - first],
                **{name: values[row] for name, values in asked.attributes.items()},
                **{f"{name}_file": paths[row] for name, paths in asked.image_files.items()},
            }
            for row in rows
        ]

    def place(self, part: int) -> str:
        """Return the URI of the file or folder of a part."""
        return child_path(self.out, part_name(self.form, part))

    def is_done(self, part: int) -> bool:
        """Return True if a part is on disk and complete."""
        return WHOLE[self.form](self.place(part), self.parts[part][1])


Draw = Callable[[Bulk, Sequence[int], Callable[[int, float], None]], Iterator[int]]
"""A function ``draw(bulk, parts, progress)`` that samples parts and yields the number of each finished one.

Meanwhile it may call ``progress`` with the number of an unfinished part and its finished fraction from 0 to 1."""


def draw_here(bulk: Bulk, parts: Sequence[int], progress: Callable[[int, float], None]) -> Iterator[int]:
    """Sample the parts with the given numbers one after another in this process: a :data:`Draw`."""
    for part in parts:

        def report_part(done: int, steps: int, part: int = part) -> None:
            progress(part, done / steps)

        bulk.draw(part, report_part)
        yield part


def draw_all(bulk: Bulk, draw: Draw = draw_here, progress: Progress | None = None) -> int:
    """Sample all parts that are not complete yet; return the number of images that were complete before.

    Args:
        draw: samples the parts, in this process by default.
        progress: callback that gets the number of images sampled so far, fractional, and the number of all.

    Raises:
        ValueError: if a row cannot be sampled, or ``bulk.out`` holds other files or another job's images.
    """
    bulk.check()
    begin_bulk(bulk)
    sizes = [count for _, count in bulk.parts]
    done = {part for part in range(len(sizes)) if bulk.is_done(part)}
    before = sum(sizes[part] for part in done)

    def report_part(part: int, share: float) -> None:
        if progress is not None:
            progress(sum(sizes[each] for each in done) + share * sizes[part], bulk.requests.count)

    report_part(0, 0.0)
    for part in draw(bulk, [part for part in range(len(sizes)) if part not in done], report_part):
        done.add(part)
        report_part(part, 0.0)
    return before


def begin_bulk(bulk: Bulk) -> None:
    """Write the plan of a job into its folder, or check that the plan there is the same.

    Raises:
        ValueError: if the folder holds other files, or another job's plan, naming the first setting that differs.
    """
    plan = child_path(bulk.out, PLAN)
    if not exists(plan):
        system, inside = open_filesystem(bulk.out)
        found = system.get_file_info(pafs.FileSelector(inside, allow_not_found=True))
        if not all(is_partial(each.base_name) for each in found):
            raise ValueError(f"{bulk.out} holds other files; choose another folder or remove it")

    def other(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
        for key in dict.fromkeys([*wanted, *found]):
            if found.get(key) != wanted.get(key):
                return (
                    f"{bulk.out} holds images of another {key} ({found.get(key)}, now {wanted.get(key)}); "
                    "repeat that job, remove the folder, or give another --out"
                )
        return None

    Journal(plan, bulk.out).begin(bulk.identity, other)
