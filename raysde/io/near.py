"""Suggestions for misspelt names."""

import difflib
import re
from collections.abc import Iterable, Mapping

LEAST = 0.65
"""Minimum similarity, from 0 to 1, of a suggested name."""
WITHIN = 0.1
"""Maximum difference in similarity between the best name and the other suggestions."""
SHOWN = 3


def find_nearest(given: str, known: Iterable[str], meanings: Mapping[str, str] | None = None) -> list[str]:
    """Return the known names most similar to ``given``, best first, at most three.

    Args:
        meanings: descriptions of known names. They count too: ``train.learning_rate`` suggests ``train.lr``, described
            as learning rate.
    """
    texts = meanings or {}
    likeness = {name: _measure_likeness(given, name, texts.get(name, "")) for name in known}
    best = max(likeness.values(), default=0.0)
    found = [name for name, value in likeness.items() if value >= max(LEAST, best - WITHIN)]
    return sorted(found, key=lambda name: (-likeness[name], len(name), name))[:SHOWN]


def did_you_mean(given: str, known: Iterable[str], meanings: Mapping[str, str] | None = None) -> str:
    """Return the "did you mean" part of a message with the names of :func:`find_nearest`; empty if there are none."""
    found = find_nearest(given, known, meanings)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _measure_likeness(given: str, name: str, meaning: str) -> float:
    """Return the similarity of two names from 0 to 1: by letters, by letters of the last part, or by meaning."""
    given, name = given.lower().replace("++", "pp"), name.lower()
    home, _, last = given.rpartition(".")
    other, _, own = name.rpartition(".")
    same = 0.05 * (home == other)
    spelled = max(0.78 * _letter_likeness(given, name), 0.95 * _letter_likeness(last, own) + same)
    if min(len(own), len(last)) > 3 and (own in last or last in own):
        spelled = max(spelled, 0.75 + same)
    words = re.sub(r"[_-]+", " ", last)
    clause = re.split(r"[;:,(.]", meaning.lower())[0].strip()
    if len(words) > 2 and words == clause:
        return max(spelled, 0.95 + same)
    if len(words) > 2 and re.search(rf"\b{re.escape(words)}\b", clause):
        return max(spelled, 0.65 + same)
    return spelled


def _letter_likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
