"""Mistakes in raysde/config/."""

from tools.mutants.mutant import Mutant

MUTANTS = [
    Mutant("a number that YAML reads as text", "raysde.config.loading:format_override", 'text.replace("e", ".0e")', "text", "tests/test_recipes.py -k 'prints'"),
    Mutant("a length that null takes away", "raysde.config.loading:set_path", " and value is not None:", ":", "tests/test_recipes.py -k 'prints'"),
    Mutant("an alias that MLflow keeps", "raysde.config.names:check_alias", "if RESERVED.fullmatch(alias):", "if False:", "tests/registry/test_registry.py -k 'alias or named'"),
    Mutant("only the ends of a range of workers looked at", "raysde.config.recipe:RunConfig._fits", "for workers in range(least, most + 1) if made % workers", "for workers in {least, most} if made % workers", "tests/multiprocess/test_sharded.py -k 'unequal'"),
    Mutant("off that YAML takes for False", "raysde.config.data_sections:_read_off", 'return "off" if given is False else given', "return given", "tests/config/test_loading.py -k 'off_is'"),
    Mutant("a section that cannot be switched off", "raysde.config.loading:_describe_error", "if where in OFF else", "if False else", "tests/config/test_loading.py -k 'switched_off'"),
    Mutant("a folder taken for the recipe of its name", "raysde.config.builtin:resolve_builtin", "os.path.exists(path) and not os.path.isdir(path)", "os.path.exists(path)", "tests/config/test_builtin.py -k 'folder'"),
    Mutant("a built-in recipe before the user's own", "raysde.config.builtin:resolve_builtin", "if os.path.exists(path) and not os.path.isdir(path):", "if False:", "tests/config/test_builtin.py -k 'precedence'"),
]  # fmt: skip
