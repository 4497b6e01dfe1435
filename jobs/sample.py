"""ray job submit --working-dir . -- python jobs/sample.py models:/digits@candidate --prompts-file FILE --workers 8"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from raysde.cli import main

sys.exit(main(["sample", *sys.argv[1:]]))
