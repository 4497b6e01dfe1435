"""Captions and labels of images, parsed in the same way for every kind of source."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raysde.data.ingest.kept_values import column_identifier
from raysde.data.ingest.samples import MAX_CAPTION, Bad, Sample, SourcePart
from raysde.data.ingest.sources.columns import nonempty_values, normalise_name, summarise_columns
from raysde.data.ingest.sources.listing import decode_utf8, list_files
from raysde.io.near import did_you_mean

FILE_KEYS = (
    "file_name",
    "filename",
    "file",
    "image",
    "path",
    "file_path",
    "filepath",
    "image_path",
    "image_file",
    "image_name",
    "img_path",
    "img",
)
TEXT_KEYS = ("text", "caption", "prompt", "captions", "texts", "prompts", "caption_text", "image_caption")
LABEL_KEYS = ("label", "class", "labels")


@dataclass(frozen=True)
class Vocabulary:
    """Names of the columns and keys that hold captions, labels and numeric attributes.

    Attributes:
        attributes: names of the numeric attributes to read, normalised.
        caption, label: names that the user selected; None for the usual names.
        keep: names of the columns to keep for filters, see
            :func:`raysde.data.ingest.kept_values.column_identifier`.
        condition: name of the second image, a column of paths or bytes or a part of file names; None for none.
        captions, labels: all names to read, normalised by :func:`raysde.data.ingest.sources.columns.normalise_name`.
    """

    caption: str | None = None
    label: str | None = None
    attributes: tuple[str, ...] = field(default=(), repr=False)
    keep: tuple[str, ...] = field(default=(), repr=False)
    condition: str | None = field(default=None, repr=False)

    @property
    def options(self) -> str:
        """The options that select columns, for messages."""
        given: tuple[tuple[str, object], ...] = (("--attributes", self.attributes), ("--keep-columns", self.keep))
        given += (("--condition-image", self.condition),)
        return ", ".join(["--caption-column", "--label-column", *(option for option, names in given if names)])

    @property
    def captions(self) -> tuple[str, ...]:
        return TEXT_KEYS if self.caption is None else (normalise_name(self.caption),)

    @property
    def labels(self) -> tuple[str, ...]:
        return LABEL_KEYS if self.label is None else (normalise_name(self.label),)

    @property
    def picked(self) -> tuple[str, ...]:
        """Names of the columns whose values are taken as they are: the kept ones, and paths of second images."""
        return self.keep if self.condition is None else (*self.keep, self.condition)

    @property
    def selects(self) -> bool:
        """True if a column is selected that the source must have; second images may be files of their own."""
        return replace(self, condition=None) != ANY

    def reads(self, name: str) -> bool:
        """Return True if a column or key of this name is read."""
        return normalise_name(name) in (*self.captions, *self.labels, *self.attributes)

    def uses(self, name: str) -> bool:
        """Return True if a column or key of this name is read or kept."""
        return self.reads(name) or column_identifier(name) in self.picked

    def require_kept(self, names: Iterable[str], where: str) -> None:
        """Check that the columns to keep exist among ``names``.

        Raises:
            ValueError: naming ``where`` and similar names, if a column is absent.
        """
        there = {column_identifier(name): name for name in names}
        for name in self.keep:
            if name not in there:
                near = did_you_mean(name, there)
                raise ValueError(
                    f"{where} has no column {name!r}, which --keep-columns asks for{near or ';'} "
                    f"it has {summarise_columns(there.values())}"
                )

    def require(self, names: Iterable[str], where: str) -> None:
        """Check that the selected names exist among ``names``.

        Raises:
            ValueError: naming ``where`` and the existing names, if a selected name is absent.
        """
        there = list(names)
        attributes = [("--attributes", name) for name in self.attributes]
        for option, name in (("--caption-column", self.caption), ("--label-column", self.label), *attributes):
            if name is not None and normalise_name(name) not in map(normalise_name, there):
                raise ValueError(
                    f"{where} has no column {name!r}, which {option} asks for; it has {summarise_columns(there)}"
                )


ANY = Vocabulary()


def clean_captions(captions: Iterable[str]) -> tuple[str, ...]:
    """Strip captions, remove blank ones and cut them to ``MAX_CAPTION`` characters.

    Raises:
        ValueError: if one holds half a surrogate pair, which JSON can express and UTF-8 cannot.
    """
    result = tuple(cut for caption in captions if (cut := caption.strip()[:MAX_CAPTION].rstrip()))
    for caption in result:
        if any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise ValueError(f"caption {caption[:40]!r} is not valid Unicode")
    return result


def parse_captions(value: Any) -> tuple[str, ...]:
    """Return the captions in a string, a list of strings, or None.

    Raises:
        ValueError: if the value is anything else.
    """
    values = [] if value is None else value if isinstance(value, list) else [value]
    captions = [caption for caption in values if caption is not None]
    if not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"caption {str(value)[:40]!r} is not a string or a list of strings")
    return clean_captions(captions)


def parse_label(value: Any) -> str | None:
    """Return a label as text, an integer in decimal; a list of one label counts as that label, null and NaN as None.

    Raises:
        ValueError: if the value is neither a word nor an integer.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list) and len(value) == 1:
        return parse_label(value[0])
    if isinstance(value, str):
        return next(iter(clean_captions([value])), None)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        remedy = "; write it as text to make it a class of that name" if isinstance(value, float) else ""
        raise ValueError(f"label {str(value)[:40]!r} is neither a word nor a whole number{remedy}")
    return str(int(value))


