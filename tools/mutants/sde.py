"""Mistakes in raysde/sde/."""

from tools.mutants.mutant import Mutant

PARAMETERISATION = "tests/sde/test_parameterisation.py"
PROCESSES = "tests/sde/test_process.py tests/sde/test_schedules.py tests/sde/test_flow.py tests/sde/test_ve.py"

MUTANTS = [
    Mutant("flow reversed", "raysde.sde.flow:Flow.alpha", "        return 1.0 - t", "        return t.clone()", PROCESSES),
    Mutant("flow's diffusion without its 2", "raysde.sde.flow:Flow.diffusion2", "return 2.0 * t / (1.0 - t)", "return t / (1.0 - t)", PROCESSES),
    Mutant("flow's inverse reversed", "raysde.sde.flow:Flow.time_at", "torch.sigmoid(-0.5 * log_snr)", "torch.sigmoid(0.5 * log_snr)", PROCESSES),
    Mutant("v with its sign turned", "raysde.sde.parameterisation:target_coefficients", "return -sigma, alpha", "return sigma, -alpha", PARAMETERISATION),
    Mutant("the score without its sigma", "raysde.sde.parameterisation:target_coefficients", "return zero, -1.0 / sigma", "return zero, -one", PARAMETERISATION),
    Mutant("the flow's velocity reversed", "raysde.sde.parameterisation:target_coefficients", "return -one, one", "return one, -one", PARAMETERISATION),
    Mutant("EDM's F for data of unit deviation", "raysde.sde.parameterisation:target_coefficients", "return sigma / size, -alpha * data_std**2 / size", "return sigma / size, -alpha / size", PARAMETERISATION),
    Mutant("coefficients swapped in a conversion", "raysde.sde.parameterisation:convert_target", "from_value = wanted_b * alpha - wanted_a * sigma", "from_value = wanted_a * alpha - wanted_b * sigma", PARAMETERISATION),
    Mutant("c_in without its root", "raysde.sde.parameterisation:Preconditioning.network_input", "return x_t / torch.sqrt(", "return x_t / (", PARAMETERISATION),
    Mutant("c_noise without its quarter", "raysde.sde.parameterisation:Preconditioning.network_time", "return 0.25 * log_sigma", "return 0.5 * log_sigma", PARAMETERISATION),
    Mutant("1000 t for 999 t", "raysde.sde.parameterisation:Preconditioning.network_time", "return 999.0 * t", "return 1000.0 * t", PARAMETERISATION),
    Mutant("a discrete step counted from 1", "raysde.sde.parameterisation:Preconditioning.network_time", "sde.discrete_steps * t - 1.0", "sde.discrete_steps * t", "tests/networks/test_diffusers.py -k 'step'"),
    Mutant("reverse drift with half the score", "raysde.sde.process:SDE.reverse_drift", "return self.drift(x, t) - expand(self.diffusion2(t), x) * score", "return self.drift(x, t) - 0.5 * expand(self.diffusion2(t), x) * score", PROCESSES),
    Mutant("probability flow with the whole score", "raysde.sde.process:SDE.probability_flow", "return self.drift(x, t) - 0.5 * expand", "return self.drift(x, t) - expand", PROCESSES),
    Mutant("prior density without its width", "raysde.sde.process:SDE.prior_log_prob", "(0.5 * math.log(2.0 * math.pi) + math.log(self.prior_std))", "(0.5 * math.log(2.0 * math.pi))", PROCESSES),
    Mutant("diffusion as its square", "raysde.sde.process:SDE.diffusion", "return torch.sqrt(self.diffusion2(t))", "return self.diffusion2(t)", PROCESSES),
    Mutant("deviation as variance", "raysde.sde.process:SDE.sigma", "return torch.sqrt(self.sigma2(t))", "return self.sigma2(t)", PROCESSES),
    Mutant("time zero of every process", "raysde.sde.process:SDE.__post_init__", "(floor == 0.0 and not self.noisy_at_zero)", "False", "tests/sde/test_process.py -k 'impossible'"),
    Mutant("the integral of beta without its half", "raysde.sde.schedules:LinearBeta.integral", "t * (self.beta_min + 0.5 * t *", "t * (self.beta_min + t *", PROCESSES),
    Mutant("beta halved by the cosine", "raysde.sde.schedules:CosineBeta.beta", "return 2.0 * self.rate * torch.tan", "return self.rate * torch.tan", PROCESSES),
    Mutant("a table's beta doubled", "raysde.sde.schedules:TableBeta.beta", "return self.steps * self._rate(", "return 2.0 * self.steps * self._rate(", PROCESSES),
    Mutant("a table read one step late", "raysde.sde.schedules:TableBeta.__init__", "ends = (1.0, *alphas_cumprod)", "ends = (1.0, *alphas_cumprod[1:], alphas_cumprod[-1] / 2)", PROCESSES),
    Mutant("VE's prior without sigma_max", "raysde.sde.ve:VE.prior_std", "return self.sigma_min * math.exp(self.log_ratio * self.ceiling)", "return 1.0", PROCESSES),
    Mutant("VE's diffusion without its 2", "raysde.sde.ve:VE.diffusion2", "return 2.0 * self.log_ratio * self.sigma2(t)", "return self.log_ratio * self.sigma2(t)", PROCESSES),
    Mutant("VE's sigma_min and sigma_max swapped", "raysde.sde.ve:VE.sigma", "return self.sigma_min * torch.exp(self.log_ratio * t)", "return self.sigma_max * torch.exp(-self.log_ratio * t)", PROCESSES),
    Mutant("EDM's diffusion in t^2", "raysde.sde.ve:EDM.diffusion2", "return 2.0 * self.sigma_max**2 * t", "return 2.0 * self.sigma_max**2 * t * t", PROCESSES),
    Mutant("EDM's inverse without its root", "raysde.sde.ve:EDM.time_at", "return torch.exp(-0.5 * log_snr) / self.sigma_max", "return torch.exp(-log_snr) / self.sigma_max", PROCESSES),
    Mutant("distance by the mean", "raysde.sde.ve:VE.for_data", "torch.cdist(flat, flat).max()", "torch.cdist(flat, flat).mean()", PROCESSES),
    Mutant("time zero without noise", "raysde.sde.ve:VE", "noisy_at_zero: ClassVar[bool] = True", "noisy_at_zero: ClassVar[bool] = False", "tests/sampling/test_likelihood.py -k 'time_zero'"),
    Mutant("sub-VP's deviation as VP's", "raysde.sde.vp:SubVP.sigma", "return -torch.expm1(-self.beta_integral(t))", "return torch.sqrt(-torch.expm1(-self.beta_integral(t)))", PROCESSES),
    Mutant("sub-VP's diffusion without its 2", "raysde.sde.vp:SubVP.diffusion2", "-torch.expm1(-2.0 * self.beta_integral(t))", "-torch.expm1(-self.beta_integral(t))", PROCESSES),
    Mutant("VP's variance for its complement", "raysde.sde.vp:VP.sigma2", "        return -torch.expm1(-self.beta_integral(t))", "        return torch.exp(-self.beta_integral(t))", PROCESSES),
    Mutant("1 - exp instead of expm1", "raysde.sde.vp:VP.sigma2", "        return -torch.expm1(-self.beta_integral(t))", "        return 1.0 - torch.exp(-self.beta_integral(t))", PROCESSES),
    Mutant("alpha without the half", "raysde.sde.vp:BetaSDE.log_alpha", "return -0.5 * self.beta_integral(t)", "return -self.beta_integral(t)", PROCESSES),
    Mutant("drift with the wrong sign", "raysde.sde.vp:BetaSDE.drift_rate", "return -0.5 * self.beta(t)", "return 0.5 * self.beta(t)", PROCESSES),
    Mutant("log-SNR of sub-VP as VP's", "raysde.sde.vp:SubVP.log_snr", "-integral - 2.0 * torch.log(", "-integral - torch.log(", PROCESSES),
    Mutant("sub-VP's inverse off by a factor", "raysde.sde.vp:SubVP.time_at", "2.0 * torch.asinh(0.5 *", "2.0 * torch.asinh(", PROCESSES),
    Mutant("the table's length forgotten", "raysde.sde.vp:BetaSDE.discrete_steps", "return len(self.alphas_cumprod) or 1000", "return 1000", "tests/networks/test_diffusers.py -k 'step'"),
]  # fmt: skip
