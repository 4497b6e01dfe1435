"""Import and export of models as pipeline folders of diffusers."""

from raysde.interop.export_pipeline import export
from raysde.interop.import_pipeline import convert, download_hint, is_pipeline, load

__all__ = ["convert", "download_hint", "export", "is_pipeline", "load"]
