"""The choice of the default solver."""

from raysde.sampling.solvers import SOLVERS, Solver

DEFAULT: Solver = "unipc"
"""The default solver: the most accurate within 20 evaluations on every SDE, see the table in docs/choosing.md."""
FIRST: Solver = "heun"
"""The former default, for models of that time, and where a corrector or resampling excludes multistep solvers."""


def default_solver(usual: Solver | None = None, *, corrector: str | None = None, resample: int = 0) -> Solver:
    """Return the solver for settings that name none.

    Args:
        usual: default solver of the model; None for :data:`DEFAULT`.
        corrector: name of the requested corrector; None if the solver chooses it.
        resample: number of times that each step is repeated.
    """
    chosen = usual or DEFAULT
    follows = corrector not in (None, "none") or resample > 0
    return FIRST if follows and SOLVERS[chosen].remembers else chosen
