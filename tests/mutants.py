"""Plants small mistakes in the mathematics, one at a time in a copy, and shows that the tests kill each of them.

    python tests/mutants.py [--only WORD] [--jobs 2]

A survivor is a missing test; the exit status is 1 if there is one. Not collected by pytest: it takes some ten minutes.
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
LOSS, TIMES, SAMPLER = "tests/test_losses.py", "tests/test_times.py", "tests/test_sampler.py"
PARITY, LIKELIHOOD, EMA = (
    "tests/test_parity.py",
    "tests/test_likelihood.py",
    "tests/test_posthoc.py tests/test_train.py",
)


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
    Mutant("the quadratic grid without its square", "solvers/grids.py", "_between(ends.sqrt(), steps).square()", "_between(ends, steps)", SAMPLER + " -k 'grid'"),
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
    # averages
    Mutant("the half-life as a time constant", "ema.py", "0.5 ** (", "0.3678794411714423 ** (", EMA),
    Mutant("the average's weights swapped", "ema.py", "weight = 1.0 - self.kept(", "weight = self.kept(", EMA),
    Mutant("the power's exponent off by one", "posthoc.py", "** (self.exponent + 1.0)", "** self.exponent", EMA),
    Mutant("the inner product's denominator", "posthoc.py", "/ (a + b + 1.0)", "/ (a + b + 2.0)", EMA),
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
