"""Former name of jobs/tune_sampler.py, kept so that old commands still work."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["settle", *sys.argv[1:]]))
