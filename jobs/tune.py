"""ray job submit --working-dir . -- python jobs/tune.py digits --sweep digits"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["tune", *sys.argv[1:]]))
