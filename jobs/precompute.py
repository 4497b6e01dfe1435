"""ray job submit --working-dir . -- python jobs/precompute.py SHARDS --text ENCODER"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["precompute", *sys.argv[1:]]))
