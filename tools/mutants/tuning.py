"""Mistakes in raysde/tuning/."""

from tools.mutants.mutant import Mutant

ASHA = "tests/tuning/training/test_asha.py"
SPACE = "tests/tuning/sampler/test_space.py"
STUDY = "tests/tuning/sampler/test_study.py"
SUCCESSIVE_HALVING = "tests/tuning/sampler/test_successive_halving.py"
SWEEP = "tests/tuning/training/test_sweep.py"
TRAINING_SPACE = "tests/tuning/training/test_space.py"

MUTANTS = [
    Mutant("guidance that costs nothing", "raysde.tuning.sampler.space:count_evaluations", "(1.0 + len(guided) / len(times))", "1.0", SPACE + " -k 'cost or count'"),
    Mutant("guidance that costs everywhere", "raysde.tuning.sampler.space:count_evaluations", "(1.0 + len(guided) / len(times))", '(2.0 if drawing.get("guidance", 1.0) != 1.0 else 1.0)', SPACE + " -k 'pays'"),
    Mutant("settings that nothing reads", "raysde.tuning.sampler.space:effective_settings", "name in chosen and name in read and", "name in chosen and", SPACE + " -k 'combination'"),
    Mutant("a settled model measured by its own settings", "raysde.tuning.sampler.study:open_model", "generation={}))", "generation=model.spec.generation))", STUDY + " -k 'candidate_alone'"),
    Mutant("a figure in whose eyes it may be", "raysde.tuning.sampler.study:Study.key", "self.network, self.seed", "self.features, self.seed", STUDY + " -k 'feature_network'"),
    Mutant("every round from other noise", "raysde.tuning.sampler.study:Study.question", "seed=self.seed,", "seed=samples,", STUDY + " -k 'same_noise'"),
    Mutant("a round's figure for another's", "raysde.tuning.sampler.study:Study.key", "self.reference, samples]", "self.reference]", STUDY + " -k 'same_noise'"),
    Mutant("ties by value alone", "raysde.tuning.sampler.successive_halving:choose_winner", "better).low <= 0.0)]", "better).value <= 0.0)]", SUCCESSIVE_HALVING + " -k 'cheapest'"),
    Mutant("a margin of the worse over the better", "raysde.tuning.sampler.successive_halving:compare_paired", 'sign = 1.0 if better == "higher" else -1.0', "sign = 1.0", SUCCESSIVE_HALVING + " -k 'image_by_image or cheapest'"),
    Mutant("unequal numbers of images compared", "raysde.tuning.sampler.successive_halving:compare_paired", "if said := describe_mismatch(first.figure, second.figure):", "if said := None:", SUCCESSIVE_HALVING + " -k 'image_by_image'"),
    Mutant("who left early compared with who stayed", "raysde.tuning.sampler.successive_halving:Settled.behind", "or outcome.figure.samples != self.best.figure.samples", "", "tests/tuning/sampler/test_command.py -k 'writes_model'"),
    Mutant("the dearest of the tied", "raysde.tuning.sampler.successive_halving:choose_winner", "return min(tied, key", "return max(tied, key", SUCCESSIVE_HALVING + " -k 'cheapest'"),
    Mutant("a cheap tie that is dropped", "raysde.tuning.sampler.successive_halving:choose_survivors", "return kept if now in kept else [*kept[:-1], now]", "return kept", SUCCESSIVE_HALVING + " -k 'third'"),
    Mutant("the worse third goes on", "raysde.tuning.sampler.successive_halving:rank_outcomes", 'sign = 1.0 if better == "lower" else -1.0', "sign = 1.0", SUCCESSIVE_HALVING + " -k 'cheapest'"),
    Mutant("halving that lets the worst go on", "raysde.tuning.training.asha:Halving.stops", "100.0 / self.reduction", "100.0 - 100.0 / self.reduction", ASHA + " -k 'halving'"),
    Mutant("a rung that a trial passes twice", "raysde.tuning.training.asha:Halving.stops", "if budget < rung or trial in values:", "if budget < rung:", ASHA + " -k 'halving'"),
    Mutant("a diverged trial that goes on", "raysde.tuning.training.asha:Halving.stops", "                return True", "                return False", ASHA + " -k 'diverged'"),
    Mutant("a sweep that changes under way", "raysde.tuning.training.ledger:_describe_difference", 'where.removeprefix("recipe "), wanted', 'where.removeprefix("recipe "), was', SWEEP + " -k 'must_not_change'"),
    Mutant("stopped trials ranked among whole ones", "raysde.tuning.training.ranking:ORDER", '"stopped": 1', '"stopped": 0', "tests/tuning/training/test_sweep.py tests/tuning/training/test_ranking.py -k 'rank'"),
    Mutant("the best recipe with paths of here", "raysde.tuning.training.ranking:best_recipe", 'resolve_places_in_tree({**changed, "storage"', 'dict({**changed, "storage"', "tests/tuning/training/test_ranking.py -k 'best_recipe'"),
    Mutant("a random search with repeats", "raysde.tuning.training.search:plan_trials", ".permutation(space.size)", ".integers(space.size, size=space.size)", TRAINING_SPACE + " -k 'twice'"),
    Mutant("Optuna's whole numbers without their end", "raysde.tuning.training.search:_make_distribution", "int(values.low), int(values.high))", "int(values.low), int(values.high) - 1)", "tests/tuning/training/test_space.py tests/tuning/training/test_asha.py tests/tuning/training/test_sweep.py tests/tuning/training/test_search.py tests/tuning/training/test_ranking.py tests/tuning/training/test_plots.py tests/tuning/training/test_progress.py tests/tuning/training/test_settings.py"),
    Mutant("a log range drawn evenly", "raysde.tuning.training.space:Range.at", 'if self.kind == "log":', 'if self.kind == "logarithmic":', TRAINING_SPACE + " -k 'draws'"),
    Mutant("a grid that misses combinations", "raysde.tuning.training.space:Space.combination", "divmod(number, len(axis.values))", "divmod(number, max(1, len(axis.values) - 1))", TRAINING_SPACE + " -k 'grid'"),
    Mutant("steps reported twice", "raysde.tuning.training.sweep:Sweep.report", "step <= trial.last.step", "step < trial.last.step", SWEEP + " -k 'killed_anywhere'"),
    Mutant("running trials forgotten by a restart", "raysde.tuning.training.sweep:Sweep.__init__", 'if trial.state == "running"]', 'if trial.state == "waiting"]', SWEEP + " -k 'killed_anywhere'"),
    Mutant("early stopping that forgets", "raysde.tuning.training.sweep:Sweep.__init__", "        self._replay()\n", "", SWEEP + " -k 'killed_anywhere'"),
    Mutant("the order of reports lost", "raysde.tuning.training.sweep:Sweep.report", "Report(self.reported, step", "Report(0, step", SWEEP + " -k 'in_their_order'"),
    Mutant("a later end that counts", "raysde.tuning.training.sweep:Sweep.end", '        if trial.state != "running":\n            return\n', "", SWEEP + " -k 'first_end'"),
    Mutant("trials in the order of text", "raysde.tuning.training.sweep:Sweep.trials", "for number in sorted(self.ledger.trials)]", "for number in sorted(self.ledger.trials, key=str)]", "tests/tuning/training/test_space.py tests/tuning/training/test_asha.py tests/tuning/training/test_sweep.py tests/tuning/training/test_search.py tests/tuning/training/test_ranking.py tests/tuning/training/test_plots.py tests/tuning/training/test_progress.py tests/tuning/training/test_settings.py"),
]  # fmt: skip
