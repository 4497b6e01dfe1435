"""Help is printed at once: it imports nothing that takes seconds."""

import subprocess
import sys

SCRIPT = """
import contextlib, io, sys
from raysde.cli import main, build_parser
(commands,) = (action.choices for action in build_parser()._actions if action.dest == "command")
for words in ([], *([name] for name in commands)):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert said.getvalue().startswith("usage: raysde"), words
    slow = {"torch", "ray", "mlflow", "transformers", "pandas", "pydantic"} & set(sys.modules)
    assert not slow, (words, slow)
print(len(commands))
"""


def test_help_of_every_command_loads_no_library():
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) >= 19
