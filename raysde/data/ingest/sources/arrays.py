"""Images in arrays: NumPy's .npy and .npz, and idx files as of MNIST, plain or compressed by gzip."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from raysde.data.ingest.samples import Bad, Sample
from raysde.data.ingest.sources.descriptions import parse_label
from raysde.data.ingest.sources.listing import Contents, Listing, list_root_files, summarise_names
from raysde.data.ingest.sources.ndarray import ARRAY_SUFFIXES, Array, list_arrays, open_array, split_name

IMAGE_TOKENS = ("images", "image", "imgs", "x", "data")
LABEL_TOKENS = ("labels", "label", "y", "targets", "target")
TRAIN_TOKENS = {"train", "training"}
OTHER_TOKENS = {"t10k", "test", "testing", "val", "valid", "validation"}


@dataclass
class ArrayPart:
    """A range of rows of an array of images, as a part of a source.

    Attributes:
        images: array of images, uint8 [N, H, W] or [N, H, W, C].
        labels: array of their labels, [N] or [N, 1]; None if there are none.
        first, count: number of the part's first row, from 0, and number of its rows.
        name: name of the part.
    """

    images: Array
    labels: Array | None
    first: int
    name: str
    count: int | None

    def read(self) -> Iterator[Sample | Bad]:
        """Yield the rows in order, as PNG; a row with a label that is no word and no integer is a :class:`Bad`."""
        stop = self.first + (self.count or 0)
        rows = self.images.rows(self.first, stop)
        labels = iter([None] * (stop - self.first)) if self.labels is None else self.labels.rows(self.first, stop)
        for row, (image, label) in enumerate(zip(rows, labels, strict=True), start=self.first):
            key = f"{self.images.file}#{row}"
            try:
                yield Sample(key, array_to_png(image), (), None if label is None else _format_label(label))
            except ValueError as error:
                yield Bad(key, f"{key}: {error}")


def array_to_png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 [H, W] or [H, W, C], as a PNG file with fast compression."""
    out = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _format_label(value: np.ndarray) -> str | None:
    item = value.reshape(()).item()
    return parse_label(item.decode("utf-8") if isinstance(item, bytes) else item)


def open_arrays(listing: Listing, part_rows: int) -> Contents:
    """Return the rows of a listing's only array of images, or only one for training, in parts of ``part_rows`` rows.

    Raises:
        ValueError: naming the file, if it is damaged or of another type or shape, if the numbers of labels and images
            differ, or if there is no array of images or several.
    """
    images, notes = _choose_array(listing)
    labels = _find_labels(listing, images)
    if labels is None:
        notes.append(f"{images.title} has no labels beside it")
    elif labels.shape[0] != images.shape[0] or np.prod(labels.shape[1:]) != 1:
        raise ValueError(
            f"source {listing.given}: {labels.title} has shape {labels.shape}, expected one label for each of the "
            f"{images.shape[0]} images in {images.title}"
        )
    rows = images.shape[0]
    parts = [
        ArrayPart(images, labels, start, f"{images.file}#{start}", min(part_rows, rows - start))
        for start in range(0, rows, part_rows)
    ]
    return Contents(parts, rows, tuple(notes), _describe_arrays(images, labels))


def _describe_arrays(*arrays: Array | None) -> tuple[str, ...]:
    return tuple(f"{array.title} {array.shape} {array.dtype}" for array in arrays if array is not None)


def _choose_array(listing: Listing) -> tuple[Array, list[str]]:
    """Return the array of images to read, and a remark about other arrays of images."""
    arrays = [
        open_array(listing, title) for file in listing.names(*ARRAY_SUFFIXES) for title in list_arrays(listing, file)
    ]
    found = [array for array in arrays if len(array.shape) >= 3]
    train = [array for array in found if TRAIN_TOKENS & set(array.tokens)]
    others = [array for array in found if OTHER_TOKENS & set(array.tokens) and array not in train]
    notes = []
    if len(found) > 1 and len(train) == 1 and len(train) + len(others) == len(found):
        notes.append(f"{train[0].title} is read; {_suggest_source(listing, others)}")
        found = train
    if len(found) != 1:
        what = "several arrays of images: give one of them" if found else "no array of images [N, H, W] or [N, H, W, C]"
        named = summarise_names([f"{array.title} {list(array.shape)}" for array in found or arrays])
        raise ValueError(f"source {listing.given} holds {what} ({named})")
    return _check_array(found[0], listing), notes


def _suggest_source(listing: Listing, others: list[Array]) -> str:
    if others[0].member is not None:
        return f"{summarise_names([array.title for array in others])} of the same file is not"
    return f"give {summarise_names([listing.path(array.file) for array in others])} as the source to read the other"


def _check_array(array: Array, listing: Listing) -> Array:
    """Return the array; raise ValueError if it is not uint8 images [N, H, W] or [N, H, W, C]."""
    colours = array.shape[3:]
    fits = len(array.shape) == 3 or (len(array.shape) == 4 and colours[0] in (1, 3, 4))
    if array.dtype != "|u1" or not fits or 0 in array.shape:
        raise ValueError(
            f"source {listing.given}: {array.title} is {np.dtype(array.dtype)} {list(array.shape)}, "
            "expected uint8 [N, H, W] or [N, H, W, C] with 1, 3 or 4 colours and at least one image"
        )
    rows, height, width = array.shape[:3]
    if len(array.shape) == 3 and width in (3, 4) and height > 2 * width:
        raise ValueError(
            f"source {listing.given}: {array.title} is {list(array.shape)}, one image [H, W, C] rather than {rows} of "
            f"{height} x {width} pixels; save it as {[1, *array.shape]}, or grey images as {[*array.shape, 1]}"
        )
    return array


def _find_labels(listing: Listing, images: Array) -> Array | None:
    """Return the array of labels, named as the images with ``labels`` for ``images`` or a synonym; None if absent."""
    wanted = {_replace_word(images.tokens, text) for text in LABEL_TOKENS} - {images.tokens}
    files = [images.file] if images.member else []
    folder = images.file.rpartition("/")[0]
    beside = listing.names(*ARRAY_SUFFIXES) if listing.folder else [file.name for file in list_root_files(listing)]
    files += [name for name in beside if name.rpartition("/")[0] == folder and split_name(name) in wanted]
    found = [title for file in dict.fromkeys(files) for title in list_arrays(listing, file) if title.tokens in wanted]
    exact = [title for title in found if title.file.endswith(".gz") == images.file.endswith(".gz")]
    if len(exact or found) > 1:
        raise ValueError(
            f"source {listing.given}: several labels for {images.title}: {summarise_names([t.title for t in found])}"
            "; keep one of them"
        )
    return open_array(listing, (exact or found)[0]) if found else None


def _replace_word(words: tuple[str, ...], text: str) -> tuple[str, ...]:
    return tuple(text if word in IMAGE_TOKENS else "idx1" if word == "idx3" else word for word in words)
