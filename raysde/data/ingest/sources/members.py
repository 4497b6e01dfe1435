"""Names of files in tar archives: the sample of a file, and the file's extension within the sample.

WebDataset cuts a name at its first dot: ``a.png``, ``a.txt`` and ``a.seg.png`` belong to the sample ``a``. Other names
contain dots, such as ``img_v1.5.png`` and ``photo 1.2.png``. A piece between two dots belongs to the extension if it is
a word, such as ``seg`` or ``target``, or a known word with a number, such as ``image2``. Any other piece, such as
``5``, belongs to the sample's name, and so do the pieces before it.
"""

import re
from dataclasses import dataclass

from raysde.images.kinds import IMAGE_SUFFIXES

IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
CAPTIONS = ("txt", "text", "caption")
LABELS = ("cls", "label")
JSON = ("json",)
READ = IMAGES + CAPTIONS + LABELS + JSON

CAPTION_WORDS = {"caption", "captions", "text", "txt", "prompt"}
LABEL_WORDS = {"label", "class", "cls"}
JSON_WORDS = {"metadata", "meta", "info", "annotation", "annotations", *CAPTION_WORDS}
WORD = re.compile(r"[^\W\d_]+([_-][^\W\d_]+)*")
NUMBERED = re.compile(r"([^\W\d]+?)[_-]?\d+")
COUNTED = {"image", "img", "frame", "view", "crop", "seg", "mask", "depth", "input", "target", *CAPTION_WORDS, *IMAGES}


@dataclass(frozen=True)
class MemberPlace:
    """The sample of a file, and the file's extension in it.

    Attributes:
        stem: path up to the base name's first dot.
        key: path of the sample: the stem and following pieces that belong to the name.
        extension: rest of the name after the next dot, in lower case.
        name: base name in its own spelling.
    """

    stem: str
    key: str
    extension: str
    name: str

    @property
    def suffix(self) -> str:
        """Last piece of the extension."""
        return self.extension.rpartition(".")[2]

    def under(self, key: str) -> str:
        """Return the extension, in lower case, of the file in the sample ``key``, a prefix of the file's path."""
        return f"{self.key}.{self.extension}"[len(key) + 1 :].lower()


def locate_member(path: str) -> MemberPlace:
    """Return the sample and extension of a file, given its path in the archive."""
    folder, slash, base = path.rpartition("/")
    first, *pieces = base.split(".")
    stem = folder + slash + first
    if not pieces:
        return MemberPlace(stem, stem, "", base)
    names = [number for number, piece in enumerate(pieces[:-1], start=1) if not is_kind_word(piece)]
    cut = names[-1] if names else 0
    return MemberPlace(stem, ".".join([stem, *pieces[:cut]]), ".".join(pieces[cut:]).lower(), base)


def is_kind_word(piece: str) -> bool:
    """Return True if a piece of a name between two dots belongs to the extension."""
    counted = NUMBERED.fullmatch(piece)
    return WORD.fullmatch(piece) is not None or (counted is not None and counted[1].lower() in COUNTED)


def is_about(extension: str, image: str, words: set[str]) -> bool:
    """Return True if a file of this extension describes the sample or its image.

    Its extension without the suffix is then empty, the image's with or without suffix, or one of ``words``."""
    own = extension.rpartition(".")[0]
    return own in ("", image.rpartition(".")[0], image) or own.rstrip("0123456789_-") in words


def extension_label(extension: str) -> str:
    """Return the name of files of an extension in a report, with N for numbers."""
    return f".{re.sub('[0-9]+', 'N', extension)} files" if extension else "files without a suffix"
