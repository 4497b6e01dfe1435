"""ray job submit --working-dir . -- python jobs/tune_sampler.py models:/digits@candidate --data SHARDS"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["tune-sampler", *sys.argv[1:]]))
