"""The trials of a sweep train on one version of each data set, whenever the data grow."""

import pytest

from raysde.cluster.resources import Share
from raysde.cluster.tune_callbacks import Children
from raysde.cluster.tune_training import sweep_definition
from raysde.config import loading
from raysde.config.places import resolve_places
from raysde.runs import identity
from raysde.runs.data_record import folder_of, pin_sweep, record_data
from raysde.runs.run import open_run
from raysde.tuning.training.ledger import Ledger, Trial, read_definition
from raysde.tuning.training.settings import SweepSettings
from raysde.tuning.training.space import read_space
from tests.support.ingested import RULES, ingest_here, scored_parts
from tests.support.training import small_recipe

SPACE = {"train.lr": [1e-3, 1e-2]}
SETTINGS = SweepSettings(space=SPACE)


def begin(tree, *, records=True):
    """Return the pinned tree of a sweep, its recipe and its run, as `raysde tune` makes them, and write its files."""
    named = {**tree, "name": "sweep"}
    recipe = resolve_places(loading.parse_recipe(named))
    pinned = pin_sweep(tree, recipe, read_definition(folder_of(recipe)).get("data", {}).get("fingerprint"))
    recipe = resolve_places(loading.parse_recipe({**pinned, "name": "sweep"}))
    run = open_run(recipe)
    Ledger(folder_of(recipe), sweep_definition(run, SETTINGS), recipe.default)
    if records:
        record_data(recipe, run.sources.sources)
    return pinned, recipe, run


def trial_run(pinned, recipe, number):
    children = Children(None, "", recipe, pinned, read_space(SPACE), "")
    values = {"train.lr": SPACE["train.lr"][number]}
    return open_run(children.recipe_of(Trial(number, values), Share(1)))


@pytest.mark.parametrize("records", [True, False])
def test_trials_stay_on_the_version_on_which_the_sweep_began(tmp_path, records):
    """A trial that begins after an append, a resumed sweep and a sweep that is asked for more trials after its end have
    the first version; so does a sweep that recorded no more than the fingerprint of its data. A new sweep has the
    newest."""
    base = ingest_here(scored_parts(240), tmp_path / "data", RULES)
    tree = small_recipe(base, tmp_path / "runs", text=None, validation__rows=8)
    pinned, recipe, run = begin(tree, records=records)
    assert run.manifest == base
    assert trial_run(pinned, recipe, 0).manifest == base
    grown = ingest_here(scored_parts(60, first=1000), tmp_path / "data", RULES, base)
    assert trial_run(pinned, recipe, 1).manifest == base
    for _ in range(2):
        again, recipe, run = begin(tree, records=records)
        assert again == pinned
        assert run.manifest == base
        assert trial_run(again, recipe, 1).manifest == base
        identity.settle_word(folder_of(recipe), {}, begun=True)
        identity.note_end(folder_of(recipe))
    other = {**tree, "storage": str(tmp_path / "other")}
    assert begin(other)[2].manifest == grown


def test_trials_on_several_data_sets_stay_on_their_versions(tmp_path):
    """The data set without a version in the recipe keeps its first; the recipe's own version holds."""
    first, second = (ingest_here(scored_parts(120), tmp_path / name, RULES) for name in ("first", "second"))
    newer = ingest_here(scored_parts(40, first=500), tmp_path / "second", RULES, second)
    mix = [{"path": first.path, "weight": 1}, {"path": second.path, "weight": 1, "version": 1}]
    tree = {**small_recipe(first, tmp_path / "runs", text=None, validation__rows=8), "data": {"mix": mix}}
    begin(tree)
    ingest_here(scored_parts(40, first=500), tmp_path / "first", RULES, first)
    pinned, recipe, _ = begin(tree)
    found = trial_run(pinned, recipe, 1)
    assert [source.manifest for source in found.sources.sources] == [first, second]
    free = {**tree, "storage": str(tmp_path / "other"), "data": {"mix": [mix[0], {**mix[1], "version": None}]}}
    assert [source.manifest.version for source in begin(free)[2].sources.sources] == [2, newer.version]


def test_a_sweep_that_asks_for_other_data_is_refused(tmp_path):
    base = ingest_here(scored_parts(120), tmp_path / "data", RULES)
    tree = small_recipe(base, tmp_path / "runs", text=None, validation__rows=8)
    begin(tree)
    ingest_here(scored_parts(40, first=500), tmp_path / "data", RULES, base)
    tree["data"]["version"] = 2
    with pytest.raises(ValueError, match="was started with data fingerprint="):
        begin(tree)
