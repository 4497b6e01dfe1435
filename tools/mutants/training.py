"""Mistakes in raysde/training/."""

from tools.mutants.mutant import Mutant

ATTRIBUTES = "tests/conditioning/test_attributes.py"
AVERAGES = "tests/training/test_posthoc_ema.py tests/checkpoints/test_ema_snapshots.py tests/training/test_steps.py"
LOOP = "tests/training/test_loop.py"
LOSSES = "tests/training/test_losses.py"
MUON = "tests/training/test_muon.py"
OBJECTIVE = "tests/training/test_objective.py"
SHARDED = "tests/multiprocess/test_sharded.py"
TIME_SAMPLING = "tests/training/test_time_sampling.py"
VALIDATION = "tests/training/test_validation.py"

MUTANTS = [
    Mutant("attributes dropped by the stream of the noise", "raysde.training.objective:microbatch_loss", "chance = torch.rand(condition.attributes.shape, generator=own)", "chance = torch.rand(condition.attributes.shape, generator=rng)", ATTRIBUTES + " -k 'own_stream'"),
    Mutant("planes by the stream of the noise", "raysde.training.objective:microbatch_loss", "draw_planes(objective.image_condition, x0, own)", "draw_planes(objective.image_condition, x0, rng)", "tests/conditioning/test_images.py -k 'own_stream'"),
    Mutant("a rate that is no number", "raysde.training.external:ExternalSchedule.build.factor", "if not math.isfinite(found):", "if False:", "tests/training/test_own_code.py -k 'its_place'"),
    Mutant("the half-life as a time constant", "raysde.training.ema:ema_decay", "0.5 ** (", "0.3678794411714423 ** (", AVERAGES),
    Mutant("the average's weights swapped", "raysde.training.ema:Average.update", "weight = 1.0 - self.decay_factor(", "weight = self.decay_factor(", AVERAGES),
    Mutant("ranks of unequal shares alike", "raysde.training.loop:train_step", "objective.batch / objective.microbatch / world.size", "len(batches)", LOOP),
    Mutant("averages by the microbatch", "raysde.training.loop:train_step", "state.ema.update(objective.batch,", "state.ema.update(objective.microbatch,", LOOP),
    Mutant("a decay by updates", "raysde.training.loop:train_step", "state.step / schedule.steps", "state.updates / schedule.steps", LOOP),
    Mutant("training on without dropout", "raysde.training.loop:measure_average", "        metrics = validate(state.model)\n    state.model.train()", "        metrics = validate(state.model)", LOOP),
    Mutant("validation of the trained weights", "raysde.training.loop:measure_average", "    with state.ema.swap_weights(), torch.no_grad():", "    with torch.no_grad():", LOOP),
    Mutant("grids of the trained weights", "raysde.training.loop:run_due_actions", '            with state.ema.swap_weights():\n                hooks.sample(state)', "            hooks.sample(state)", LOOP),
    Mutant("a validation without a number for the best", "raysde.training.loop:validate_average", 'if metrics["val/loss"] < state.best:', 'if not metrics["val/loss"] >= state.best:', LOOP),
    Mutant("leaving without a checkpoint", "raysde.training.loop:keep_checkpoint", "state.stopped or now", "state.stopped", LOOP + " -k 'a_stop_saves'"),
    Mutant("a checkpoint by the clock of any rank", "raysde.training.loop:run_due_actions", "world.is_first and clock.is_time(schedule)", "clock.is_time(schedule)", "tests/multiprocess/test_gloo.py -k 'clock_of_the_first'"),
    Mutant("a checkpoint at every step once it is time", "raysde.training.loop:run_due_actions", "            clock.saved = time.monotonic()", "            pass", LOOP + " -k 'by_time'"),
    Mutant("a checkpoint before its snapshot", "raysde.training.loop:keep_checkpoint", "    if snapshot and (world.is_first or has_shards(state.model)):\n        hooks.snapshot(state)  # before the checkpoint: a run resumed from it would skip this snapshot\n    if save:\n        hooks.save(state)", "    if save:\n        hooks.save(state)\n    if snapshot and (world.is_first or has_shards(state.model)):\n        hooks.snapshot(state)", LOOP),
    Mutant("likelihood weight by sigma", "raysde.training.losses:WEIGHTINGS", "sde.diffusion2(t) / sde.sigma2(t)", "sde.diffusion2(t) / sde.sigma(t)", LOSSES),
    Mutant("min-SNR clamped below", "raysde.training.losses:min_snr", "snr.clamp(max=gamma)", "snr.clamp(min=gamma)", LOSSES),
    Mutant("x0's weight turned over", "raysde.training.losses:WEIGHTINGS", "gamma: 1.0 / sde.snr(t))", "gamma: sde.snr(t))", LOSSES),
    Mutant("EDM's weight without the data's deviation", "raysde.training.losses:WEIGHTINGS", "(1.0 / sde.snr(t) + data_std**2) / data_std**2", "1.0 / sde.snr(t) + data_std**2", LOSSES),
    Mutant("the whole sum for half of it", "raysde.training.losses:REDUCTIONS", "0.5 * error.sum(dim=1)", "error.sum(dim=1)", LOSSES),
    Mutant("the noise's scale without its square", "raysde.training.losses:denoising_score_matching", "* scale).square().reshape", "* scale).abs().reshape", LOSSES),
    Mutant("uncertainty that only divides", "raysde.training.losses:weigh_by_uncertainty", "loss / log_variance.exp() + log_variance", "loss / log_variance.exp()", LOSSES),
    Mutant("matrices without warm-up and decay", "raysde.training.muon:Muon.step", 'self.turn(alike, group["momentum"], group["lr"], group["weight_decay"])', 'self.turn(alike, group["momentum"], self.defaults["lr"], group["weight_decay"])', MUON),
    Mutant("no look ahead", "raysde.training.muon:Muon.ahead", 'gradient.lerp(state["momentum_buffer"], momentum)', 'state["momentum_buffer"]', MUON + " -k 'torchs_own'"),
    Mutant("steps of the short side", "raysde.training.muon:Muon.turn", "math.sqrt(max(ahead.shape[1:]))", "math.sqrt(min(ahead.shape[1:]))", MUON + " -k 'torchs_own'"),
    Mutant("matrices that AdamW moves too", "raysde.training.muon:Muon.turn", "parameter.grad = None  # makes", "pass  # makes", MUON + " -k 'torchs_own'"),
    Mutant("matrices without decay", "raysde.training.muon:Muon.turn", "mine.mul_(1.0 - lr * decay)", "mine", MUON + " -k 'torchs_own'"),
    Mutant("one length for all matrices", "raysde.training.muon:orthogonalise", "wide.norm(dim=(1, 2), keepdim=True)", "wide.norm()", MUON + " -k 'together or keeps_the'"),
    Mutant("a stack without bounds", "raysde.training.muon:batch_parameters", " or (len(last[shape]) + 1) * parameter.numel() > TOGETHER", "", MUON + " -k 'together'"),
    Mutant("overflown matrices", "raysde.training.muon:Muon.__init__", "self._step_supports_amp_scaling = False", "pass", MUON + " -k 'overflown'"),
    Mutant("channels apart taken for matrices", "raysde.training.muon:find_matrices", 'or getattr(module, "groups", 1) != 1', "", MUON + " -k 'which_weights'"),
    Mutant("tables taken for matrices", "raysde.training.muon:find_matrices", "isinstance(module, nn.Embedding) or ", "", MUON + " -k 'which_weights'"),
    Mutant("the first rows for every rank", "raysde.training.muon:Muon.turn", "update[slice(*local_rows(parameter))]", "update[: parameter.to_local().shape[0]]", SHARDED + " -k 'sharded_matrices'"),
    Mutant("conditions kept as often as dropped", "raysde.training.objective:microbatch_loss", "generator=rng, device=device) < objective.condition_dropout", "generator=rng, device=device) >= objective.condition_dropout", "tests/precompute/test_jobs.py -k 'dropped_rows'"),
    Mutant("one coin for a microbatch's conditions", "raysde.training.objective:microbatch_loss", "drop = torch.rand(count,", "drop = torch.rand(1,", "tests/training/test_steps.py -k 'dropped_by_itself'"),
    Mutant("noise without the microbatch", "raysde.training.objective:microbatch_loss", "    place = (batch.step, batch.index)", "    place = (batch.step, 0)", OBJECTIVE),
    Mutant("noise without the step", "raysde.training.objective:microbatch_loss", "    place = (batch.step, batch.index)", "    place = (batch.index,)", OBJECTIVE),
    Mutant("strata shifted by the microbatch", "raysde.training.objective:microbatch_loss", "randomness.TIMES, batch.step, device=device)", "randomness.TIMES, *place, device=device)", OBJECTIVE),
    Mutant("pictures mirrored upside down", "raysde.training.objective:microbatch_loss", "x0.flip(-1)", "x0.flip(-2)", OBJECTIVE),
    Mutant("conditions dropped by the offset of the strata", "raysde.training.objective:microbatch_loss", "drop = torch.rand(count, generator=rng, device=device)", "drop = torch.rand(count, generator=shared, device=device)", OBJECTIVE),
    Mutant("gradients clipped before they are unscaled", "raysde.training.optimizers:update_parameters", '    scaler.unscale_(optimizer)\n    norm = gather_tensor(torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0.0 else math.inf))', '    norm = gather_tensor(torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0.0 else math.inf))\n    scaler.unscale_(optimizer)', "tests/training/test_optimizers.py"),
    Mutant("a step after which the scale grows taken for a skipped one", "raysde.training.optimizers:update_parameters", "scaler.get_scale() >= before", "scaler.get_scale() == before", "tests/training/test_optimizers.py"),
    Mutant("captions under Muon", "raysde.training.optimizers:muon", "chosen = find_matrices(model.network)", "chosen = find_matrices(model)", MUON + " -k 'matrices_so'"),
    Mutant("the norm of a rank's own gradients", "raysde.training.optimizers:update_parameters", "norm = gather_tensor(torch.nn.utils.clip_grad_norm_(parameters, clip if clip > 0.0 else math.inf))", "own = [p.grad.to_local() if hasattr(p.grad, 'to_local') else p.grad for p in parameters]\n    norm = torch.nn.utils.get_total_norm(own)\n    torch.nn.utils.clip_grads_with_norm_(parameters, clip if clip > 0.0 else math.inf, norm)", SHARDED + " -k 'losses_are'"),
    Mutant("the power's exponent off by one", "raysde.training.posthoc_ema:PowerEma.decay_factor", "** (self.exponent + 1.0)", "** self.exponent", AVERAGES),
    Mutant("the inner product's denominator", "raysde.training.posthoc_ema:inner_product", "/ (a + b + 1.0)", "/ (a + b + 2.0)", AVERAGES),
    Mutant("patience that a resume forgets", "raysde.training.state:TrainState.load_values", 'self.stale, self.stopped = values["stale"], values["stopped"]', 'self.stopped = values["stopped"]', "tests/training/test_state.py"),
    Mutant("moments restored in each other's place", "raysde.training.state:TrainState.load_optimizer", "place.detach().copy_(value)", "place.detach().copy_(tensors[key.replace('exp_avg_sq', 'exp_avg')])", "tests/training/test_state.py"),
    Mutant("momentum that no resume brings back", "raysde.training.state:TrainState.load_optimizer", "if parameter is None:", "if parameter is None or moment == 'momentum_buffer':", "tests/training/test_steps.py -k 'resume_is_bitwise'"),
    Mutant("times from 0 instead of the floor", "raysde.training.time_sampling:Uniform.quantile", "return sde.train_floor + (sde.ceiling - sde.train_floor) * u", "return sde.ceiling * u", TIME_SAMPLING),
    Mutant("strata of the microbatch", "raysde.training.time_sampling:draw_stratified", "places = torch.arange(index, index + count", "places = torch.arange(0, count", TIME_SAMPLING),
    Mutant("log-normal without its root of 2", "raysde.training.time_sampling:LogNormal.quantile", "math.sqrt(2.0) * torch.erfinv", "torch.erfinv", TIME_SAMPLING),
    Mutant("log-normal in the variance", "raysde.training.time_sampling:LogNormal.quantile", "sde.time_at(-2.0 * (self.mean", "sde.time_at(-1.0 * (self.mean", TIME_SAMPLING),
    Mutant("importance weights turned over", "raysde.training.time_sampling:Importance.correction", "* sde.sigma2(t) / sde.diffusion2(t)", "* sde.diffusion2(t) / sde.sigma2(t)", TIME_SAMPLING),
    Mutant("a spare batch counted", "raysde.training.validation:keep_in_step", "yield spare, False", "yield spare, True", SHARDED + " -k 'losses_are'"),
    Mutant("noise of a place in the microbatch", "raysde.training.validation:measure_bins", "rng.VALIDATION, int(row)) for row in batch.rows]", "rng.VALIDATION, place) for place, row in enumerate(batch.rows)]", VALIDATION + " -k 'number_alone'"),
    Mutant("bins that drown each other", "raysde.training.validation:validation_loss", "(errors / linear).mean()", "(errors.sum() / linear.sum())", VALIDATION + " -k 'knows_mean'"),
    Mutant("unreached noise asked at the nearest", "raysde.training.validation:validation_loss", "torch.where(found.reached, found.denoising, linear)", "found.denoising", VALIDATION + " -k 'reach'"),
    Mutant("errors in the model's own units", "raysde.training.validation:measure_bins", "(loss * (scale * sigma / alpha)", "(loss * (sigma / alpha)", VALIDATION + " -k 'data_range'"),
    Mutant("bins of the model's own units", "raysde.training.validation:measure_bins", " + 2.0 * math.log(scale)", "", VALIDATION + " -k 'data_range'"),
    Mutant("variance about black and white's middle", "raysde.training.validation:validation_loss", "power - mean.square()", "power", VALIDATION + " -k 'scores_one'"),
    Mutant("always the middle of a bin", "raysde.training.validation:measure_bins", "low + (high - low) * places", "low + (high - low) * 0.5 * places.sign()", VALIDATION + " -k 'posteriors'"),
    Mutant("a loss of one's own of the output's error", "raysde.training.losses:denoising_score_matching", "(output - wanted) * (noise_error_scale(target, alpha, sigma, data_std) * scale)", "output - wanted", "tests/training/test_own_code.py -k 'whatever_the_network'"),
    Mutant("an optimizer's numbers forgotten", "raysde.training.state:TrainState.load_values", "            group.update(numbers)\n", "            pass\n", "tests/training/test_own_code.py -k 'keeps_is_resumed'"),
    Mutant("state of another name forgotten", "raysde.training.state:TrainState.load_optimizer", "if parameter is None:", "if parameter is None or moment == 'mean':", "tests/training/test_own_code.py -k 'resumes_and_loads and optimizer'"),
    Mutant("an own schedule without its warm-up", "raysde.training.optimizers:learning_rate", "return rate * float(decay(progress, updates))", "return base * float(decay(progress, updates))", "tests/training/test_own_code.py -k 'warm_up'"),
]  # fmt: skip
