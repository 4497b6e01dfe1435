"""ray job submit --working-dir . -- python jobs/evaluate.py models:/digits@candidate --data SHARDS --workers 8"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
