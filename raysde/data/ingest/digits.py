"""scikit-learn's bundled digits (1,797 real scans, 8 x 8) as a folder of captioned images, and a classifier of them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from raysde.io.errors import name_place_of_write

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a handwritten {word}",
    "the digit {word}",
    "a scan of the number {number}",
    "handwriting: {word}",
    "the number {word} in pencil",
    "{word}",
    "a small picture of a {number}",
    "somebody wrote a {word}",
)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 [1797, 8, 8], and labels, int64 [1797]."""
    from sklearn.datasets import load_digits as bundled

    images, labels = bundled(return_X_y=True)
    return np.rint(images * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 8, 8), labels.astype(np.int64)


def make_caption(label: int, variant: int) -> str:
    """Return a caption for the digit ``label``, 0 to 9; ``variant``, any integer from 0 on, selects the template."""
    return TEMPLATES[variant % len(TEMPLATES)].format(word=WORDS[label], number=label)


def stroke_thickness(images: np.ndarray) -> np.ndarray:
    """Return the mean thickness of strokes in pixels, 2 A / V: uint8 [N, H, W], ink white -> float64 [N].

    A is the amount of ink, the sum of grey levels in [0, 1]. V is its total variation, the sum of the norms of the
    differences to the next pixels, which is the length of the outline of a black and white picture. A stroke of width w
    and length L >> w has A = w L and V = 2 L. An image without ink has thickness 0.
    """
    ink = np.pad(images / 255.0, ((0, 0), (1, 1), (1, 1)))
    down, right = np.diff(ink, axis=1)[:, :, :-1], np.diff(ink, axis=2)[:, :-1]
    variation = np.hypot(down, right).sum(axis=(1, 2))
    return 2.0 * ink.sum(axis=(1, 2)) / np.where(variation > 0.0, variation, 1.0)


def edge_magnitude(images: np.ndarray) -> np.ndarray:
    """Return the edges of images, uint8 [N, H, W] -> uint8 [N, H, W]: min(255, sqrt(gx^2 + gy^2) / 4), rounded.

    gx and gy are the responses of Sobel's 3 x 3 filters (Sobel and Feldman 1968) in levels; borders are repeated. A
    straight step of 255 levels has the magnitude 255.
    """
    around = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    down, right = around[:, 2:] - around[:, :-2], around[:, :, 2:] - around[:, :, :-2]
    gy = down[:, :, :-2] + 2.0 * down[:, :, 1:-1] + down[:, :, 2:]
    gx = right[:, :-2] + 2.0 * right[:, 1:-1] + right[:, 2:]
    return np.rint(np.minimum(255.0, np.hypot(gx, gy) / 4.0)).astype(np.uint8)


def write_digits(folder: Path, *, thickness: bool = False, edges: bool = False) -> int:
    """Write PNG files and ``metadata.jsonl`` (file_name, text, label); return the number of images.

    Args:
        thickness: also write the stroke thickness of each image.
        edges: also write ``0000.edges.png`` beside ``0000.png`` and so on, by :func:`edge_magnitude`.

    Raises:
        OSError: naming ``folder``, if it cannot be written.
    """
    images, labels = load_digits()
    lines, thick, outlines = [], stroke_thickness(images), edge_magnitude(images) if edges else None
    with name_place_of_write("images", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            name = f"{index:04d}.png"
            Image.fromarray(image).save(folder / name)
            if outlines is not None:
                Image.fromarray(outlines[index]).save(folder / f"{index:04d}.edges.png")
            row = {"file_name": name, "text": make_caption(label, index), "label": label}
            if thickness:
                row["thickness"] = round(float(thick[index]), 4)
            lines.append(json.dumps(row))
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return len(images)


class DigitJudge:
    """A digit classifier for evaluation: a support vector machine trained on four fifths of the real digits.

    Attributes:
        held_out: accuracy on the remaining fifth of the real digits, from 0 to 1.
    """

    def __init__(self) -> None:
        from sklearn.model_selection import train_test_split
        from sklearn.svm import SVC

        self.images, self.labels = load_digits()
        flat = self.images.reshape(len(self.images), -1) / 255.0
        train_x, test_x, train_y, test_y = train_test_split(
            flat, self.labels, test_size=0.2, random_state=0, stratify=self.labels
        )
        self.machine = SVC(C=10.0, gamma="scale").fit(train_x, train_y)
        self.held_out = float(self.machine.score(test_x, test_y))

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of images, uint8 [B, 8, 8], that are classified as ``labels``, int64 [B]."""
        return float(self.machine.score(images.reshape(len(images), -1) / 255.0, labels))

    def memorised_share(self, images: np.ndarray, *, percentile: float = 1.0) -> float:
        """Return the share of images, uint8 [B, 8, 8], that are suspiciously close to a real digit.

        An image counts if its Euclidean distance to the nearest real digit is below the given percentile of the real
        digits' nearest-neighbour distances.
        """
        real = self.images.reshape(len(self.images), -1).astype(np.float64)
        drawn = images.reshape(len(images), -1).astype(np.float64)
        between = pairwise_distances(real, real)
        np.fill_diagonal(between, np.inf)
        threshold = np.percentile(between.min(axis=1), percentile)
        return float((pairwise_distances(drawn, real).min(axis=1) < threshold).mean())


def pairwise_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances [M, N] between the rows of ``a`` [M, D] and ``b`` [N, D]."""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0))
