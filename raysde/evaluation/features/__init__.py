"""Feature networks that compare images: Inception, a classifier, the user's own."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from raysde.aliases import find_in_former_module

    __getattr__ = find_in_former_module(__name__)