def read_entry(row: Mapping[str, Any], words: Vocabulary = ANY) -> tuple[tuple[str, ...], str | None]:
    """Return captions and label of one entry of metadata.

    Raises:
        ValueError: if a value has a wrong type, or two columns with the same meaning differ.
    """
    captions = {name: parse_captions(value) for name, value in nonempty_values(row, words.captions).items()}
    labels = {name: parse_label(value) for name, value in nonempty_values(row, words.labels).items()}
    said = max(captions.values(), key=len, default=())
    for name, others in captions.items():
        if not set(others) <= set(said):
            most = next(other for other, values in captions.items() if values == said)
            raise ValueError(f"captions differ in {most!r} and {name!r}; --caption-column names the one to read")
    words_found = {label: name for name, label in labels.items() if label is not None}
    if len(words_found) > 1:
        one, other = list(words_found.values())[:2]
        raise ValueError(f"labels differ in {one!r} and {other!r}; --label-column names the one to read")
    return said, next(iter(words_found), None)


@dataclass
class Named:
    """A part with class numbers replaced by class names, and captions made from labels if there are none.

    Attributes:
        part: the part to read.
        names: class names, ordered by class number; empty keeps labels unchanged.
        template: a caption that contains ``{label}``, or None.
        name, count: see :class:`raysde.data.ingest.samples.SourcePart`.
    """

    part: SourcePart
    names: tuple[str, ...]
    template: str | None
    name: str = field(init=False)
    count: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.count = self.part.name, self.part.count

    def read(self) -> Iterator[Sample | Bad]:
        """Yield the part's samples; a sample with a label outside ``names`` is replaced by a :class:`Bad`."""
        for sample in self.part.read():
            try:
                yield sample if isinstance(sample, Bad) else self._name_sample(sample)
            except ValueError as error:
                yield Bad(sample.key, f"{sample.key}: {error}")

    def _name_sample(self, sample: Sample) -> Sample:
        label = self._name(sample.label)
        captions = sample.captions
        if self.template is not None and label is not None and not captions:
            captions = clean_captions([self.template.replace("{label}", label)])
        return replace(sample, captions=captions, label=label)

    def _name(self, label: str | None) -> str | None:
        if not self.names or label is None or label in self.names:
            return label
        if not label.isdecimal() or int(label) >= len(self.names):
            raise ValueError(f"label {label!r} is neither a number below {len(self.names)} nor one of the class names")
        return self.names[int(label)]


def read_names(path: str) -> tuple[str, ...]:
    """Read class names from a text file, one a line.

    Raises:
        ValueError: naming the file, if it is missing, not UTF-8 or empty, or a line is blank or repeats another.
    """
    listing = list_files(path)
    if listing.folder or len(listing.files) != 1:
        raise ValueError(f"label_names {path} is not one text file")
    text = decode_utf8(listing.read(listing.files[0].name), path)
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            raise ValueError(f"label_names {path}, line {number} is {'blank' if not name else f'{name!r} again'}")
        if name.isdecimal() and len(name) < 10 and number - 1 != int(name) < len(names):
            raise ValueError(
                f"label_names {path}, line {number}: {name!r} names class {number - 1} and is the number of another; "
                "give names that are no numbers of other classes"
            )
    return names
