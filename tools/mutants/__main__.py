"""Plant small mistakes in copies of the project, one at a time, and check that the tests notice each.

    python -m tools.mutants [--only WORD] [--jobs 2]
    python -m tools.mutants --check

A surviving mistake means a missing test, and gives exit status 1. The tests of each mistake run until the first
failure; all mistakes take long. With --check nothing is planted: the program looks each mistake up in its definition,
and collects its tests.
"""

import argparse
import os
import sys

from tools.mutants.check import without_tests, wrong_places
from tools.mutants.lists import chosen
from tools.mutants.mutant import Mutant
from tools.mutants.plant import plant_each


def check(mutants: list[Mutant]) -> int:
    """Print outdated mistakes, and return their number."""
    wrong = wrong_places(mutants) + without_tests(mutants)
    for sentence in wrong:
        print(sentence)
    print(f"{len(mutants)} mistakes, {len(wrong)} of them out of date")
    return len(wrong)


def plant(mutants: list[Mutant], jobs: int) -> int:
    """Plant the mistakes, print the result of each, and return the number of survivors."""
    survivors = 0
    for mutant, dead, line in plant_each(mutants, jobs):
        survivors += not dead
        print(f"{'killed  ' if dead else 'SURVIVED'}  {mutant.where:44} {mutant.what:44} {line[:110]}", flush=True)
    print(f"{len(mutants)} planted, {len(mutants) - survivors} killed, {survivors} survived")
    return survivors


def main() -> None:
    """Read the command line, and plant or check the selected mistakes."""
    arguments = argparse.ArgumentParser(
        prog="python -m tools.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--only", default="", help="only mistakes with this in their name, module or package")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of mistakes planted at a time")
    arguments.add_argument("--check", action="store_true", help="check code and tests without planting")
    given = arguments.parse_args()
    try:
        mutants = chosen(given.only)
    except ValueError as error:
        arguments.error(str(error))
    wrong = check(mutants) if given.check else plant(mutants, given.jobs)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
