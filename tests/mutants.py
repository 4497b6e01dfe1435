"""Plants small mistakes in the mathematics and the data, one at a time in a copy, and shows that the tests kill each.

    python tests/mutants.py [--only WORD] [--jobs 2]

A survivor is a missing test; the exit status is 1 if there is one. Not collected by pytest: it takes some twenty minutes.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SDE, SCHEDULES, SCORE = "tests/test_sde.py", "tests/test_sde.py", "tests/test_parameterisation.py"
ADAPTED, PIPELINES = "tests/test_adapted.py", "tests/test_pipelines.py"
LOSS, TIMES, SAMPLER = "tests/test_losses.py", "tests/test_times.py", "tests/test_sampler.py"
PLAN, DATA, GROUPS, STREAM = (
    "tests/test_plan.py",
    "tests/test_data.py",
    "tests/test_row_groups.py",
    "tests/test_stream.py",
)
CONVERT, PICTURES, SOURCES = "tests/test_convert.py", "tests/test_pictures.py", "tests/test_sources.py"
PARITY, LIKELIHOOD, EMA = (
    "tests/test_parity.py",
    "tests/test_likelihood.py",
    "tests/test_posthoc.py tests/test_train.py",
)
NETWORKS, UNET, COST = "tests/test_families.py", "tests/test_networks.py", "tests/test_efficiency.py"
SHARDED = "tests/multiprocess/test_sharded.py"


REGISTRY, SERVING, TRACKING = "tests/test_registry.py", "tests/test_serving.py", "tests/test_tracking.py"
GUIDANCE, EDITING = "tests/test_guidance.py", "tests/test_editing.py"
STATISTICS, FEATURES = "tests/test_evaluation_statistics.py", "tests/test_evaluation_features.py"
SWEEP = "tests/test_sweep.py"
EVALUATION, HELD_OUT = "tests/test_evaluation.py", "tests/test_evaluation_held_out.py"
LPIPS = "tests/test_evaluation_lpips.py"
BULK, REQUESTS, SPREAD = "tests/test_bulk.py", "tests/test_requests.py", "tests/cluster/test_spread.py"
SHARES = "tests/cluster/test_shares.py tests/cluster/test_sweep.py -k 'shared_out or leave or would_wait'"
VALIDATION, GENERATION, SETTLING = "tests/test_validation.py", "tests/test_generation.py", "tests/test_settling.py"


@dataclass(frozen=True)
class Mutant:
    """A mistake: what stands in a file of raysde, what is written instead, and the tests that should notice."""

    what: str
    path: str
    old: str
    new: str
    tests: str


MUTANTS = [
    # processes
    Mutant("sub-VP's deviation as VP's", "sde/preserving.py", "return -torch.expm1(-self.beta_integral(t))\n\n    def diffusion2(self, t: Tensor) -> Tensor:\n        return self.beta(t) * ", "return torch.sqrt(-torch.expm1(-self.beta_integral(t)))\n\n    def diffusion2(self, t: Tensor) -> Tensor:\n        return self.beta(t) * ", SDE),
    Mutant("sub-VP's diffusion without its 2", "sde/preserving.py", "-torch.expm1(-2.0 * self.beta_integral(t))", "-torch.expm1(-self.beta_integral(t))", SDE),
    Mutant("VP's variance for its complement", "sde/preserving.py", "def sigma2(self, t: Tensor) -> Tensor:\n        return -torch.expm1(-self.beta_integral(t))", "def sigma2(self, t: Tensor) -> Tensor:\n        return torch.exp(-self.beta_integral(t))", SDE),
    Mutant("1 - exp instead of expm1", "sde/preserving.py", "def sigma2(self, t: Tensor) -> Tensor:\n        return -torch.expm1(-self.beta_integral(t))", "def sigma2(self, t: Tensor) -> Tensor:\n        return 1.0 - torch.exp(-self.beta_integral(t))", SDE),
    Mutant("alpha without the half", "sde/preserving.py", "return -0.5 * self.beta_integral(t)", "return -self.beta_integral(t)", SDE),
    Mutant("drift with the wrong sign", "sde/preserving.py", "return -0.5 * self.beta(t)", "return 0.5 * self.beta(t)", SDE),
    Mutant("log-SNR of sub-VP as VP's", "sde/preserving.py", "-integral - 2.0 * torch.log(", "-integral - torch.log(", SDE),
    Mutant("sub-VP's inverse off by a factor", "sde/preserving.py", "2.0 * torch.asinh(0.5 *", "2.0 * torch.asinh(", SDE),
    Mutant("VE's prior without sigma_max", "sde/exploding.py", "return self.sigma_min * math.exp(self.log_ratio * self.ceiling)", "return 1.0", SDE),
    Mutant("VE's diffusion without its 2", "sde/exploding.py", "return 2.0 * self.log_ratio * self.sigma2(t)", "return self.log_ratio * self.sigma2(t)", SDE),
    Mutant("VE's sigma_min and sigma_max swapped", "sde/exploding.py", "return self.sigma_min * torch.exp(self.log_ratio * t)", "return self.sigma_max * torch.exp(-self.log_ratio * t)", SDE),
    Mutant("EDM's diffusion in t^2", "sde/exploding.py", "return 2.0 * self.sigma_max**2 * t", "return 2.0 * self.sigma_max**2 * t * t", SDE),
    Mutant("EDM's inverse without its root", "sde/exploding.py", "return torch.exp(-0.5 * log_snr) / self.sigma_max", "return torch.exp(-log_snr) / self.sigma_max", SDE),
    Mutant("distance by the mean", "sde/exploding.py", "torch.cdist(flat, flat).max()", "torch.cdist(flat, flat).mean()", SDE),
    Mutant("flow reversed", "sde/flow.py", "def alpha(self, t: Tensor) -> Tensor:\n        return 1.0 - t", "def alpha(self, t: Tensor) -> Tensor:\n        return t.clone()", SDE),
    Mutant("flow's diffusion without its 2", "sde/flow.py", "return 2.0 * t / (1.0 - t)", "return t / (1.0 - t)", SDE),
    Mutant("flow's inverse reversed", "sde/flow.py", "torch.sigmoid(-0.5 * log_snr)", "torch.sigmoid(0.5 * log_snr)", SDE),
    Mutant("reverse drift with half the score", "sde/process.py", "return self.drift(x, t) - expand(self.diffusion2(t), x) * score", "return self.drift(x, t) - 0.5 * expand(self.diffusion2(t), x) * score", SDE),
    Mutant("probability flow with the whole score", "sde/process.py", "return self.drift(x, t) - 0.5 * expand", "return self.drift(x, t) - expand", SDE),
    Mutant("prior density without its width", "sde/process.py", "(0.5 * math.log(2.0 * math.pi) + math.log(self.prior_std))", "(0.5 * math.log(2.0 * math.pi))", SDE),
    Mutant("diffusion as its square", "sde/process.py", "return torch.sqrt(self.diffusion2(t))", "return self.diffusion2(t)", SDE),
    Mutant("deviation as variance", "sde/process.py", "return torch.sqrt(self.sigma2(t))", "return self.sigma2(t)", SDE),
    # schedules
    Mutant("the integral of beta without its half", "schedules.py", "t * (self.beta_min + 0.5 * t *", "t * (self.beta_min + t *", SCHEDULES),
    Mutant("beta halved by the cosine", "schedules.py", "return 2.0 * self.rate * torch.tan", "return self.rate * torch.tan", SCHEDULES),
    Mutant("a table's beta doubled", "schedules.py", "return self.steps * self._rate(", "return 2.0 * self.steps * self._rate(", SCHEDULES),
    Mutant("a table read one step late", "schedules.py", "ends = (1.0, *alphas_cumprod)", "ends = (1.0, *alphas_cumprod[1:], alphas_cumprod[-1] / 2)", SCHEDULES),
    # targets
    Mutant("v with its sign turned", "parameterisation.py", "return -sigma, alpha", "return sigma, -alpha", SCORE),
    Mutant("the score without its sigma", "parameterisation.py", "return zero, -1.0 / sigma", "return zero, -one", SCORE),
    Mutant("the flow's velocity reversed", "parameterisation.py", "return -one, one", "return one, -one", SCORE),
    Mutant("EDM's F for data of unit deviation", "parameterisation.py", "return sigma / size, -alpha * data_std**2 / size", "return sigma / size, -alpha / size", SCORE),
    Mutant("coefficients swapped in a conversion", "parameterisation.py", "from_value = wanted_b * alpha - wanted_a * sigma", "from_value = wanted_a * alpha - wanted_b * sigma", SCORE),
    Mutant("c_in without its root", "parameterisation.py", "return x_t / torch.sqrt(", "return x_t / (", SCORE),
    Mutant("c_noise without its quarter", "parameterisation.py", "return 0.25 * log_sigma", "return 0.5 * log_sigma", SCORE),
    Mutant("1000 t for 999 t", "parameterisation.py", "return 999.0 * t", "return 1000.0 * t", SCORE),
    # losses and times
    Mutant("likelihood weight by sigma", "losses.py", "return sde.diffusion2(t) / sde.sigma2(t)", "return sde.diffusion2(t) / sde.sigma(t)", LOSS),
    Mutant("min-SNR clamped below", "losses.py", "snr.clamp(max=min_snr_gamma)", "snr.clamp(min=min_snr_gamma)", LOSS),
    Mutant("x0's weight turned over", "losses.py", "return 1.0 / snr", "return snr", LOSS),
    Mutant("EDM's weight without the data's deviation", "losses.py", "(1.0 / snr + data_std**2) / data_std**2", "1.0 / snr + data_std**2", LOSS),
    Mutant("the whole sum for half of it", "losses.py", "0.5 * error.sum(dim=1)", "error.sum(dim=1)", LOSS),
    Mutant("the noise's scale without its square", "losses.py", "* scale).square().reshape", "* scale).abs().reshape", LOSS),
    Mutant("uncertainty that only divides", "losses.py", "loss / log_variance.exp() + log_variance", "loss / log_variance.exp()", LOSS),
    Mutant("times from 0 instead of the floor", "times.py", "return sde.train_floor + (sde.ceiling - sde.train_floor) * u", "return sde.ceiling * u", TIMES),
    Mutant("strata of the microbatch", "times.py", "places = torch.arange(index, index + count", "places = torch.arange(0, count", TIMES),
    Mutant("log-normal without its root of 2", "times.py", "math.sqrt(2.0) * torch.erfinv", "torch.erfinv", TIMES),
    Mutant("log-normal in the variance", "times.py", "sde.time_at(-2.0 * (self.mean", "sde.time_at(-1.0 * (self.mean", TIMES),
    Mutant("importance weights turned over", "times.py", "* sde.sigma2(t) / sde.diffusion2(t)", "* sde.diffusion2(t) / sde.sigma2(t)", TIMES),
    # solvers
    Mutant("Euler-Maruyama's noise by dt", "solvers/predictors.py", "math.sqrt(g2 * dt)", "math.sqrt(g2) * dt", SAMPLER + " -k 'recursion'"),
    Mutant("Euler-Maruyama with half the score", "solvers/predictors.py", "mean = (1.0 - f * dt) * x + g2 * dt *", "mean = (1.0 - f * dt) * x + 0.5 * g2 * dt *", SAMPLER + " -k 'recursion'"),
    Mutant("Euler-Maruyama's drift forwards", "solvers/predictors.py", "(1.0 - f * dt) * x", "(1.0 + f * dt) * x", SAMPLER + " -k 'recursion'"),
    Mutant("reverse diffusion with b for b^2", "solvers/predictors.py", "(2.0 - a) * x + b2 *", "(2.0 - a) * x + math.sqrt(b2) *", SAMPLER + " -k 'recursion'"),
    Mutant("ancestral noise without sigma_s / sigma_t", "solvers/predictors.py", "math.sqrt(b2) * walk.sigma[index + 1] / walk.sigma[index] *", "math.sqrt(b2) *", SAMPLER + " -k 'recursion'"),
    Mutant("ancestral mean not divided", "solvers/predictors.py", "* walk.score(x, walk.times[index])) / a", "* walk.score(x, walk.times[index])) * a", SAMPLER + " -k 'recursion'"),
    Mutant("the score asked at the next time", "solvers/walk.py", "return -self.sigma[index] * self.score(x, self.times[index])", "return -self.sigma[index] * self.score(x, self.times[min(index + 1, len(self.times) - 1)])", SAMPLER + " -k 'flows'"),
    Mutant("Tweedie without the square", "solvers/walk.py", "self.sigma[index] ** 2 * self.score", "self.sigma[index] * self.score", SAMPLER + " -k 'flows'"),
    Mutant("Langevin without the norm of the noise", "solvers/correctors.py", "(target_snr * size / norms(gradient))", "(target_snr / norms(gradient))", SAMPLER + " -k 'langevin or corrector_steps'"),
    Mutant("Langevin's noise without its root of 2", "solvers/correctors.py", "(2.0 * eta).sqrt() * z", "eta.sqrt() * z", SAMPLER + " -k 'langevin or corrector_steps'"),
    Mutant("Langevin damped by alpha, not its square", "solvers/correctors.py", "[0] ** 2\n", "[0]\n", SAMPLER + " -k 'corrector_steps'"),
    Mutant("annealed Langevin by sigma, not its square", "solvers/correctors.py", "(target_snr * walk.sigma[index]) ** 2", "target_snr**2 * walk.sigma[index]", SAMPLER + " -k 'corrector_steps'"),
    Mutant("Heun with one slope", "solvers/ode.py", "0.5 * (first + second)", "second", SAMPLER + " -k 'order or flows'"),
    Mutant("RK4's weights", "solvers/ode.py", "(first + 2.0 * (second + third) + fourth)", "(2.0 * first + (second + third) + 2.0 * fourth)", SAMPLER + " -k 'order or flows'"),
    Mutant("churn's noise without its root", "solvers/ode.py", "math.sqrt(later**2 - now**2) *", "(later**2 - now**2) *", SAMPLER + " -k 'churn'"),
    Mutant("churn divided by nothing", "solvers/ode.py", "min(churn / steps,", "min(churn,", SAMPLER + " -k 'churn'"),
    Mutant("DDIM's noise kept in the mean", "solvers/multistep.py", "max(sigma_s**2 - fresh**2, 0.0)", "sigma_s**2", SAMPLER + " -k 'ddim'"),
    Mutant("2M extrapolates backwards", "solvers/multistep.py", "return -0.5 * math.expm1(-z), 0.0", "return 0.5 * math.expm1(-z), 0.0", PARITY),
    Mutant("3M with half its parabola", "solvers/multistep.py", "1.0 - 2.0 * (math.expm1(-z) + z) / z**2", "0.5 - (math.expm1(-z) + z) / z**2", SAMPLER + " -k 'order'"),
    Mutant("the SDE solver at the flow's pace", "solvers/multistep.py", "self.pace = 2.0 if stochastic else 1.0", "self.pace = 1.0", PARITY),
    Mutant("DEIS's moments", "solvers/multistep.py", "k * moments[-1] - end**k", "moments[-1] - end**k", PARITY),
    Mutant("UniPC uncorrected", "solvers/multistep.py", "            x = self.move(start, index - 1, order, prediction)\n", "            pass\n", PARITY),
    Mutant("UniPC's factorial", "solvers/multistep.py", "factorial *= k + 1", "factorial *= k", PARITY),
    Mutant("the short walk keeps its order", "solvers/multistep.py", "left = self.steps - index if self.steps < SHORT else self.order", "left = self.order", PARITY),
    Mutant("an entry of Dormand and Prince's table", "solvers/adaptive.py", "-25360 / 2187", "-25360 / 2178", PARITY),
    Mutant("one step size for the batch", "solvers/adaptive.py", "        moved = left > 0.0\n", "        error = error.max().expand(len(error)).clone()\n        moved = left > 0.0\n", PARITY),
    Mutant("a rejected step kept", "solvers/adaptive.py", "y = torch.where(good[:, None], new, y)", "y = new", PARITY),
    Mutant("the first step over the edge", "solvers/adaptive.py", "    trial = trial.clamp(max=abs(span))\n", "", SAMPLER + " -k 'rk45'"),
    Mutant("EDM's grid with 1 / rho", "solvers/grids.py", "-2.0 * rho * torch.log", "-2.0 * torch.log", SAMPLER + " -k 'grid'"),
    Mutant("the quadratic grid without its square", "solvers/grids.py", "return torch.sqrt, torch.square", "return torch.clone, torch.clone", SAMPLER + " -k 'grid'"),
    Mutant("the last step's noise kept", "sampler.py", "    return mean\n", "    return x\n", SAMPLER + " -k 'no_noise'"),
    Mutant("sampling from N(0, 1)", "sampler.py", "x = sde.prior_std * noise(", "x = noise(", SAMPLER + " -k 'recursion'"),
    Mutant("the corrector at the old time", "sampler.py", "CORRECTORS[method.correction](walk, x, index + 1,", "CORRECTORS[method.correction](walk, x, index,", SAMPLER + " -k 'asked'"),
    Mutant("the Tweedie step one time early", "sampler.py", "walk.x0(x, len(walk.times) - 1)", "walk.x0(x, len(walk.times) - 2)", SAMPLER + " -k 'asked'"),
    # likelihood
    Mutant("prior minus the divergence", "likelihood.py", "+ gathered.mean(dim=1)", "- gathered.mean(dim=1)", LIKELIHOOD),
    Mutant("probes not averaged", "likelihood.py", "+ gathered.mean(dim=1)", "+ gathered.sum(dim=1)", LIKELIHOOD),
    Mutant("signs of 0 and 1", "likelihood.py", "(2 * coins - 1)", "coins", LIKELIHOOD),
    Mutant("the spread for the standard error", "likelihood.py", "estimates.std(dim=1) / math.sqrt(estimates.shape[1])", "estimates.std(dim=1)", LIKELIHOOD),
    Mutant("grey levels of 255", "likelihood.py", "(high - low) / 256.0", "(high - low) / 255.0", LIKELIHOOD),
    Mutant("bits for nats", "likelihood.py", "math.log(level)) / math.log(2.0)", "math.log(level))", LIKELIHOOD),
    Mutant("no dequantisation", "likelihood.py", "level * (images + noise)", "level * (images + 0.0 * noise)", LIKELIHOOD),
    Mutant("decoding forwards", "likelihood.py", "sde.ceiling, sde.train_floor, rtol=rtol", "sde.train_floor, sde.ceiling, rtol=rtol", LIKELIHOOD),
    Mutant("a straight interpolation", "likelihood.py", "near = angle < 1e-4", "near = angle < 1e4", LIKELIHOOD),
    # networks
    Mutant("zeros between pixels not made up for", "networks/resampling.py", "super().__init__(gain=4.0)\n\n    def forward", "super().__init__(gain=1.0)\n\n    def forward", NETWORKS),
    Mutant("a learned doubling's bias inside the filter", "networks/resampling.py", "return F.conv2d(h, self.depthwise(h), self.bias, padding=1, groups=h.shape[1])", "return F.conv2d(h + self.bias[:, None, None], self.depthwise(h), padding=1, groups=h.shape[1])", NETWORKS),
    Mutant("the residual output not rescaled", "networks/pyramids.py", "h = (self.grow(pyramid) + h) * self.rescale", "h = self.grow(pyramid) + h", NETWORKS),
    Mutant("features beside the image, the wrong way round", "networks/pyramids.py", "torch.cat([shown, h], dim=1)", "torch.cat([h, shown], dim=1)", NETWORKS),
    Mutant("the image shown after the skip is kept", "networks/ncsnpp.py", "            if self.shown is not None:\n                h, pyramid = self.shown(h, pyramid)\n            skips.append(h)", "            skips.append(h)\n            if self.shown is not None:\n                h, pyramid = self.shown(h, pyramid)", NETWORKS),
    Mutant("attention in every block on the way up", "networks/ncsnpp.py", "attends = block == self.size.blocks and ", "attends = ", NETWORKS),
    Mutant("queries as loud as the rest", "networks/ncsnpp.py", "gain=QUIET**0.5", "gain=1.0", NETWORKS),
    Mutant("Fourier features without 2 pi", "networks/layers.py", "angles = 2.0 * math.pi * told", "angles = told", NETWORKS),
    Mutant("modulation's shift for its scale", "networks/dit.py", "shift1, scale1, gate1,", "scale1, shift1, gate1,", NETWORKS),
    Mutant("rows for columns", "networks/dit.py", "for count in (columns, rows)", "for count in (rows, columns)", NETWORKS),
    Mutant("a caption's padding read", "networks/dit.py", "attended(self.query(tokens), key, value, self.heads, mask)", "attended(self.query(tokens), key, value, self.heads)", NETWORKS),
    Mutant("sinusoids told log sigma", "networks/ncsnpp.py", 'return "log_sigma" if self.embedding == "fourier" else "999t"', 'return "log_sigma"', NETWORKS),
    Mutant("attention that is not scaled", "networks/layers.py", " / math.sqrt(query.shape[-1])", "", UNET),
    Mutant("a mask that hides what is real", "networks/layers.py", "masked_fill(~attn_mask", "masked_fill(attn_mask", UNET),
    Mutant("a doubled image that is smoothed", "networks/layers.py", 'mode="nearest"', 'mode="bilinear"', UNET),
    Mutant("a halved image of every other pixel", "networks/layers.py", "h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)", "h, x = h[..., ::2, ::2], x[..., ::2, ::2]", UNET),
    Mutant("patches with rows and columns exchanged", "networks/unet.py", "F.pixel_unshuffle(x, self.size.patch)", "F.pixel_unshuffle(x.mT, self.size.patch).mT", UNET),
    Mutant("attention to captions that never come", "networks/unet.py", "attends and self.context is not None", "attends", UNET),
    Mutant("as many blocks up as down", "networks/unet.py", "self.size.depths[level] + 1", "self.size.depths[level]", UNET),
    Mutant("the blocks of the first level everywhere", "networks/unet.py", "range(self.size.depths[level]):", "range(self.size.depths[0]):", UNET),
    Mutant("dropout drawn anew when recomputed", "networks/layers.py", "use_reentrant=False)", "use_reentrant=False, preserve_rng_state=False)", COST),
    Mutant("checkpointing that keeps everything", "networks/layers.py", "    if not torch.is_grad_enabled():\n        return block(*inputs)\n    return checkpoint(", "    return block(*inputs)\n    return checkpoint(", COST),
    Mutant("each block compiled by itself", "networks/regional.py", "recompile_limit=VARIANTS", "recompile_limit=VARIANTS, isolate_recompiles=True", COST),
    Mutant("torch's own limit of variants", "networks/regional.py", "VARIANTS = 64", "VARIANTS = 2", COST),
    # guidance and editing
    Mutant("guidance from the strong side", "guidance.py", "guided = weak + scale * (strong[rows] - weak)", "guided = strong[rows] + scale * (strong[rows] - weak)", GUIDANCE),
    Mutant("an interval in log-SNR", "guidance.py", "noise = torch.exp(-0.5 * sde.log_snr(t))", "noise = torch.exp(-sde.log_snr(t))", GUIDANCE),
    Mutant("an interval turned over", "guidance.py", "(noise > interval[0]) & (noise <= interval[1])", "(noise <= interval[0]) | (noise > interval[1])", GUIDANCE),
    Mutant("padding that attends", "conditioning.py", "F.pad(self.mask, more)", "F.pad(self.mask, more, value=True)", GUIDANCE),
    Mutant("the posterior without its Jacobian", "posterior.py", "return score.detach() + product(solved)", "return score.detach() + self.projection.transpose(solved)", EDITING + " -k 'given_a_measurement'"),
    Mutant("the covariance without alpha", "posterior.py", "self.projection.measure(sigma.square() / alpha * product(y))", "self.projection.measure(sigma.square() * product(y))", EDITING + " -k 'given_a_measurement'"),
    Mutant("noise as its deviation", "posterior.py", "(self.noise**2 + floor)", "(self.noise + floor)", EDITING + " -k 'given_a_measurement'"),
    Mutant("gradients that are not conjugate", "posterior.py", "torch.where(going, new / size, torch.zeros_like(size)) * direction", "0.0 * direction", EDITING + " -k 'conjugate or given'"),
    Mutant("a grey that is a sum", "projections.py", "return x.mean(dim=1, keepdim=True)", "return x.sum(dim=1, keepdim=True)", EDITING + " -k 'projections'"),
    Mutant("a transpose without its scale", "projections.py", "(y * self.scale).repeat_interleave", "y.repeat_interleave", EDITING + " -k 'projections'"),
    Mutant("what is known without alpha", "editing.py", "alpha * self.known + sigma", "self.known + sigma", EDITING + " -k 'replacement or sees'"),
    Mutant("what is known without noise", "editing.py", "sigma * self.projection.measure(self.noise(x))", "0.0 * self.projection.measure(self.noise(x))", EDITING + " -k 'replacement or sees'"),
    Mutant("a start that knows nothing", "sampler.py", "x = project(x, walk.times[0])", "x = x + 0.0", EDITING + " -k 'recursion or sees'"),
    Mutant("a projection at the old time", "sampler.py", "        x, mean = step(x, index)\n        x = project(x, walk.times[index + 1])", "        x, mean = step(x, index)\n        x = project(x, walk.times[index])", EDITING + " -k 'recursion or sees'"),
    Mutant("nothing replaced after the corrector", "sampler.py", "method.target_snr, norms)\n                x = project(x, walk.times[index + 1])", "method.target_snr, norms)", EDITING + " -k 'sees'"),
    Mutant("a repeat that does not go back", "sampler.py", "step(a * x + math.sqrt(b2) * walk.noise(x), index)", "step(x, index)", EDITING + " -k 'recursion'"),
    Mutant("an end that is not what is known", "editing.py", "drawn.x if noise else replaced(drawn.x, known, projection)", "drawn.x", EDITING + " -k 'last_bit or independent'"),
    Mutant("strength counted from the noise", "solvers/grids.py", "place = round((1.0 - share) * (len(times) - 1), 9)", "place = round(share * (len(times) - 1), 9)", EDITING + " -k 'strength or sdedit'"),
    Mutant("strength in t whatever the grid", "solvers/grids.py", "torch.lerp(there(times[index]), there(times[index + 1]), place - index)", "there(torch.lerp(times[index], times[index + 1], place - index))", EDITING + " -k 'strength'"),
    Mutant("a short prompt that ends", "edits.py", "context, both = path(a, b, weights), own | other", "context, both = path(a, b, weights), own & other", EDITING + " -k 'between'"),
    # averages
    Mutant("the half-life as a time constant", "ema.py", "0.5 ** (", "0.3678794411714423 ** (", EMA),
    Mutant("the average's weights swapped", "ema.py", "weight = 1.0 - self.kept(", "weight = self.kept(", EMA),
    Mutant("the power's exponent off by one", "posthoc.py", "** (self.exponent + 1.0)", "** self.exponent", EMA),
    Mutant("the inner product's denominator", "posthoc.py", "/ (a + b + 1.0)", "/ (a + b + 2.0)", EMA),
    # which rows a step sees
    Mutant("microbatches that overlap", "data/plan.py", "number = step * self.microbatches + index", "number = step + index", PLAN),
    Mutant("every epoch in the same order", "data/plan.py", "key(self.seed, ORDER, epoch, bucket)", "key(self.seed, ORDER, bucket)", PLAN),
    Mutant("equal buckets in the same order", "data/plan.py", "key(self.seed, ORDER, epoch, bucket)", "key(self.seed, ORDER, epoch)", PLAN),
    Mutant("an order without its seed", "data/plan.py", "key(self.seed, ORDER, epoch, bucket)", "key(0, ORDER, epoch, bucket)", PLAN),
    Mutant("buckets that take turns alike in each epoch", "data/plan.py", "key(self.seed, BUCKETS, epoch)", "key(self.seed, BUCKETS)", PLAN),
    Mutant("a bucket's rows without those before it", "data/plan.py", "sum(self.buckets[:bucket])", "sum(self.buckets[1:bucket])", PLAN),
    Mutant("the end of a bucket's epoch dropped", "data/plan.py", "epoch * rows // self.microbatch for", "epoch * (rows // self.microbatch) for", PLAN),
    Mutant("windows shuffled alike", "data/plan.py", "key(seed, int(number))", "key(seed, 0)", PLAN),
    Mutant("the last window as long as the others", "data/plan.py", "length = min(window, rows - start)", "length = window", PLAN),
    Mutant("the short chunk one row longer", "data/plan.py", "beyond = places >= border + rest", "beyond = places > border + rest", PLAN),
    Mutant("the short chunk always first", "data/plan.py", "border = key(seed, CHUNKS, 0) % (full + 1) * chunk", "border = 0", PLAN),
    Mutant("epochs counted in microbatches", "data/plan.py", "return step * self.batch / self.rows", "return step * self.microbatch / self.rows", PLAN),
    Mutant("the last run of steps past the end", "data/plan.py", "yield first, min(first + steps, stop)", "yield first, first + steps", PLAN),
    Mutant("a rank's microbatches as neighbours", "data/plan.py", "list(range(rank, self.microbatches, world))", "list(range(self.microbatches))[rank * self.microbatches // world : (rank + 1) * self.microbatches // world]", STREAM),
    Mutant("a cycle walked once", "data/permutation.py", "while (outside := result >= count).any():", "if (outside := result >= count).any():", PLAN),
    Mutant("half of the bits left as they are", "data/permutation.py", "low = low ^ (_mixed(high + word) & low_mask)", "pass", PLAN),
    Mutant("the same rounds for every key", "data/permutation.py", "return np.random.Philox(key=key).random_raw(ROUNDS)", "return np.random.Philox(key=0).random_raw(ROUNDS)", PLAN),
    Mutant("the end of a shard taken from its beginning", "data/layout.py", "self.starts[tail] + self.full[tail] + positions", "self.starts[tail] + positions", PLAN),
    Mutant("a held-out row trained on", "data/layout.py", "np.arange(len(self.held)), positions, side=\"right\")", "np.arange(len(self.held)), positions, side=\"left\")", PLAN),
    Mutant("the same rows held out for every seed", "data/layout.py", "key(seed, SPLIT)", "key(0, SPLIT)", PLAN),
    Mutant("all rows held out", "data/layout.py", "if count >= everything.count > 0:", "if count > everything.count > 0:", PLAN),
    Mutant("rows read in the order asked for", "data/layout.py", "order = np.lexsort((number, shard))", "order = np.arange(len(rows))", GROUPS),
    Mutant("no validation taken for the usual one", "data/split.py", "VALIDATION_ROWS if validation is None else validation", "validation or VALIDATION_ROWS", DATA + " -k 'own_split'"),
    Mutant("a window of a row group and a part", "data/split.py", "max(1, wanted // group) * group", "max(group, wanted)", DATA + " -k 'window'"),
    Mutant("a window of 256 MiB of pixels", "data/split.py", "sum(shard.bytes for shard in manifest.shards) / max(1, manifest.rows)", "manifest.channels * 64.0", DATA + " -k 'window'"),
    # rows to microbatches
    Mutant("crops uniform in length, not area", "data/augment.py", "float(np.sqrt(low**2 + (high**2 - low**2) * draw[SCALE]))", "float(low + (high - low) * draw[SCALE])", DATA + " -k 'crops'"),
    Mutant("random crops from the middle", "data/augment.py", "if self.crop == \"random\" else (0.5, 0.5)", "if self.crop == \"center\" else (0.5, 0.5)", DATA + " -k 'crops'"),
    Mutant("draws without the microbatch", "data/augment.py", "key(seed, AUGMENT, step, index)", "key(seed, AUGMENT, step)", DATA + " -k 'augmentation'"),
    Mutant("draws without the step", "data/augment.py", "key(seed, AUGMENT, step, index)", "key(seed, AUGMENT, index)", DATA + " -k 'caption'"),
    Mutant("draws up to 2", "data/augment.py", "* 2.0**-53", "* 2.0**-52", DATA + " -k 'uniform'"),
    Mutant("a stored shape shown whole", "data/augment.py", "return self.scale != (1.0, 1.0)", "return False", DATA + " -k 'part_of_an_image'"),
    Mutant("a box larger than the picture", "data/geometry.py", "unit = min(width / cols, height / rows) * scale", "unit = max(width / cols, height / rows) * scale", PICTURES + " -k 'boxes'"),
    Mutant("the short side for the long one", "data/geometry.py", "if fit == \"short\" else max(picture.size)", "if fit == \"pad\" else max(picture.size)", PICTURES + " -k 'proportions'"),
    Mutant("height and width swapped", "data/geometry.py", "picture.resize((shape[1], shape[0])", "picture.resize((shape[0], shape[1])", PICTURES + " -k 'border or proportions'"),
    Mutant("padding below alone", "data/geometry.py", "(size - height) // 2))", "0))", PICTURES + " -k 'padding'"),
    Mutant("buckets of the ratios' squares", "data/geometry.py", "(side(size / ratio**0.5), side(size * ratio**0.5))", "(side(size / ratio), side(size * ratio))", PICTURES + " -k 'buckets'"),
    Mutant("the nearest bucket on its side", "data/geometry.py", "ratio = size[0] / size[1]", "ratio = size[1] / size[0]", PICTURES + " -k 'bucket'"),
    Mutant("a JPEG's shape compared the wrong way", "data/decode.py", "decode_jpeg_header(data)[:2]\n        check_pixels(width, height)\n        check_shape((height, width), out)", "decode_jpeg_header(data)[:2]\n        check_pixels(width, height)\n        check_shape((width, height), out)", DATA + " -k 'decode'"),
    Mutant("any depth of a PNG", "data/decode.py", "if (depth, colour) != (8, GREY if channels == 1 else RGB):", "if colour != (GREY if channels == 1 else RGB):", PICTURES + " -k 'shards_kind'"),
    Mutant("long sides for many pixels", "data/decode.py", "if width * height > MAX_PIXELS:", "if max(width, height) > MAX_PIXELS:", PICTURES + " -k 'bombs'"),
    Mutant("a JPEG too long for its decoder", "data/decode.py", "MAX_JPEG = 65_500", "MAX_JPEG = 65_535", CONVERT + " -k 'jpeg'"),
    Mutant("row groups forgotten in the order of reading", "data/row_groups.py", "        self.kept.move_to_end((shard, number))\n", "", GROUPS),
    Mutant("a budget that is never given back", "data/row_groups.py", "self.bytes -= self.kept.popitem(last=False)[1][1]", "self.kept.popitem(last=False)", GROUPS),
    Mutant("one row group kept", "data/row_groups.py", "LEAST = 2", "LEAST = 1", GROUPS),
    Mutant("any Parquet file for a shard", "data/row_groups.py", "same = known is not None or fits(", "same = True or fits(", GROUPS),
    Mutant("no label taken for the first class", "data/reader.py", "found = -1 if label is None", "found = 0 if label is None", DATA + " -k 'part_of_an_image'"),
    Mutant("a bucket shown at the square's size", "data/reader.py", "(square is not None and stored != square)", "(square is None and stored != square)", DATA + " -k 'bucket or shape'"),
    Mutant("a data set that changed under a run", "data/reader.py", "if manifest.fingerprint != fingerprint:", "if not manifest.fingerprint:", DATA + " -k 'survives'"),
    Mutant("a caption by the nearest number", "data/vectors.py", "return int(draw * count)", "return round(draw * (count - 1))", DATA + " -k 'caption'"),
    Mutant("every part of the held-out rows is the first", "data/batches.py", "yield microbatch(0, index, part,", "yield microbatch(0, 0, part,", DATA + " -k 'held_out'"),
    Mutant("held-out rows left over by the ranks", "data/batches.py", "for start in range(0, len(alike), size):", "for start in range(0, len(alike) - size + 1, size):", DATA + " -k 'held_out'"),
    Mutant("all microbatches of a block with the first's pixels", "data/blocks.py", "offset=int(ends[0]))", "offset=0)", DATA + " -k 'blocks'"),
    Mutant("a slice of a block read from its beginning", "data/blocks.py", "[images.offset + begin : images.offset + end + 1]", "[begin : end + 1]", DATA + " -k 'blocks'"),
    Mutant("two microbatches of a step taken for one", "data/blocks.py", " & (index[begin:] == index[begin])", "", DATA + " -k 'blocks'"),
    Mutant("widths for heights in a block", "data/blocks.py", "batch.images.shape[2]) for batch", "batch.images.shape[3]) for batch", DATA + " -k 'buckets'"),
    Mutant("a canvas painted over", "data/blocks.py", "start, self.used = self.used, self.used + math.prod(shape)", "start, self.used = 0, self.used + math.prod(shape)", STREAM),
    Mutant("one vector too many", "data/batches.py", "[None, :] < tokens[:, None]", "[None, :] <= tokens[:, None]", "tests/test_precompute.py -k 'rows_of_a_microbatch'"),
    # the stream
    Mutant("a block's steps counted from the first", "cluster/stream.py", "first = self.start + number", "first = number", STREAM),
    Mutant("steps past the end of the stream", "cluster/stream.py", "min(first + self.block_steps, self.stop))", "first + self.block_steps)", STREAM),
    Mutant("the last steps in no block", "cluster/stream.py", "-(-(self.stop - self.start) // self.block_steps)", "(self.stop - self.start) // self.block_steps", STREAM),
    Mutant("blocks dealt out anew in each run of steps", "cluster/stream.py", "if j % world == rank]", "if j % total % world == rank]", STREAM),
    Mutant("any microbatch for the one expected", "cluster/stream.py", "if found != [(step, index) for index in mine]:", "if None in found:", STREAM),
    # samples to shards
    Mutant("validation of twice the share", "data/convert.py", "validation * 2**64", "validation * 2**65", CONVERT + " -k 'share'"),
    Mutant("the hash of what is stored", "data/convert.py", "hashlib.blake2b(sample.data,", "hashlib.blake2b(data,", CONVERT + " -k 'row_tells'"),
    Mutant("a row's sides swapped", "data/convert.py", "\"width\": stored.width,\n        \"height\": stored.height,", "\"width\": stored.height,\n        \"height\": stored.width,", CONVERT + " -k 'row_tells'"),
    Mutant("sizes as stored for sizes as found", "data/convert.py", "count(stored, picture.size,", "count(stored, stored.size,", CONVERT + " -k 'row_tells'"),
    Mutant("a shard one row too long", "data/convert.py", "len(waiting[kind]) == rules.shard_rows", "len(waiting[kind]) > rules.shard_rows", CONVERT + " -k 'cut'"),
    Mutant("shards of any size", "data/convert.py", " or sizes[kind] >= SHARD_BYTES", "", CONVERT + " -k 'cut'"),
    Mutant("a part's shards written over each other", "data/convert.py", "taken[kind] += 1", "taken[kind] += 0", CONVERT + " -k 'cut'"),
    Mutant("small JPEG stored as JPEG again", "data/convert.py", "max(stored.size) > SMALL", "max(stored.size) >= SMALL", CONVERT + " -k 'encodings'"),
    Mutant("a file kept that training cannot read", "data/convert.py", "stored is found and is_readable(data, stored)", "stored is found and is_plain(data, stored)", CONVERT + " -k 'only_pillow'"),
    Mutant("the wrong way of EXIF's two quarter turns", "data/pictures.py", "6: Image.Transpose.ROTATE_270", "6: Image.Transpose.ROTATE_90", PICTURES + " -k 'upright'"),
    Mutant("the lower bits of sixteen", "data/pictures.py", "astype(np.uint16) >> 8)", "astype(np.uint16) & 255)", PICTURES + " -k 'sixteen'"),
    Mutant("transparency told by the upper bits", "data/pictures.py", "np.where(values == clear, 0, 255)", "np.where(values >> 8 == clear >> 8, 0, 255)", PICTURES + " -k 'sixteen'"),
    Mutant("white under what is transparent", "data/pictures.py", "(background, background, background, 255)", "(255, 255, 255, 255)", PICTURES + " -k 'transparen'"),
    Mutant("a photograph on its side kept as it is", "data/pictures.py", "return same and upright and kind", "return same and kind", PICTURES + " -k 'upright'"),
    Mutant("a palette taken for its colours", "data/pictures.py", "same = opened.mode == picture.mode and opened.size", "same = opened.size", PICTURES + " -k 'plain'"),
    Mutant("an animation kept as it is", "data/pictures.py", " and getattr(opened, \"n_frames\", 1) == 1", "", PICTURES + " -k 'animation'"),
    Mutant("variance for deviation", "data/statistics.py", "std = np.sqrt(np.maximum(self.squares[:channels] / max(1, self.pixels) - mean**2, 0.0))", "std = np.maximum(self.squares[:channels] / max(1, self.pixels) - mean**2, 0.0)", CONVERT + " -k 'statistics'"),
    Mutant("the longest caption of the last part", "data/statistics.py", "self.longest = max(self.longest, other.longest)", "self.longest = other.longest", CONVERT + " -k 'statistics'"),
    Mutant("the last class without a number", "data/statistics.py", "range(int(largest) + 1)", "range(int(largest))", CONVERT + " -k 'label_order'"),
    Mutant("9 for the largest of 9 and 10", "data/statistics.py", "max(labels, key=lambda label: (len(label), label))", "max(labels)", CONVERT + " -k 'label_order'"),
    Mutant("captions counted for rows", "data/collection.py", "captions=statistics.captioned", "captions=statistics.captions", CONVERT + " -k 'reading_back'"),
    Mutant("validation between the training shards", "data/collection.py", "shards.sort(key=lambda shard: shard.split)", "shards.sort(key=lambda shard: shard.file[::-1])", CONVERT + " -k 'reading_back'"),
    Mutant("the first of each copy counted too", "data/collection.py", "sum(len(keys) - 1 for keys in repeated)", "sum(len(keys) for keys in repeated)", CONVERT + " -k 'report'"),
    # the data set on disk
    Mutant("hashes not compared", "data/shards.py", "sha256_of(manifest.file(number))) != shard.sha256:", "sha256_of(manifest.file(number))) == \"\":", DATA + " -k 'damaged'"),
    Mutant("a longer file passed", "data/shards.py", "if info.size != shard.bytes:", "if info.size < shard.bytes:", DATA + " -k 'anew'"),
    Mutant("row groups of any size", "data/shards.py", "full = all(count == row_group for", "full = all(count <= max(found) for", GROUPS),
    Mutant("columns not compared", "data/shards.py", "if columns(opened.schema_arrow) != columns(schema):", "if not columns(opened.schema_arrow):", GROUPS),
    Mutant("a tokenizer that has seen validation", "data/shards.py", "if shard.split != \"train\":", "if shard.split == \"test\":", DATA + " -k 'tokenizer'"),
    Mutant("data known by its first shard", "data/manifest.py", "join(shard.sha256 for shard in self.shards)", "join(shard.sha256 for shard in self.shards[:1])", DATA + " -k 'survives'"),
    Mutant("rows of both splits in a layout", "data/manifest.py", "enumerate(self.shards) if shard.split == split]", "enumerate(self.shards)]", DATA + " -k 'own_split'"),
    Mutant("a manifest's rows not counted", "data/manifest.py", "if manifest.rows != content[\"rows\"]:", "if manifest.rows < 0:", DATA + " -k 'damaged_data_sets'"),
    Mutant("folders of different settings in one place", "data/derived.py", "json.dumps([sha256, *settings])", "json.dumps([sha256])", "tests/test_precompute.py -k 'half_precision_is'"),
    Mutant("embeddings whose damage is not seen", "data/derived.py", "or (hashes and sha256_of(where) != file.sha256)", "", "tests/test_precompute.py -k 'stale'"),
    Mutant("an unfinished folder taken for a whole one", "data/derived.py", " if exists(child(path, \"manifest.json\"))]", "]", "tests/test_precompute.py -k 'unfinished'"),
    # sources
    Mutant("a part one row group too long", "data/sources/listing.py", "if held and held + size > least:", "if held > least:", SOURCES + " -k 'row_groups'"),
    Mutant("rows numbered from each part's own first", "data/sources/parquet.py", "first, count = sum(sizes[:start]), sum", "first, count = start, sum", SOURCES + " -k 'row_groups'"),
    Mutant("a class number one too large", "data/sources/parquet.py", "if not 0 <= value < len(classes):", "if not 0 <= value <= len(classes):", SOURCES + " -k 'bad_rows'"),
    Mutant("labels of the first part for all", "data/sources/arrays.py", "self.labels.rows(self.first, stop)", "self.labels.rows(0, stop - self.first)", SOURCES + " -k 'same_images'"),
    Mutant("an idx file's numbers the wrong way round", "data/sources/ndarray.py", "0x0C: \">i4\"", "0x0C: \"<i4\"", SOURCES + " -k 'same_images'"),
    Mutant("an array read from its header on", "data/sources/ndarray.py", "source.seek(self.offset + start * width)", "source.seek(start * width)", SOURCES + " -k 'same_images'"),
    Mutant("names that end at their last dot", "data/sources/webdataset.py", "stem, _, extension = base.partition(\".\")", "stem, _, extension = base.rpartition(\".\")", SOURCES + " -k 'first_dot'"),
    Mutant("an archive that ends early", "data/sources/webdataset.py", "                raise tarfile.ReadError(\"there is more after the mark of the end\")", "                break", SOURCES + " -k 'end_of_an_archive'"),
    Mutant("a template over captions that are there", "data/sources/descriptions.py", "label is not None and not captions:", "label is not None:", SOURCES + " -k 'class_name'"),
    Mutant("labels through floating point", "data/sources/descriptions.py", "return str(int(value))", "return str(int(float(value)))", SOURCES + " -k 'any_size'"),
    Mutant("the captions of an image's last row", "data/sources/metadata.py", "Said(before.captions + captions,", "Said(captions,", SOURCES + " -k 'same_samples'"),
    Mutant("classes one after the other", "data/sources/folder.py", "hashlib.blake2b(item.name.encode(), digest_size=16).digest()", "item.name[:3].encode()", SOURCES + " -k 'random_order'"),
    Mutant("folders of splits taken for classes", "data/sources/folder.py", "if {name.lower() for name in names} <= SPLITS:", "if {name.lower() for name in names} < SPLITS - {\"train\"}:", SOURCES + " -k 'lone_folder'"),
    # diffusers
    Mutant("a discrete step counted from 1", "parameterisation.py", "sde.discrete_steps * t - 1.0", "sde.discrete_steps * t", ADAPTED + " -k 'step'"),
    Mutant("the table's length forgotten", "sde/preserving.py", "return len(self.alphas_cumprod) or 1000", "return 1000", ADAPTED + " -k 'step'"),
    Mutant("the captions' mask dropped", "networks/adapted.py", "encoder_attention_mask=real", "encoder_attention_mask=None", ADAPTED + " -k 'padding'"),
    Mutant("the variance for the mean", "networks/adapted.py", "output[0][:, :channels]", "output[0][:, -channels:]", ADAPTED + " -k 'variance'"),
    Mutant("class 0 for none", "networks/adapted.py", "torch.full((len(x),), self.classes,", "torch.full((len(x),), 0,", ADAPTED + " -k 'one_class'"),
    Mutant("a projection never told", "networks/adapted.py", "pooled if self.projects else None", "0.0 * pooled if self.projects else None", ADAPTED + " -k 'projection'"),
    Mutant("sigma divided by twice", "contract.py", "    if contract.divides:\n", "    if contract.centres and contract.divides:\n", ADAPTED + " -k 'named'"),
    Mutant("999 t in a thousand steps", "pipelines/steps.py", "dtype=torch.float64) / 999.0", "dtype=torch.float64) / 1000.0", PIPELINES + " -k 'ddim_images'"),
    Mutant("beta of alpha for beta of alpha^2", "pipelines/steps.py", "-torch.expm1(2.0 * log_alpha.diff(", "-torch.expm1(log_alpha.diff(", PIPELINES + " -k 'ddim_images'"),
    Mutant("an imported table's floor", "pipelines/steps.py", ", sample_floor=1.0 / len(table))", ")", PIPELINES + " -k 'ddpm_folder'"),
    Mutant("an imported VE without its floor", "pipelines/reading.py", ", sample_floor=config.sampling_eps", "", PIPELINES + " -k 'ncsnpp_folder'"),
    Mutant("a prediction left out", "pipelines/writing.py", '        "prediction_type": PREDICTIONS[spec.target],\n', "", PIPELINES + " -k 'ddim_images'"),
    Mutant("the corrector's step left out", "pipelines/writing.py", "        snr=target_snr,\n", "", PIPELINES + " -k 've_scheduler'"),
    Mutant("the first class for none", "pipelines/writing.py", "padding = rows[-1:]", "padding = rows[:1]", PIPELINES + " -k 'transformer_draws'"),
    # sharding
    Mutant("gradients exchanged with every microbatch", "sharding.py", "forward.set_requires_gradient_sync(last)", "forward.set_requires_gradient_sync(True)", SHARDED + " -k 'rows_alone'"),
    Mutant("the last gradients left at home", "sharding.py", "forward.set_requires_gradient_sync(last)", "forward.set_requires_gradient_sync(not last)", SHARDED + " -k 'losses_are'"),
    Mutant("the whole network gathered at once", "sharding.py", "blocks = network.blocks() if isinstance(network, Repeating) else []", "blocks: list[nn.Module] = []", SHARDED + " -k 'rows_alone'"),
    Mutant("rows dealt out by the floor", "sharding.py", "each = -(-rows // mesh.size())", "each = max(1, rows // mesh.size())", SHARDED + " -k 'any_number or moments'"),
    Mutant("the norm of a rank's own gradients", "optim.py", "norm = whole(torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0.0 else math.inf))", "own = [p.grad.to_local() if hasattr(p.grad, 'to_local') else p.grad for p in parameters]\n    norm = torch.nn.utils.get_total_norm(own)\n    torch.nn.utils.clip_grads_with_norm_(parameters, clip if clip > 0.0 else math.inf, norm)", SHARDED + " -k 'losses_are'"),
    Mutant("weights gathered in float32 always", "sharding.py", "param_dtype=None if dtype == torch.float32 else dtype", "param_dtype=None", SHARDED + " -k 'bf16'"),
    Mutant("a scalar sharded", "sharding.py", "if parameter.ndim == 0:", "if parameter.ndim < 0:", SHARDED + " -k 'cannot_be_sharded'"),
    Mutant("a spare batch counted", "validation.py", "yield spare, False", "yield spare, True", SHARDED + " -k 'losses_are'"),
    Mutant("pieces that begin at row 0", "pieces.py", "{\"saved_offsets\": [start, ", "{\"saved_offsets\": [0, ", SHARDED + " -k 'any_number or moments or torch_reads'"),
    Mutant("every rank reads the first rows", "pieces.py", "local = self.rows(name, *rows_of(target))", "local = self.rows(name, 0, rows_of(target)[1] - rows_of(target)[0])", SHARDED + " -k 'any_number or goes_on_sharded'"),
    Mutant("missing rows passed over", "pieces.py", "if place < stop:\n            raise", "if place < start:\n            raise", SHARDED + " -k 'no_file_holds'"),
    Mutant("lengths in elements for bytes", "pieces.py", "end = place + tensor.numel() * tensor.element_size()", "end = place + tensor.numel()", SHARDED + " -k 'library or whole_tensors'"),
    Mutant("the live weights for their average", "distributed_checkpoint.py", "with state.ema.swapped():", "if folder:", SHARDED + " -k 'moments'"),
    Mutant("hashes of the first rank's files alone", "distributed_checkpoint.py", "found = world.sum(digests).cpu().tolist()", "found = digests.cpu().tolist()", SHARDED + " -k 'any_number or moments'"),
    Mutant("profiles left out of sharded checkpoints", "distributed_checkpoint.py", "    if state.profiles:\n        kinds[", "    if not state.profiles:\n        kinds[", SHARDED + " -k 'moments'"),
    Mutant("a rank's state in an exported model", "checkpoint.py", "for name in (kind, f\"{kind}.safetensors\")", "for name in (f\"{kind}.safetensors\",)", SHARDED + " -k 'is_a_model'"),
    Mutant("only the ends of a range of workers looked at", "config.py", "for workers in range(least, most + 1) if made % workers", "for workers in {least, most} if made % workers", SHARDED + " -k 'unequal'"),
    # evaluation
    Mutant("a covariance by N", "evaluation/frechet.py", "/ (self.count - 1)", "/ self.count", STATISTICS + " -k 'fid or moments'"),
    Mutant("a trace without its 2", "evaluation/frechet.py", "second.trace() - 2.0 * quarter", "second.trace() - quarter", STATISTICS + " -k 'fid'"),
    Mutant("the product of the covariances for its root", "evaluation/frechet.py", "middle = root @ second @ root", "middle = first @ second", STATISTICS + " -k 'gaussians'"),
    Mutant("sums that forget a part's count", "evaluation/frechet.py", "return Moments(self.count + other.count,", "return Moments(self.count,", STATISTICS + " -k 'moments'"),
    Mutant("an influence without its map", "evaluation/frechet.py", " - (centred @ factor.T).square().sum(dim=1)", "", STATISTICS + " -k 'error_of_fid'"),
    Mutant("an influence of the mean without its 2", "evaluation/frechet.py", "return 2.0 * centred @ shift", "return centred @ shift", STATISTICS + " -k 'error_of_fid'"),
    Mutant("real images taken for the population", "evaluation/frechet.py", " + other.var().item() / real.count", "", STATISTICS + " -k 'error_of_fid'"),
    Mutant("the maps of FID swapped", "evaluation/frechet.py", "less_quarter @ root, quarter @ inverse", "quarter @ inverse, less_quarter @ root", STATISTICS + " -k 'error_of_fid'"),
    Mutant("few images allowed", "evaluation/frechet.py", "(2 if allow_few else LEAST)", "2", STATISTICS + " -k 'few'"),
    Mutant("a square for KID's cube", "evaluation/kernel.py", "first.shape[1] + 1.0) ** 3", "first.shape[1] + 1.0) ** 2", STATISTICS + " -k 'kid'"),
    Mutant("a biased KID", "evaluation/kernel.py", "(each.sum() - each.diagonal().sum()) / (n * (n - 1))", "each.sum() / (n * n)", STATISTICS + " -k 'kid'"),
    Mutant("drawn subsets before real ones", "evaluation/kernel.py", "first = real[torch.randperm(len(real), generator=generator)[:size]]\n        second = drawn[torch.randperm(len(drawn), generator=generator)[:size]]", "second = drawn[torch.randperm(len(drawn), generator=generator)[:size]]\n        first = real[torch.randperm(len(real), generator=generator)[:size]]", STATISTICS + " -k 'kid'"),
    Mutant("a jackknife that keeps the pairs of who is left out", "evaluation/kernel.py", "own.sum() - 2.0 * own", "own.sum() - own", STATISTICS + " -k 'kid'"),
    Mutant("a jackknife as a plain variance", "evaluation/kernel.py", "((n - 1) / n *", "(1.0 / (n * (n - 1)) *", STATISTICS + " -k 'kid'"),
    Mutant("KID's subsets without an error", "evaluation/kernel.py", "spread**2 / subsets + jackknife", "jackknife", STATISTICS + " -k 'kid'"),
    Mutant("kernels with themselves kept", "evaluation/kernel.py", "sums(drawn, drawn) - diagonal(drawn)", "sums(drawn, drawn)", STATISTICS + " -k 'kid'"),
    Mutant("the inception score unshuffled", "evaluation/inception_score.py", "logits[torch.randperm(len(logits), generator=generator)]", "logits", STATISTICS + " -k 'inception'"),
    Mutant("the inception score's error by N parts", "evaluation/inception_score.py", "math.sqrt(variance) / len(parts)", "math.sqrt(variance)", STATISTICS + " -k 'inception'"),
    Mutant("divergences turned round", "evaluation/inception_score.py", "(p * (log_p - p.mean(dim=0).log()))", "(p.mean(dim=0) * (p.mean(dim=0).log() - log_p))", STATISTICS + " -k 'inception'"),
    Mutant("an image its own neighbour", "evaluation/neighbours.py", "kthvalue(neighbours + 1)", "kthvalue(neighbours)", STATISTICS + " -k 'precision'"),
    Mutant("the radii of the wrong set", "evaluation/neighbours.py", "(apart(block, features) <= radii).any(dim=1)", "(apart(block, features) <= radii).any(dim=0)", STATISTICS + " -k 'precision'"),
    Mutant("precision for recall", "evaluation/figures.py", "covered(drawn, real), len(drawn)", "covered(real, drawn), len(drawn)", EVALUATION + " -k 'recall'"),
    Mutant("Wilson without its middle", "evaluation/intervals.py", "(share + z2 / (2 * count)) / (1.0 + z2 / count)", "share", STATISTICS + " -k 'wilson'"),
    Mutant("parts in the order they came", "evaluation/parts.py", "sorted(parts, key=lambda part: part.first)", "list(parts)", STATISTICS + " -k 'parts'"),
    Mutant("average pools that count the padding", "evaluation/inception.py", "count_include_pad=False", "count_include_pad=True", FEATURES + " -k 'pools'"),
    Mutant("the last block pooled by average", "evaluation/inception.py", 'block_e(2048, "maximum")', 'block_e(2048, "average")', FEATURES + " -k 'pools'"),
    Mutant("logits with their bias", "evaluation/inception.py", "features @ self.fc.weight.T", "self.fc(features)", FEATURES + " -k 'classifier'"),
    Mutant("code run without permission", "evaluation/features.py", "    if not allow_code:\n", "    if False:\n", FEATURES + " -k 'permission'"),
    Mutant("whole objects unpickled", "evaluation/features.py", "weights_only=True)\n    except UnpicklingError", "weights_only=False)\n    except UnpicklingError", FEATURES + " -k 'more_than_tensors'"),
    Mutant("a hash of names alone", "hashing.py", "        digest.update(value.detach()", "        digest.copy().update(value.detach()", FEATURES + " -k 'hash'"),
    Mutant("every image drawn as the first", "evaluation/drawn.py", "first=first, progress", "first=0, progress", EVALUATION + " -k 'image_i or torchmetrics'"),
    Mutant("labels counted from each part's start", "evaluation/drawn.py", "self.conditions.drawing(range(first, first + count))", "self.conditions.drawing(range(count))", EVALUATION + " -k 'image_i or torchmetrics'"),
    Mutant("always the first caption", "evaluation/rows.py", "turn % len(self.captions[group])", "0", EVALUATION + " -k 'turn'"),
    Mutant("the first rows for a random part", "evaluation/rows.py", "rows.numbered(chosen(rows, count or rows.count, seed))", "rows.numbered(np.arange(min(count or rows.count, rows.count)))", EVALUATION + " -k 'once_each'"),
    Mutant("a reference of another network found", "evaluation/reference.py", "[FORMAT, KEPT, *asdict(self).values()]", "[FORMAT, KEPT, self.split]", EVALUATION + " -k 'kept'"),
    Mutant("a judge that is never right", "evaluation/figures.py", "int((read == asked).sum())", "int((read != asked).sum())", EVALUATION + " -k 'accuracy'"),
    Mutant("a judge trained on what it is tested on", "evaluation/judge.py", "images, labels = labelled(reader, train, shape)", "images, labels = labelled(reader, held, shape)", EVALUATION + " -k 'judge_reads'"),
    Mutant("rows noised to another time", "evaluation/held_out.py", "start = alpha * x0[rows] + sigma *", "start = x0[rows] + sigma *", HELD_OUT + " -k 'noise_at'"),
    Mutant("denoising from the ceiling", "evaluation/held_out.py", "torch.cat([grid.new_tensor([held.t]), grid[grid < held.t]])", "grid", HELD_OUT + " -k 'noise_at'"),
    Mutant("PSNR of the known part", "evaluation/held_out.py", "psnr(images[place], truth[place])", "psnr(images, truth)", HELD_OUT + " -k 'hole'"),
    Mutant("training rows for held-out ones", "evaluation/held_out.py", 'selected(reader.manifest, "validation", count)', 'selected(reader.manifest, "train", count)', HELD_OUT + " -k 'held_out_ones'"),
    Mutant("one dequantisation for every part", "evaluation/held_out.py", "randomness.EVALUATION, 4, first)", "randomness.EVALUATION, 4)", HELD_OUT + " -k 'likelihoods'"),
    Mutant("LPIPS of pooled layers", "evaluation/lpips.py", "SEEN = (1, 4, 7, 9, 11)", "SEEN = (2, 5, 7, 9, 11)", LPIPS + " -k 'torchmetrics'"),
    Mutant("LPIPS of colours as they are", "evaluation/lpips.py", "(images.float() / 127.5 - 1.0 - self.shift) / self.scale", "images.float() / 127.5 - 1.0", LPIPS + " -k 'torchmetrics'"),
    Mutant("LPIPS of layers of any length", "evaluation/lpips.py", "found.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())", "found.append(x)", LPIPS + " -k 'torchmetrics'"),
    Mutant("LPIPS in which channels count alike", "evaluation/lpips.py", "(head.reshape(-1, 1, 1) * (one - two).square())", "(head.mean() * (one - two).square())", LPIPS + " -k 'torchmetrics'"),
    Mutant("a higher LPIPS is better", "evaluation/held_out.py", 'name == "bpd" or name.endswith("lpips")', 'name == "bpd"', LPIPS + " -k 'command'"),
    Mutant("LPIPS of no network", "evaluation/evaluate.py", "lpips.hash if lpips is not None and", '"" if', LPIPS + " -k 'command'"),
    Mutant("any weights for LPIPS", "evaluation/lpips.py", "if wanted != {name: value.shape for name, value in kept.items()}:", "if not kept:", LPIPS + " -k 'absent'"),
    # work that is shared, and files of prompts
    Mutant("a cache that travels", "data/row_groups.py", '"kept": OrderedDict(), "footers": OrderedDict(), "bytes": 0', "", GROUPS + " -k 'behind'"),
    Mutant("real images counted from each part's start", "evaluation/reference.py", "self.rows[first : first + count]", "self.rows[:count]", EVALUATION + " -k 'of_all_rows'"),
    Mutant("a reference in the order of its rows", "evaluation/reference.py", "return rows[np.random.Generator(np.random.Philox(key=0)).permutation(len(rows))]", "return rows", EVALUATION + " -k 'of_all_rows'"),
    Mutant("no CPU for data tasks", "cluster/shares.py", 'return 0 if stream == "worker" and self.joined else self.nodes', "return 0", SHARES),
    Mutant("a CPU kept for tasks that there are not", "cluster/shares.py", 'return 0 if stream == "worker" and self.joined else self.nodes', "return self.nodes", SHARES),
    Mutant("a CPU that the machine has not", "cluster/shares.py", 'stream == "worker" and self.joined', 'stream == "worker"', SHARES),
    Mutant("more CPUs beside GPUs than there are", "cluster/shares.py", "min(BESIDE_GPU, max(1, spare // cluster.gpus)) if cluster.gpus else BESIDE_GPU", "BESIDE_GPU", SHARES),
    Mutant("workers that wait forever", "cluster/shares.py", "if not cluster.joined:\n        raise ValueError(f\"{said}", "if False:\n        raise ValueError(f\"{said}", SHARES),
    Mutant("workers that wait without a word", "cluster/shares.py", "    print(f\"{said}", "    str(f\"{said}", SHARES),
    Mutant("the most workers for those that have to be", "cluster/train.py", "share, run.config.resources.least, lower", "share, run.config.resources.most, lower", SHARES),
    Mutant("room counted over all nodes at once", "cluster/placement.py", "if sum(unit // each for unit in units) >= workers", "if sum(units) // each >= workers", SPREAD + " -k 'room'"),
    Mutant("more workers than units, each with one", "cluster/placement.py", "return 1.0 / -(-workers // sum(units))", "return 1.0", SPREAD + " -k 'room'"),
    Mutant("a lost stretch forgotten", "cluster/evaluate.py", "                left.appendleft(stretch)\n", "                pass\n", SPREAD + " -k 'replaced'"),
    Mutant("lost as often as it likes", "cluster/evaluate.py", "if self.lost[stretch] > (", "if False and self.lost[stretch] > (", SPREAD + " -m slow -k 'kills_every'"),
    Mutant("every part's images drawn as the first", "bulk.py", "            first=first,\n", "            first=0,\n", BULK + " -k 'raysde_sample'"),
    Mutant("prompts counted from each part's start", "bulk.py", "rows, asked = slice(first, first + count), self.requests", "rows, asked = slice(0, count), self.requests", BULK + " -k 'raysde_sample'"),
    Mutant("parts that cut batches", "bulk.py", "self.batch * max(1, self.images_per_part // self.batch)", "self.images_per_part", BULK + " -k 'raysde_sample'"),
    Mutant("the command's seed for every row", "bulk.py", "self.seed if each is None else each", "self.seed", BULK + " -k 'of_its_own'"),
    Mutant("the command's negative for every row", "bulk.py", "other if each is None else each", "other", BULK + " -k 'of_its_own'"),
    Mutant("the first seed for every image", "drawing.py", "zip(seeds[rows], range(", "zip(seeds[:1] * (rows.stop - start), range(", BULK + " -k 'of_its_own'"),
    Mutant("all parts drawn again", "bulk.py", "if part not in done]", "if True]", BULK + " -k 'again'"),
    Mutant("images of other settings kept", "bulk.py", "if found.get(key) != wanted.get(key):", "if False:", BULK + " -k 'its_key'"),
    Mutant("weights of no account", "hashing.py", " + weights_hash(module)", "", BULK + " -k 'weights'"),
    Mutant("files of others taken over", "bulk.py", "if system.get_file_info(pafs.FileSelector(inside, allow_not_found=True)):", "if False:", BULK + " -k 'left_alone'"),
    Mutant("an empty file taken for an image", "data/gallery.py", " if info.size}", "}", BULK + " -k 'again'"),
    Mutant("a file for a whole one", "data/gallery.py", "return bool(opened.metadata.num_rows == count)", "return True", BULK + " -k 'fewer_rows'"),
    Mutant("said before it is so", "data/gallery.py", '    write_bytes(child(place, "metadata.jsonl"), lines.encode())\n', "", BULK + " -k 'folders or again'"),
    Mutant("any label below the last", "data/requests.py", "if not 0 <= label < classes:", "if not label < classes:", REQUESTS + " -k 'cannot_draw'"),
    Mutant("blank cells taken for text", "data/requests.py", " or (isinstance(value, str) and not value.strip())", "", REQUESTS),
    Mutant("the prompts alone make the hash", "data/requests.py", "[self.count, self.prompts, self.labels, self.seeds, self.negatives]", "[self.count, self.prompts]", REQUESTS + " -k 'hash'"),
    Mutant("lines that end at any separator", "data/requests.py", 'lines.removesuffix("\\n").split("\\n")', "lines.splitlines()", REQUESTS + " -k 'lines'"),
    # models by name
    Mutant("figures of any model promoted", "registry/promotion.py", "        subject.check(version.tags.get(WEIGHTS), generation_of(version), who)\n", "        pass\n", REGISTRY + " -k 'another_model'"),
    Mutant("figures of any model kept", "registry/models.py", "            subject.check(found.tags.get(WEIGHTS), generation_of(found), source)\n", "            pass\n", REGISTRY + " -k 'another_model'"),
    Mutant("figures of any checkpoint kept", "registry/models.py", '        subject.check(description.files["ema.safetensors"], description.spec.dump()["generation"], source)\n', "        pass\n", REGISTRY + " -k 'another_checkpoint'"),
    Mutant("a report of nothing in particular", "figures.py", "    if not isinstance(content, dict):\n        return None\n    try:", '    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):\n        return None\n    try:', REGISTRY + " -k 'does_not_say'"),
    Mutant("the value alone decides", "registry/promotion.py", "if over.low <= 0.0:", "if over.value <= 0.0:", REGISTRY + " -k 'not_better'"),
    Mutant("no better is good enough", "registry/promotion.py", "if over.low <= 0.0:", "if over.low < 0.0:", REGISTRY + " -k 'not_better'"),
    Mutant("a lower accuracy is better", "figures.py", "(other, figure) if better == \"lower\" else (figure, other)", "(other, figure)", REGISTRY + " -k 'higher or sides'"),
    Mutant("intervals that must not touch", "figures.py", "below = math.hypot(first.value - first.low, second.high - second.value)", "below = (first.value - first.low) + (second.high - second.value)", REGISTRY + " -k 'rarely'"),
    Mutant("a margin from the sides that look away", "figures.py", "below = math.hypot(first.value - first.low, second.high - second.value)", "below = math.hypot(first.high - first.value, second.value - second.low)", REGISTRY + " -k 'sides'"),
    Mutant("figures of any number of samples", "figures.py", "\"samples\": \"number of samples\", ", "", REGISTRY + " -k 'compared'"),
    Mutant("figures of any network", "figures.py", "\"features\": \"feature network\", ", "", REGISTRY + " -k 'compared'"),
    Mutant("figures of any data", "figures.py", ", \"data\": \"data\"}", "}", REGISTRY + " -k 'compared'"),
    Mutant("a refused candidate with tags", "registry/promotion.py", "    figures = recorded(version) if found is None else dict(found)\n", "    figures = recorded(version) if found is None else dict(found)\n    record(client, version, figures)\n", REGISTRY + " -k 'not_better'"),
    Mutant("the reason of an earlier promotion", "registry/promotion.py", "if key.startswith(GATE) and", "if False and", REGISTRY + " -k 'forced'"),
    Mutant("an alias of the wrong version", "registry/promotion.py", "client.set_registered_model_alias(version.name, alias, version.version)", "client.set_registered_model_alias(version.name, alias, \"1\")", REGISTRY + " -k 'takes_the_alias'"),
    Mutant("the weights of any step for the same", "registry/models.py", "and tags.items() <= version.tags.items()", "and tags.keys() <= version.tags.keys()", REGISTRY + " -k 'registered_once'"),
    Mutant("another run's version", "registry/models.py", "if run_id in (None, version.run_id) and", "if", REGISTRY + " -k 'two_runs'"),
    Mutant("one page of versions", "registry/models.py", "    while page.token:\n        page = search(page.token)\n        found += page\n", "", REGISTRY + " -k 'pages'"),
    Mutant("tables made by several processes at once", "tracking/store.py", "        fcntl.flock(lock, fcntl.LOCK_EX)\n", "", TRACKING + " -k 'many_writers'"),
    Mutant("an experiment made twice", "tracking/runs.py", "            if found is None:\n                raise error", "            raise error", REGISTRY + " -k 'made_once'"),
    Mutant("every request's first image", "serving.py", "first=numbers[rows.start],", "first=0,", SERVING + " -k 'any_image'"),
    Mutant("rows drawn together that do not count up", "serving.py", "if after != before + 1]", "if after < before]", SERVING + " -k 'count_up'"),
    Mutant("no guidance unless it is asked for", "generation.py", "return 2.0 if told", "return 1.0 if told", GENERATION + " -k 'before or evaluation'"),
    Mutant("served images of nothing led to nothing", "serving.py", "usual_guidance(told=False)", "usual_guidance(told=True)", GENERATION + " -k 'pyfunc_guides'"),
    Mutant("figures without the guidance that is served", "evaluation/evaluate.py", "settings=spelled_out(own, given, told=conditional)", "settings=spelled_out(own, given, told=False)", GENERATION + " -k 'evaluation'"),
    Mutant("code that nobody allowed", "serving.py", ".get(\"allow_code\", False))", ".get(\"allow_code\", True))", SERVING + " -k 'allowed'"),
    # sweeps
    Mutant("halving that lets the worst go on", "sweep/halving.py", "100.0 / self.reduction", "100.0 - 100.0 / self.reduction", SWEEP + " -k 'halving'"),
    Mutant("a rung that a trial passes twice", "sweep/halving.py", "if budget < rung or trial in values:", "if budget < rung:", SWEEP + " -k 'halving'"),
    Mutant("a diverged trial that goes on", "sweep/halving.py", "                return True\n", "                return False\n", SWEEP + " -k 'diverged'"),
    Mutant("steps reported twice", "sweep/sweep.py", "step <= trial.last.step", "step < trial.last.step", SWEEP + " -k 'killed_anywhere'"),
    Mutant("running trials forgotten by a restart", "sweep/sweep.py", 'if trial.state == "running"]', 'if trial.state == "waiting"]', SWEEP + " -k 'killed_anywhere'"),
    Mutant("early stopping that forgets", "sweep/sweep.py", "        self._replay()\n", "", SWEEP + " -k 'killed_anywhere'"),
    Mutant("the order of reports lost", "sweep/sweep.py", "Report(self.reported, step", "Report(0, step", SWEEP + " -k 'in_their_order'"),
    Mutant("a later end that counts", "sweep/sweep.py", '        if trial.state != "running":\n            return\n', "", SWEEP + " -k 'first_end'"),
    Mutant("stopped trials ranked among whole ones", "sweep/ranking.py", '"stopped": 1', '"stopped": 0', SWEEP + " -k 'rank'"),
    Mutant("the best recipe with paths of here", "sweep/ranking.py", '"path": location(recipe.data.path)', '"path": recipe.data.path', SWEEP + " -k 'best_recipe'"),
    Mutant("a log range drawn evenly", "sweep/space.py", 'if self.kind == "log":', 'if self.kind == "logarithmic":', SWEEP + " -k 'draws'"),
    Mutant("a random search with repeats", "sweep/search.py", ".permutation(space.size)", ".integers(space.size, size=space.size)", SWEEP + " -k 'twice'"),
    Mutant("a grid that misses combinations", "sweep/space.py", "divmod(number, len(axis.values))", "divmod(number, max(1, len(axis.values) - 1))", SWEEP + " -k 'grid'"),
    Mutant("a sweep that changes under way", "sweep/ledger.py", "        if old == new:\n            continue\n", "        continue\n", SWEEP + " -k 'must_not_change'"),
    # validation, a model's own settings, and finding them
    Mutant("noise of a place in the microbatch", "validation.py", "randomness.VALIDATION, int(row)) for row in batch.rows]", "randomness.VALIDATION, place) for place, row in enumerate(batch.rows)]", VALIDATION + " -k 'number_alone'"),
    Mutant("bins that drown each other", "validation.py", "(errors / linear).mean()", "(errors.sum() / linear.sum())", VALIDATION + " -k 'posteriors'"),
    Mutant("unreached noise asked at the nearest", "validation.py", "torch.where(found.reached, found.denoising, linear)", "found.denoising", VALIDATION + " -k 'reach'"),
    Mutant("errors in the model's own units", "validation.py", "(loss * (scale * sigma / alpha)", "(loss * (sigma / alpha)", VALIDATION + " -k 'data_range'"),
    Mutant("bins of the model's own units", "validation.py", " + 2.0 * math.log(scale)", "", VALIDATION + " -k 'data_range'"),
    Mutant("variance about black and white's middle", "validation.py", "power - mean.square()", "power", VALIDATION + " -k 'scores_one'"),
    Mutant("always the middle of a bin", "validation.py", "low + (high - low) * places", "low + (high - low) * 0.5 * places.sign()", VALIDATION + " -k 'posteriors'"),
    Mutant("another solver with the own one's steps", "generation.py", "if not (foreign and name in METHOD)", "if True", GENERATION + " -k 'given or completed'"),
    Mutant("another solver without the own guidance", "generation.py", "if not (foreign and name in METHOD)", "if not foreign", GENERATION + " -k 'given or completed'"),
    Mutant("the model's own over what is given", "generation.py", "return {**kept, **given}", "return {**given, **kept}", GENERATION + " -k 'given'"),
    Mutant("guidance away from nothing to nothing", "drawing.py", "own = self.spec.generation if told else unguided(self.spec.generation)", "own = self.spec.generation", GENERATION + " -k 'nothing_are_not'"),
    Mutant("equal weights for the same version", "registry/models.py", "same = version.tags.get(GENERATION) == tags.get(GENERATION)", "same = True", GENERATION + " -k 'tells_settings'"),
    Mutant("a card of other weights", "checkpoint.py", "\"checkpoint.json\", *CARDS)", "\"checkpoint.json\")", GENERATION + " -k 'tells_settings'"),
    Mutant("requests answered by everybody's defaults", "serving.py", '(None, own.get("solver")) if own else (20, "heun")', '(20, "heun")', GENERATION + " -k 'pyfunc'"),
    Mutant("a report that leaves the settings out", "evaluation/evaluate.py", "settings=spelled_out(own, given, told=conditional)", "settings=given", GENERATION + " -k 'evaluation'"),
    Mutant("held-out rows by everybody's defaults", "evaluation/evaluate.py", "settings=spelled_out(own, given, told=conditional)", "settings=given", HELD_OUT + " -k 'own_settings'"),
    Mutant("figures of equal weights for the same", "figures.py", "(self.weights, self.generation) != (weights, generation)", "self.weights != weights", GENERATION + " -k 'figures_are_of'"),
    Mutant("a report that does not say what was told", "evaluation/evaluate.py", "overrides(own, given, told=conditional)", "None", HELD_OUT + " -k 'own_settings'"),
    Mutant("figures by any settings", "figures.py", '"overrides": "choice', '"metric": "choice', REGISTRY + " -k 'compared'"),
    Mutant("figures of any size", "figures.py", " {size}", "", REGISTRY + " -k 'beside'"),
    Mutant("figures of any noise", "figures.py", 'startswith("denoised")', 'startswith("none")', REGISTRY + " -k 'beside'"),
    Mutant("steps of the model's own for every solver", "serving.py", '(None, own.get("solver"))', '(own.get("steps"), own.get("solver"))', GENERATION + " -k 'pyfunc'"),
    Mutant("a negative prompt without the own guidance", "commands/sample.py", "args.negative is not None or ", "", GENERATION + " -k 'led_away'"),
    Mutant("a share beyond its interval", "evaluation/intervals.py", "max(share, min(1.0, middle + half))", "min(1.0, middle + half)", STATISTICS + " -k 'wilson'"),
    Mutant("any code for the same network", "evaluation/features.py", "hash=code_hash(found)", "hash=found.hash", FEATURES + " -k 'hash'"),
    Mutant("one temporary name for all", "evaluation/store.py", ".{uuid4().hex}.part", ".part", EVALUATION + " -k 'at_once'"),
    Mutant("one temporary name for all files", "data/filesystems.py", ".{uuid4().hex}.part", ".part", EVALUATION + " -k 'at_once'"),
    Mutant("a settled model measured by its own settings", "settling/study.py", "generation={}))", "generation=model.spec.generation))", SETTLING + " -k 'candidate_alone'"),
    Mutant("a winner guided by everybody's default", "commands/settle.py", '({"guidance": won.drawing.get("guidance", 1.0)} if spec.conditional else {})', "{}", SETTLING + " -k 'without_it'"),
    Mutant("a winner with the settings before", "commands/settle.py", "return won.drawing | (", "return spec.generation | won.drawing | (", SETTLING + " -k 'before'"),
    Mutant("a figure in whose eyes it may be", "settling/study.py", "self.network, self.seed", "self.features, self.seed", SETTLING + " -k 'feature_network'"),
    Mutant("ties by value alone", "settling/halving.py", "better).low <= 0.0]", "better).value <= 0.0]", SETTLING + " -k 'cheapest'"),
    Mutant("the dearest of the tied", "settling/halving.py", "return min(tied, key", "return max(tied, key", SETTLING + " -k 'cheapest'"),
    Mutant("a cheap tie that is dropped", "settling/halving.py", "return kept if now in kept else [*kept[:-1], now]", "return kept", SETTLING + " -k 'third'"),
    Mutant("the worse third goes on", "settling/halving.py", "sign = 1.0 if better == \"lower\" else -1.0", "sign = 1.0", SETTLING + " -k 'cheapest'"),
    Mutant("guidance that costs nothing", "settling/space.py", "(1.0 + len(guided) / len(times))", "1.0", SETTLING + " -k 'cost or count'"),
    Mutant("guidance that costs everywhere", "settling/space.py", "(1.0 + len(guided) / len(times))", "(2.0 if drawing.get(\"guidance\", 1.0) != 1.0 else 1.0)", SETTLING + " -k 'pays'"),
    Mutant("settings that nothing reads", "settling/space.py", "name in chosen and name in read and", "name in chosen and", SETTLING + " -k 'combination'"),
    Mutant("every round from other noise", "settling/study.py", "seed=self.seed,", "seed=samples,", SETTLING + " -k 'same_noise'"),
    Mutant("a round's figure for another's", "settling/study.py", "self.reference, samples]", "self.reference]", SETTLING + " -k 'same_noise'"),
    # what waits for a server
    Mutant("entries of an error dropped", "outbox.py", "if self.refused(error):", "if True:", TRACKING + " -k 'tried_again'"),
    Mutant("a batch refused for one of its entries", "outbox.py", "if len(batch) == 1:", "if batch:", TRACKING + " -k 'waits'"),
    Mutant("an outbox that is drained before it is sent", "outbox.py", "            self._deliver(batch)\n            with self.changed:\n                self.gone += len(batch)\n                self.changed.notify_all()\n", "            with self.changed:\n                self.gone += len(batch)\n                self.changed.notify_all()\n            self._deliver(batch)\n", TRACKING + " -k 'waits'"),
    Mutant("steps logged again after a restart", "tracking/tracker.py", "if steps.get(key, -1) < line[\"step\"]:", "if True:", TRACKING + " -k 'never_logged_twice'"),
    Mutant("a spool that forgets", "tracking/tracker.py", "        for line in lines:\n            self.lines.put(line)\n", "", TRACKING + " -k 'dead_process'"),
    Mutant("pictures that are forgotten", "tracking/tracker.py", "            self.images.put(path)\n", "            pass\n", TRACKING + " -k 'wait_on_disk'"),
    Mutant("a new time for what is sent again", "tracking/tracker.py", "Metric(key, value, line[\"time\"], line[\"step\"])", "Metric(key, value, int(1000 * time.time()), line[\"step\"])", TRACKING + " -k 'lost'"),
    Mutant("a spool thrown away with entries in it", "tracking/tracker.py", "        if not self.lines.close(timeout):\n            return False\n", "        self.lines.close(timeout)\n", TRACKING + " -k 'next_process'"),
]  # fmt: skip


def killed(mutant: Mutant) -> tuple[Mutant, bool, str]:
    """Whether the tests fail with the mistake planted, and their last line."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("raysde", "tests", "jobs"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "raysde" / mutant.path
        text = path.read_text()
        if text.count(mutant.old) != 1:
            return mutant, False, f"found {text.count(mutant.old)} times in {mutant.path}: the script is out of date"
        path.write_text(text.replace(mutant.old, mutant.new))
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *shlex.split(mutant.tests)]
        try:
            ended = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600, check=False
            )
        except subprocess.TimeoutExpired:
            return mutant, True, "ran for ten minutes"
        failures = [line for line in ended.stdout.splitlines() if line.startswith("FAILED")]
        return mutant, ended.returncode == 1 and bool(failures), (failures or ended.stdout.splitlines()[-1:] or [""])[0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", default="", help="only mistakes whose name or file holds this")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    given = arguments.parse_args()
    chosen = [mutant for mutant in MUTANTS if given.only in mutant.what or given.only in mutant.path]
    survivors = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        for mutant, dead, line in pool.map(killed, chosen):
            survivors += not dead
            print(f"{'killed  ' if dead else 'SURVIVED'}  {mutant.path:24} {mutant.what:44} {line[:110]}", flush=True)
    print(f"{len(chosen)} planted, {len(chosen) - survivors} killed, {survivors} survived")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
