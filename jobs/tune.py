"""ray job submit --working-dir . -- python jobs/tune.py jobs/configs/digits.yaml --sweep jobs/sweeps/digits.yaml"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["tune", *sys.argv[1:]]))
