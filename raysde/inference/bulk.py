"""Drawing for a file of prompts: in parts, each drawn by whoever holds the model, and written whole or not at all.

OUT/sampling.json            all that the images depend on, written first
OUT/part-00000.parquet, ...  or folders of PNG files, see :mod:`raysde.inference.image_files`

A part that is there is not drawn again, so that an interrupted job goes on where it stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
import torch

from raysde.images.codec import encode_image
from raysde.images.tensors import to_pil
from raysde.inference.image_files import WHOLE, WRITERS, Form, part_name
from raysde.inference.model import Model
from raysde.inference.prompt_file import Requests
from raysde.inference.ranges import split_range
from raysde.io.atomic import is_partial
from raysde.io.filesystems import child_path, exists, open_filesystem
from raysde.io.hashing import model_hash
from raysde.io.journal import Journal
from raysde.io.progress import Progress
from raysde.sampling.method import Method, make_method

FORMAT = 1
PART = 256
"""Images of a part, about."""
PLAN = "sampling.json"


@dataclass(frozen=True)
class Bulk:
    """Images to be drawn for a file of prompts; image i depends on its seed, i and its own prompt and label.

    Attributes:
        model: what draws.
        requests: what for.
        out: folder or URI.
        form: how images are written.
        seed, negative: of rows that give none.
        settings: further keyword arguments of the model's ``sample``: batch_size, guidance, solver and so on.
        images_per_part: at most, or one batch; a part has whole batches, which are those that ``sample`` would draw.
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
        """Return all that the images and their files depend on."""
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
        """Finds what cannot be drawn, before anything is.

        Raises:
            ValueError: naming the row, or the setting.
        """
        if self.batch < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch}")
        conditioner, settings = self.model.score_model.conditioner, self.settings
        names = self.model.spec.class_names
        self.requests.fit(prompts=conditioner.tokenizer is not None, classes=conditioner.classes, names=names)
        if self.negative is not None and conditioner.tokenizer is None:
            raise ValueError(f"negative {self.negative!r} was given, and the model takes no prompts")
        if self.requests.negatives is not None and settings["guidance"] == 1.0:
            raise ValueError(f"{self.requests.file} has a column negative, which has no effect at guidance 1")
        scale, interval = settings["guidance"], settings["guidance_interval"]
        apart = settings.get("autoguidance")
        self.model.guidance(1, scale, interval, self.negatives(0, 1), settings["autoguide"], apart)
        if (size := settings.get("size")) is not None:
            self.model.spec.shape_of(size)
        Method(**make_method(settings)).check(self.model.sde)

    def seeds(self, first: int, count: int) -> list[int]:
        """The seeds of the images ``first`` and on."""
        given = self.requests.seeds or [None] * self.requests.count
        return [self.seed if each is None else each for each in given[first : first + count]]

    def negatives(self, first: int, count: int) -> list[str] | None:
        """What the images ``first`` and on are led away from, None for the empty prompt."""
        if self.requests.negatives is None:
            return None if self.negative is None else [self.negative] * count
        other = self.negative or ""
        return [other if each is None else each for each in self.requests.negatives[first : first + count]]

    def images(self, first: int, count: int, told: Callable[[int, int], None] | None = None) -> torch.Tensor:
        """uint8 [count, C, H, W]: the images ``first`` and on."""
        rows, asked = slice(first, first + count), self.requests
        return self.model.sample(
            n=count,
            prompts=None if asked.prompts is None else asked.prompts[rows],
            labels=None if asked.labels is None else asked.labels[rows],
            seed=self.seeds(first, count),
            first=first,
            progress=told,
            **{**self.settings, "negative": self.negatives(first, count)},
        ).images

    def draw(self, part: int, told: Callable[[int, int], None] | None = None) -> None:
        """Draws a part and writes it."""
        first, count = self.parts[part]
        files = [encode_image(to_pil(image), quality=None) for image in self.images(first, count, told)]
        WRITERS[self.form](self.place(part), files, self.rows(first, count))

    def rows(self, first: int, count: int) -> list[dict[str, Any]]:
        """What is said of the images ``first`` and on."""
        rows, asked = range(first, first + count), self.requests
        seeds, negatives = self.seeds(first, count), self.negatives(first, count)
        return [
            {
                "number": row,
                "prompt": None if asked.prompts is None else asked.prompts[row],
                "label": None if asked.labels is None else asked.labels[row],
                "seed": seeds[row - first],
                "negative": None if negatives is None else negatives[row - first],
            }
            for row in rows
        ]

    def place(self, part: int) -> str:
        """The file or folder of a part."""
        return child_path(self.out, part_name(self.form, part))

    def is_done(self, part: int) -> bool:
        """Whether a part is there and whole."""
        return WHOLE[self.form](self.place(part), self.parts[part][1])


Draw = Callable[[Bulk, Sequence[int], Callable[[int, float], None]], Iterator[int]]
"""``draw(bulk, parts, told)``: draws parts and gives their numbers as they are done, while ``told`` may get the number
of one that is not, and how much of it is, from 0 to 1."""


def draw_here(bulk: Bulk, parts: Sequence[int], told: Callable[[int, float], None]) -> Iterator[int]:
    """Draws one part after another in this process: a :data:`Draw`."""
    for part in parts:

        def tell_part(done: int, steps: int, part: int = part) -> None:
            told(part, done / steps)

        bulk.draw(part, tell_part)
        yield part


def draw_all(bulk: Bulk, draw: Draw = draw_here, told: Progress | None = None) -> int:
    """Draws what is not there yet; the number of images that were.

    Args:
        told: called with the images done and to be done.

    Raises:
        ValueError: if a row cannot be drawn, or the target holds anything but the beginning of the same.
    """
    bulk.check()
    begin_bulk(bulk)
    sizes = [count for _, count in bulk.parts]
    done = {part for part in range(len(sizes)) if bulk.is_done(part)}
    before = sum(sizes[part] for part in done)

    def tell_part(part: int, share: float) -> None:
        if told is not None:
            told(sum(sizes[each] for each in done) + share * sizes[part], bulk.requests.count)

    tell_part(0, 0.0)
    for part in draw(bulk, [part for part in range(len(sizes)) if part not in done], tell_part):
        done.add(part)
        tell_part(part, 0.0)
    return before


def begin_bulk(bulk: Bulk) -> None:
    """Makes the target ready, or finds that the same was begun there.

    Raises:
        ValueError: if anything else was, naming what differs.
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
                    f"{bulk.out} holds images of another {key} ({found.get(key)}, now {wanted.get(key)}): "
                    "repeat that, remove it, or give another --out"
                )
        return None

    Journal(plan, bulk.out).begin(bulk.identity, other)
