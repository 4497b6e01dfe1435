"""Forward SDEs  dx = f(t) x dt + g(t) dw  on t in [0, 1]: t = 0 is data, t = 1 is noise.

Every process is linear and Gaussian, so one pair of numbers describes it: ``x_t = alpha * x0 + sigma * eps`` with
``alpha, sigma = sde.marginal(t)``. No loss, solver or likelihood looks at the SDE's class.

Times are tensors of any shape; ``x`` may have any shape whose leading dimension is the batch. :func:`expand` broadcasts
a time of shape [B] against x of shape [B, ...].

Sources: Song et al. 2021 (arXiv 2011.13456) for VP, sub-VP and VE; Nichol and Dhariwal 2021 (arXiv 2102.09672) for the
cosine schedule; Karras et al. 2022 (arXiv 2206.00364) for EDM; Lipman et al. 2023 (arXiv 2210.02747) for Flow.
"""

from raysde.sde.flow import Flow
from raysde.sde.process import SDE, Score, expand
from raysde.sde.ve import EDM, VE
from raysde.sde.vp import VP, SubVP

AnySDE = VP | SubVP | VE | EDM | Flow

__all__ = ["EDM", "SDE", "VE", "VP", "AnySDE", "Flow", "Score", "SubVP", "expand"]
