"""Plant small mistakes in the mathematics and the data, one at a time in a copy, and show that the tests kill each.

    python -m tools.mutants [--only WORD] [--jobs 2]
    python -m tools.mutants --check

A survivor is a missing test; the exit status is 1 if there is one. The tests of each mistake run until one fails, so
that all mistakes take long. With --check nothing is planted: each mistake is looked up in the definition that it names,
and its tests are collected.
"""

import argparse
import os
import sys

from tools.mutants.check import without_tests, wrong_places
from tools.mutants.lists import chosen
from tools.mutants.mutant import Mutant
from tools.mutants.plant import plant_each


def check(mutants: list[Mutant]) -> int:
    """Print what is out of date, and return the number of such mistakes."""
    wrong = wrong_places(mutants) + without_tests(mutants)
    for sentence in wrong:
        print(sentence)
    print(f"{len(mutants)} mistakes, {len(wrong)} of them out of date")
    return len(wrong)


def plant(mutants: list[Mutant], jobs: int) -> int:
    """Plant the mistakes, print what becomes of each, and return the number of survivors."""
    survivors = 0
    for mutant, dead, line in plant_each(mutants, jobs):
        survivors += not dead
        print(f"{'killed  ' if dead else 'SURVIVED'}  {mutant.where:44} {mutant.what:44} {line[:110]}", flush=True)
    print(f"{len(mutants)} planted, {len(mutants) - survivors} killed, {survivors} survived")
    return survivors


def main() -> None:
    """Read the command line, and plant or check the mistakes chosen."""
    arguments = argparse.ArgumentParser(
        prog="python -m tools.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--only", default="", help="only mistakes whose name, module or package holds this")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), help="mistakes planted at a time")
    arguments.add_argument("--check", action="store_true", help="look up code and tests, and plant nothing")
    given = arguments.parse_args()
    try:
        mutants = chosen(given.only)
    except ValueError as error:
        arguments.error(str(error))
    wrong = check(mutants) if given.check else plant(mutants, given.jobs)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
