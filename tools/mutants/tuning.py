"""Mistakes in raysde/tuning/."""

from tools.mutants.mutant import Mutant

SAMPLER = "tests/tuning/test_sampler.py"
TRAINING = "tests/tuning/test_training.py"

MUTANTS = [
    Mutant("guidance that costs nothing", "raysde.tuning.sampler.space:evaluations", "(1.0 + len(guided) / len(times))", "1.0", SAMPLER + " -k 'cost or count'"),
    Mutant("guidance that costs everywhere", "raysde.tuning.sampler.space:evaluations", "(1.0 + len(guided) / len(times))", '(2.0 if drawing.get("guidance", 1.0) != 1.0 else 1.0)', SAMPLER + " -k 'pays'"),
    Mutant("settings that nothing reads", "raysde.tuning.sampler.space:effective", "name in chosen and name in read and", "name in chosen and", SAMPLER + " -k 'combination'"),
    Mutant("a settled model measured by its own settings", "raysde.tuning.sampler.study:opened", "generation={}))", "generation=model.spec.generation))", SAMPLER + " -k 'candidate_alone'"),
    Mutant("a figure in whose eyes it may be", "raysde.tuning.sampler.study:Study.key", "self.network, self.seed", "self.features, self.seed", SAMPLER + " -k 'feature_network'"),
    Mutant("every round from other noise", "raysde.tuning.sampler.study:Study.question", "seed=self.seed,", "seed=samples,", SAMPLER + " -k 'same_noise'"),
    Mutant("a round's figure for another's", "raysde.tuning.sampler.study:Study.key", "self.reference, samples]", "self.reference]", SAMPLER + " -k 'same_noise'"),
    Mutant("ties by value alone", "raysde.tuning.sampler.successive_halving:winner", "better).low <= 0.0)]", "better).value <= 0.0)]", SAMPLER + " -k 'cheapest'"),
    Mutant("a margin of the worse over the better", "raysde.tuning.sampler.successive_halving:ahead", 'sign = 1.0 if better == "higher" else -1.0', "sign = 1.0", SAMPLER + " -k 'image_by_image or cheapest'"),
    Mutant("unequal numbers of images compared", "raysde.tuning.sampler.successive_halving:ahead", "if said := difference(first.figure, second.figure):", "if said := None:", SAMPLER + " -k 'image_by_image'"),
    Mutant("who left early compared with who stayed", "raysde.tuning.sampler.successive_halving:Settled.behind", "or outcome.figure.samples != self.best.figure.samples", "", SAMPLER + " -k 'writes_model'"),
    Mutant("the dearest of the tied", "raysde.tuning.sampler.successive_halving:winner", "return min(tied, key", "return max(tied, key", SAMPLER + " -k 'cheapest'"),
    Mutant("a cheap tie that is dropped", "raysde.tuning.sampler.successive_halving:survivors", "return kept if now in kept else [*kept[:-1], now]", "return kept", SAMPLER + " -k 'third'"),
    Mutant("the worse third goes on", "raysde.tuning.sampler.successive_halving:ranked", 'sign = 1.0 if better == "lower" else -1.0', "sign = 1.0", SAMPLER + " -k 'cheapest'"),
    Mutant("halving that lets the worst go on", "raysde.tuning.training.asha:Halving.stops", "100.0 / self.reduction", "100.0 - 100.0 / self.reduction", TRAINING + " -k 'halving'"),
    Mutant("a rung that a trial passes twice", "raysde.tuning.training.asha:Halving.stops", "if budget < rung or trial in values:", "if budget < rung:", TRAINING + " -k 'halving'"),
    Mutant("a diverged trial that goes on", "raysde.tuning.training.asha:Halving.stops", "                return True", "                return False", TRAINING + " -k 'diverged'"),
    Mutant("a sweep that changes under way", "raysde.tuning.training.ledger:_compare", '            if settled(where.removeprefix("recipe "), was) != settled(where.removeprefix("recipe "), wanted):', "            if False:", TRAINING + " -k 'must_not_change'"),
    Mutant("stopped trials ranked among whole ones", "raysde.tuning.training.ranking:ORDER", '"stopped": 1', '"stopped": 0', TRAINING + " -k 'rank'"),
    Mutant("the best recipe with paths of here", "raysde.tuning.training.ranking:best_recipe", 'absolute_tree({**changed, "storage"', 'dict({**changed, "storage"', TRAINING + " -k 'best_recipe'"),
    Mutant("a random search with repeats", "raysde.tuning.training.search:planned", ".permutation(space.size)", ".integers(space.size, size=space.size)", TRAINING + " -k 'twice'"),
    Mutant("Optuna's whole numbers without their end", "raysde.tuning.training.search:_distribution", "int(values.low), int(values.high))", "int(values.low), int(values.high) - 1)", TRAINING),
    Mutant("a log range drawn evenly", "raysde.tuning.training.space:Range.at", 'if self.kind == "log":', 'if self.kind == "logarithmic":', TRAINING + " -k 'draws'"),
    Mutant("a grid that misses combinations", "raysde.tuning.training.space:Space.combination", "divmod(number, len(axis.values))", "divmod(number, max(1, len(axis.values) - 1))", TRAINING + " -k 'grid'"),
    Mutant("steps reported twice", "raysde.tuning.training.sweep:Sweep.report", "step <= trial.last.step", "step < trial.last.step", TRAINING + " -k 'killed_anywhere'"),
    Mutant("running trials forgotten by a restart", "raysde.tuning.training.sweep:Sweep.__init__", 'if trial.state == "running"]', 'if trial.state == "waiting"]', TRAINING + " -k 'killed_anywhere'"),
    Mutant("early stopping that forgets", "raysde.tuning.training.sweep:Sweep.__init__", "        self._replay()\n", "", TRAINING + " -k 'killed_anywhere'"),
    Mutant("the order of reports lost", "raysde.tuning.training.sweep:Sweep.report", "Report(self.reported, step", "Report(0, step", TRAINING + " -k 'in_their_order'"),
    Mutant("a later end that counts", "raysde.tuning.training.sweep:Sweep.end", '        if trial.state != "running":\n            return\n', "", TRAINING + " -k 'first_end'"),
    Mutant("trials in the order of text", "raysde.tuning.training.sweep:Sweep.trials", "for number in sorted(self.ledger.trials)]", "for number in sorted(self.ledger.trials, key=str)]", TRAINING),
]  # fmt: skip
