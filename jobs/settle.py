"""The former name of jobs/tune_sampler.py, which goes on working."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["settle", *sys.argv[1:]]))
