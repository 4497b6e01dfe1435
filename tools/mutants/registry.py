"""Mistakes in raysde/registry/."""

from tools.mutants.mutant import Mutant

REGISTRY = "tests/registry/test_registry.py"
SAMPLING_DEFAULTS = "tests/models/test_sampling_defaults.py"
SERVING = "tests/registry/test_serving.py"

MUTANTS = [
    Mutant("a number that each row must have", "raysde.registry.mlflow_model:make_signature", "required=must)", "required=True)", SERVING + " -k 'signature_says'"),
    Mutant("a signature without defaults", "raysde.registry.mlflow_model:make_signature", "TYPES[PARAMS[name]], value)", "TYPES[PARAMS[name]], None)", SERVING + " -k 'signature_says'"),
    Mutant("a card that allows code", "raysde.registry.mlflow_model:write_card", '{"allow_code": False}', '{"allow_code": True}', SERVING + " -k 'allowed'"),
    Mutant("one page of versions", "raysde.registry.models:_list_all_pages", "    while page.token:\n        page = search(page.token)\n        found += page\n", "", REGISTRY + " -k 'pages'"),
    Mutant("versions in the order of text", "raysde.registry.models:list_versions", "key=lambda version: -int(version.version)", "key=lambda version: str(version.version), reverse=True", REGISTRY),
    Mutant("a run as its oldest model", "raysde.registry.models:find_logged_model", "models[0].artifact", "models[-1].artifact", REGISTRY),
    Mutant("a model's name without its neighbours", "raysde.registry.models:list_aliases", "{did_you_mean(name, names)}", "", REGISTRY + " -k 'not_there'"),
    Mutant("an alias without its neighbours", "raysde.registry.models:find_version", "{did_you_mean(alias, aliases)}", "", REGISTRY + " -k 'not_there'"),
    Mutant("figures of any model promoted", "raysde.registry.promotion:promote_version", "        subject.check(version.tags.get(WEIGHTS), generation_of(version), who)", "        pass", REGISTRY + " -k 'another_model'"),
    Mutant("the value alone decides", "raysde.registry.promotion:_decide_by_figures", "if over.low <= 0.0:", "if over.value <= 0.0:", REGISTRY + " -k 'not_better'"),
    Mutant("no better is good enough", "raysde.registry.promotion:_decide_by_figures", "if over.low <= 0.0:", "if over.low < 0.0:", REGISTRY + " -k 'not_better'"),
    Mutant("a refused candidate with tags", "raysde.registry.promotion:promote_version", "    figures = recorded_figures(version) if found is None else dict(found)", '    figures = recorded_figures(version) if found is None else dict(found)\n    record_figures(client, version, figures)', REGISTRY + " -k 'not_better'"),
    Mutant("the reason of an earlier promotion", "raysde.registry.promotion:_write_gate", "if key.startswith(GATE) and", "if False and", REGISTRY + " -k 'forced'"),
    Mutant("an alias of the wrong version", "raysde.registry.promotion:promote_version", "client.set_registered_model_alias(version.name, alias, version.version)", 'client.set_registered_model_alias(version.name, alias, "1")', REGISTRY + " -k 'takes_the_alias'"),
    Mutant("a promotion that begins before its alias is known to be one", "raysde.registry.promotion:promote_version", '    check_alias(alias, "--alias")\n', "", REGISTRY + " -k 'named'"),
    Mutant("every alias against the champion", "raysde.registry.promotion:promote_version", "before = _find_holder(client, version.name, alias)", 'before = _find_holder(client, version.name, "champion")', REGISTRY),
    Mutant("figures that a refusal loses", "raysde.registry.promotion:promote_version", '    log_to_run(client, version.run_id, int(version.tags.get(STEP, 0)), figures)\n', "", REGISTRY + " -k 'refused_promotion'"),
    Mutant("figures of any model kept", "raysde.registry.publishing:register_model", "            subject.check(found.tags.get(WEIGHTS), generation_of(found), source)", "            pass", REGISTRY + " -k 'another_model'"),
    Mutant("figures of any checkpoint kept", "raysde.registry.publishing:register_model", '        subject.check(description.files["ema.safetensors"], description.spec.dump()["generation"], source)', "        pass", REGISTRY + " -k 'another_checkpoint'"),
    Mutant("the weights of any step for the same", "raysde.registry.publishing:_find_published", "and tags.items() <= version.tags.items()", "and tags.keys() <= version.tags.keys()", REGISTRY + " -k 'registered_once'"),
    Mutant("another run's version", "raysde.registry.publishing:_find_published", "if run_id in (None, version.run_id) and", "if", REGISTRY + " -k 'two_runs'"),
    Mutant("equal weights for the same version", "raysde.registry.publishing:_find_published", "same = version.tags.get(GENERATION) == tags.get(GENERATION)", "same = True", SAMPLING_DEFAULTS + " -k 'tells_settings'"),
    Mutant("a logged model without its place", "raysde.registry.publishing:_log_model", 'with name_place_of_write(f"the model {name}", logged.artifact_location):', "if True:", REGISTRY + " -k 'full_disk'"),
    Mutant("every request's first image", "raysde.registry.serving:Served.predict", "first=numbers[rows.start],", "first=0,", SERVING + " -k 'any_image'"),
    Mutant("rows drawn together that do not count up", "raysde.registry.serving:group_consecutive", "if after != before + 1]", "if after < before]", SERVING + " -k 'count_up'"),
    Mutant("served images of nothing led to nothing", "raysde.registry.serving:Served.predict", "resolve_settings(spec.generation, asked, conditional,", "resolve_settings(spec.generation, asked, True,", SAMPLING_DEFAULTS + " -k 'pyfunc_guides'"),
    Mutant("code that nobody allowed", "raysde.registry.serving:_load_pyfunc", '.get("allow_code", False))', '.get("allow_code", True))', SERVING + " -k 'allowed'"),
    Mutant("requests answered by everybody's defaults", "raysde.registry.serving:default_parameters", '(None, own.get("solver")) if own else (found["steps"], found["solver"])', "(20, spec.default_solver)", SAMPLING_DEFAULTS + " -k 'pyfunc'"),
    Mutant("steps of the model's own for every solver", "raysde.registry.serving:default_parameters", '(None, own.get("solver"))', '(own.get("steps"), own.get("solver"))', SAMPLING_DEFAULTS + " -k 'pyfunc'"),
    Mutant("served prompts counted from the first row", "raysde.registry.serving:Served.predict", "prompts[rows]", "prompts[: rows.stop - rows.start]", SERVING + " -k own_prompt"),
]  # fmt: skip
