"""Counts of images whose pixels an ingest changed or guessed, with examples."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from raysde.io.amounts import amount

Change = Literal["profile", "unusable", "transparent", "frames", "grey", "colourless", "ink", "black"]
SENTENCES: dict[Change, str] = {
    "profile": "have a colour profile and were converted to sRGB",
    "unusable": "have a colour profile that is damaged or does not fit the pixels, and were read as sRGB",
    "transparent": "are transparent in places and were laid on the background (--background)",
    "frames": "have several frames or pages, of which the first was taken",
    "grey": "are in colour and were made grey; --channels 3 keeps colours",
    "colourless": "are grey throughout and were stored as RGB",
    "ink": "are CMYK without a colour profile, and were converted by the plain formula (1 - ink)(1 - black)",
    "black": "have 16 bits a pixel and no value above 255, and became black; scale them to 0 to 65535",
}
"""Predicate for each change, which follows a number of images in a sentence."""
EXAMPLES = 3


@dataclass
class Remarks:
    """Number of images for each change, and the keys of the first ``EXAMPLES`` of them.

    Attributes:
        counts: number of images by change.
        examples: keys of the first images by change.
    """

    counts: dict[Change, int] = field(default_factory=dict)
    examples: dict[Change, list[str]] = field(default_factory=dict)

    def count(self, key: str, changes: Collection[Change]) -> None:
        """Count one image, known by its key, under each of its changes."""
        self.add(Remarks({change: 1 for change in changes}, {change: [key] for change in changes}))

    def add(self, other: "Remarks") -> None:
        """Add the counts and examples of another part of the source, which follows this one in order."""
        for change, count in other.counts.items():
            self.counts[change] = self.counts.get(change, 0) + count
            self.examples[change] = (self.examples.get(change, []) + other.examples[change])[:EXAMPLES]

    def to_json(self) -> dict[str, Any]:
        """Return the remarks as JSON values for :meth:`from_json`."""
        return {
            change: {"images": self.counts[change], "examples": self.examples[change]}
            for change in SENTENCES
            if change in self.counts
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Remarks":
        """Return the remarks from the JSON values of :meth:`to_json`."""
        counts = {change: values[change]["images"] for change in SENTENCES if change in values}
        return cls(counts, {change: list(values[change]["examples"]) for change in counts})

    def sentences(self, rows: int, what: str = "image", option: str = "--channels") -> list[str]:
        """Return a sentence for each change, with the number of its images out of ``rows``.

        Args:
            what: name of such an image.
            option: option of their colours.
        """
        return [
            f"{count} of {amount(rows, what)} {sentence.replace('--channels', option)}: "
            f"{', '.join(self.examples[change])}" + (" ..." if count > len(self.examples[change]) else "")
            for change, sentence in SENTENCES.items()
            if (count := self.counts.get(change, 0))
        ]
