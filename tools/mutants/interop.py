"""Mistakes in raysde/interop/."""

from tools.mutants.mutant import Mutant

PIPELINES = "tests/interop/test_pipelines.py"

MUTANTS = [
    Mutant("999 t in a thousand steps", "raysde.interop.discrete_steps:step_times", "dtype=torch.float64) / 999.0", "dtype=torch.float64) / 1000.0", PIPELINES + " -k 'ddim_images'"),
    Mutant("beta of alpha for beta of alpha^2", "raysde.interop.discrete_steps:discrete_betas", "-torch.expm1(2.0 * log_alpha.diff(", "-torch.expm1(log_alpha.diff(", PIPELINES + " -k 'ddim_images'"),
    Mutant("an imported table's floor", "raysde.interop.discrete_steps:process_of_scheduler", ", sample_floor=1.0 / len(table))", ")", PIPELINES + " -k 'ddpm_folder'"),
    Mutant("a prediction left out", "raysde.interop.export_pipeline:_scheduler_arguments", '        "prediction_type": PREDICTIONS[spec.target],\n', "", PIPELINES + " -k 'ddim_images'"),
    Mutant("the corrector's step left out", "raysde.interop.export_pipeline:_build_score_sde_ve", '{**settings, "snr": target_snr}', "settings", PIPELINES + " -k 've_scheduler'"),
    Mutant("the first class for none", "raysde.interop.export_pipeline:_build_labelled", "padding = rows[-1:]", "padding = rows[:1]", PIPELINES + " -k 'transformer_draws'"),
    Mutant("an imported scheduler's settings forgotten", "raysde.interop.export_pipeline:_build_score_sde_ve", "for name in SAMPLING if name in came_with", "for name in ()", PIPELINES + " -k 'every_setting'"),
    Mutant("an imported scheduler of another kind", "raysde.interop.export_pipeline:build_pipeline", "kept = _rebuild_imported(model) if solver is None else None", "kept = None", PIPELINES + " -k 'as_it_came'"),
    Mutant("a scheduler that no longer describes the model", "raysde.interop.export_pipeline:_rebuild_imported", "if process_of_scheduler(scheduler) != (spec.sde, spec.target):", "if False:", PIPELINES + " -k 'as_it_came'"),
    Mutant("an imported VE without its floor", "raysde.interop.import_pipeline:_read_ve", ", sample_floor=config.sampling_eps", "", PIPELINES + " -k 'ncsnpp_folder'"),
    Mutant("a part in its folder alone", "raysde.interop.import_pipeline:part_folder", "return own if own.is_dir() else folder", "return own", PIPELINES + " -k 'at_the_root'"),
]  # fmt: skip
