"""Pipeline folders of diffusers: reading them as models, and writing models as such folders."""

from raysde.pipelines.reading import convert, download_hint, is_pipeline, load
from raysde.pipelines.writing import export

__all__ = ["convert", "download_hint", "export", "is_pipeline", "load"]
