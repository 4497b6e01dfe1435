"""Mistakes in raysde/models/."""

from tools.mutants.mutant import Mutant

SAMPLING_DEFAULTS = "tests/models/test_sampling_defaults.py"

MUTANTS = [
    Mutant("no guidance unless it is asked for", "raysde.models.sampling_defaults:resolve_settings", "GUIDED if away else scale if conditional else 1.0", "GUIDED if away else 1.0", SAMPLING_DEFAULTS + " -k 'before or evaluation'"),
    Mutant("another solver with the own one's steps", "raysde.models.sampling_defaults:complete_settings", "if not (foreign and name in SETTINGS)", "if True", SAMPLING_DEFAULTS + " -k 'given or completed'"),
    Mutant("another solver without the own guidance", "raysde.models.sampling_defaults:complete_settings", "if not (foreign and name in SETTINGS)", "if not foreign", SAMPLING_DEFAULTS + " -k 'given or completed'"),
    Mutant("own settings that nothing reads", "raysde.models.sampling_defaults:complete_settings", "if name in given or name in read or name not in SETTINGS", "if True", SAMPLING_DEFAULTS + " -k 'left_out'"),
    Mutant("the model's own over what is given", "raysde.models.sampling_defaults:complete_settings", "merged = {**kept, **given}", "merged = {**given, **kept}", SAMPLING_DEFAULTS + " -k 'given'"),
    Mutant("guidance by both unless asked not to", "raysde.models.sampling_defaults:resolve_settings", " and not apart)", ")", "tests/inference/test_guidance.py -k 'leaves_the_other'"),
    Mutant("guidance away from nothing to nothing", "raysde.models.sampling_defaults:resolve_settings", "own if guided else {name: value for name, value in own.items() if name not in GUIDANCE}", "own", SAMPLING_DEFAULTS + " -k 'nothing_are_not'"),
    Mutant("an interval of no guidance", "raysde.models.sampling_defaults:resolve_settings", "not in found and not apart:", "not in found and False:", "tests/inference/test_edit.py -k 'led_away_is_led'"),
    Mutant("a negative prompt without the own guidance", "raysde.models.sampling_defaults:resolve_settings", 'conditional or any(given.get(name) is not None for name in ("negative", "autoguide"))', "conditional", SAMPLING_DEFAULTS + " -k 'led_away'"),
    Mutant("today's default for models of yesterday", "raysde.models.spec:ModelSpec", "default_solver: SolverName = FIRST", 'default_solver: SolverName = "unipc"', SAMPLING_DEFAULTS + " -k 'of_its_time or as_before'"),
    Mutant("a size in latents for one in pixels", "raysde.models.spec:ModelSpec.shape_of", "height, width = height // factor, width // factor", "pass", "tests/images/test_sizes.py -k 'latents'"),
    Mutant("a process's code run without permission", "raysde.models.spec:check_code", "for part in (spec.sde, spec.network, spec.text):", "for part in (spec.network, spec.text):", "tests/training/test_own_code.py -k 'resumes_and_loads and sde'"),
    Mutant("an encoder's code run without permission", "raysde.models.spec:check_code", "for part in (spec.sde, spec.network, spec.text):", "for part in (spec.sde, spec.network):", "tests/training/test_own_code.py -k 'resumes_and_loads and text'"),
]  # fmt: skip
