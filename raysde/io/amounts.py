"""Counts in sentences."""


def amount(count: int, noun: str) -> str:
    """Return a count with its noun in the right number: 1 class, 2 classes."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"
