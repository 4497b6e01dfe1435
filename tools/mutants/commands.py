"""Mistakes in raysde/commands/."""

from tools.mutants.mutant import Mutant

MUTANTS = [
    Mutant("the last of several images alone edited", "raysde.commands.edit:add_edit_options", 'action="extend", ', "", "tests/commands/test_edit.py -k 'repeated'"),
    Mutant("older edits overwritten in silence", "raysde.commands.edit:run_edit", '    say_older_pictures(out, len(files))\n', "", "tests/commands/test_edit.py -k 'older'"),
    Mutant("somebody's picture overwritten", "raysde.commands.outputs:check_out", "if not is_marked(out / name)), None)", "if False), None)", "tests/commands/test_edit.py -k 'somebody'"),
    Mutant("a report's place found bad at the end", "raysde.commands.evaluate:run_evaluate", '    check_writable(target, "--output")\n', "", "tests/evaluation/test_evaluate.py -k 'cannot_be_written'"),
    Mutant("figures that stay in the report", "raysde.commands.evaluate:run_evaluate", "if subject.run_id is not None:", "if False:", "tests/evaluation/test_evaluate.py -k 'registered_model'"),
    Mutant("an option that goes nowhere", "raysde.commands.registry:run_promote", "metric=args.metric,", "metric=None,", "tests/commands/test_options.py"),
    Mutant("the size left out of a plan", "raysde.commands.sample:run_bulk", 'settings["size"] = size', "pass", "tests/images/test_sizes.py -k 'command'"),
    Mutant("many images out of sight", "raysde.commands.sample:run_sample", "if count > args.batch_size:", "if False:", "tests/commands/test_edit.py -k 'in_sight'"),
    Mutant("a signal that is held back and forgotten", "raysde.commands.signals:hold_signal", "        signal.raise_signal(held[0])", "        pass", "tests/commands/test_signals.py -k 'first_signal'"),
    Mutant("a signal that is never let through", "raysde.commands.signals:hold_signal", "        restore()\n        if not", "        if not", "tests/commands/test_signals.py -k 'first_signal'"),
    Mutant("nothing said at SIGTERM", "raysde.commands.signals:run_command", '            print(f"raysde: {said}", file=sys.stderr)', '            print(f"raysde: {said}" if isinstance(error, KeyboardInterrupt) else "", file=sys.stderr)', "tests/commands/test_signals.py -k 'status or put_back'"),
    Mutant("a winner guided by everybody's default", "raysde.tuning.sampler.search:winning_settings", '({"guidance": won.drawing.get("guidance", 1.0)} if spec.conditional else {})', "{}", "tests/tuning/sampler/test_command.py -k 'without_it'"),
    Mutant("a winner with the settings before", "raysde.tuning.sampler.search:winning_settings", "return won.drawing | (", "return spec.generation | won.drawing | (", "tests/tuning/sampler/test_command.py -k 'before'"),
    Mutant("images without a label where none has one", "raysde.commands.ingest:print_summary", "if manifest.classes and (bare", "if (bare", "tests/data/test_classes.py -k 'without_labels'"),
    Mutant("images without a label uncounted", "raysde.commands.ingest:print_summary", "if manifest.classes and (bare", "if False and (bare", "tests/data/test_classes.py -k 'without_a_label'"),
    Mutant("somebody's picture overwritten by a contact sheet", "raysde.commands.data:run_inspect", '    check_picture("--sheet", target)\n', "", "tests/commands/test_data.py -k 'somebody'"),
    Mutant("a file taken for a folder", "raysde.commands.outputs:check_out", "if not there.is_dir() or not os.access", "if not os.access", "tests/commands/test_edit.py -k 'no_folder'"),
]  # fmt: skip
