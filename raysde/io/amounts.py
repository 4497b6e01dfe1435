"""Numbers of things in sentences."""


def amount(count: int, noun: str) -> str:
    """Return a number with its noun: 1 class, 2 classes."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"
