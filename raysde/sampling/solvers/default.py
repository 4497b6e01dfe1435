"""The solver where nobody names one."""

from raysde.sampling.solvers import SOLVERS, Solver

DEFAULT: Solver = "unipc"
"""The closest of all to the exact answer in at most 20 evaluations, whatever the process: docs/choosing.md has the
table."""
FIRST: Solver = "heun"
"""The default before there was another, which models from then keep; and where steps of the default cannot be taken
together with a corrector or taken again, since it remembers earlier ones."""


def default_solver(usual: Solver | None = None, *, corrector: str | None = None, resample: int = 0) -> Solver:
    """Return the solver for settings that name none.

    Args:
        usual: default of the model that draws; None for :data:`DEFAULT`.
        corrector: name of the corrector that is asked for, None if that is left to the solver.
        resample: times that each step is taken again.
    """
    chosen = usual or DEFAULT
    follows = corrector not in (None, "none") or resample > 0
    return FIRST if follows and SOLVERS[chosen].remembers else chosen
