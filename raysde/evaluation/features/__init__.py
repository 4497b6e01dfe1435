"""Networks that images are compared through: Inception, a classifier, networks of your own."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:
    from raysde.aliases import former_module

    __getattr__ = former_module(__name__)
