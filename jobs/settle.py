"""ray job submit --working-dir . -- python jobs/settle.py models:/digits@candidate --data SHARDS --features judge"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["settle", *sys.argv[1:]]))
