"""Second images of a folder, such as depth maps: files 0001.depth.png beside 0001.png, or paths in a table."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from raysde.data.ingest.kept_values import Value
from raysde.data.ingest.sources.book import Book
from raysde.data.ingest.sources.columns import normalise_name
from raysde.data.ingest.sources.listing import summarise_names


def second_word(name: str) -> tuple[str, str] | None:
    """Return the path before the last word of a file's name, and the word: ``a/1`` and ``depth`` for ``a/1.depth.png``.

    None stands for a name without such a word.
    """
    path = PurePosixPath(name)
    head, dot, word = path.stem.rpartition(".")
    return (str(path.with_name(head)), normalise_name(word)) if dot and head else None


def pair_seconds(images: Iterable[str], book: Book) -> dict[str, str]:
    """Return the second image of each image that has one beside it; ``book`` refuses those that cannot be paired.

    Args:
        images: paths of all images of a folder.
        book: descriptions of the images, which know the name of second images.
    """
    condition = book.words.condition
    if condition is None:
        return {}
    of_stem: dict[str, list[str]] = defaultdict(list)
    found: dict[str, list[str]] = defaultdict(list)
    seconds: dict[str, str] = {}
    for name in images:
        place = second_word(name)
        if place is not None and place[1] == condition:
            seconds[name] = place[0]
        else:
            of_stem[str(PurePosixPath(name).with_suffix(""))].append(name)
    for name, stem in seconds.items():
        if stem not in of_stem:
            book.refuse(name, f"{name} is a condition image {condition!r}, and there is no image of the name {stem}")
        for image in of_stem.get(stem, ()):
            found[image].append(name)
    for image, files in found.items():
        if len(files) > 1:
            book.refuse(image, f"image {image} has {len(files)} condition images: {summarise_names(files)}; keep one")
    return {image: files[0] for image, files in found.items()}


def leave_seconds(images: Iterable[str], book: Book, seconds: Mapping[str, str]) -> list[str]:
    """Return the images without those that are second images of others, beside them or by a table.

    An image with a description of its own stays.

    Raises:
        ValueError: if there is a name of second images, and no image has one.
    """
    condition = book.words.condition
    if condition is None:
        return list(images)
    named = {value for said in book.said.values() if (value := said.kept.get(condition)) is not None}
    if not named and not seconds:
        raise ValueError(
            f"--condition-image {condition!r}: no image has one; name files such as 0001.{condition}.png beside "
            f"0001.png, or give their paths in a column {condition} of the table"
        )
    gone = (set(seconds.values()) | named) - book.said.keys()
    return [name for name in images if name not in gone]


def second_file(condition: str | None, kept: dict[str, Value], beside: str | None) -> str | None:
    """Take the path of the second image out of ``kept``; without one there, return the file beside the image."""
    path = kept.pop(condition, None) if condition is not None else None
    return beside if path is None else str(path)
