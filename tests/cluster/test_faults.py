"""Failures of the data during a run."""

import pytest

from raysde.cluster.job import train_job
from raysde.config import loading
from tests.support.digits import write_digit_shards
from tests.support.training import small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@pytest.mark.parametrize("harm", ["vanishes", "changes"])
def test_a_shard_that_goes_during_training_ends_the_run_with_its_name(tmp_path, harm):
    """The shard vanishes after the checks and before it is read: one error that names the shard, and no hang."""
    manifest = write_digit_shards(tmp_path / "shards", rows=1797, shard_rows=20, row_group=20)
    tree = small_recipe(
        manifest, tmp_path / "runs", tracking__uri=f"sqlite:///{tmp_path / 'mlflow.db'}", resources__cpus_per_worker=1,
        resources__max_failures=0, train__length__steps=400, data__shuffle_window=20, data__block_steps=1,
        network={"kind": "external", "factory": "tests.cluster.networks:Thief",
                 "kwargs": {"folder": manifest.path, "harm": harm}},
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"shard train-000\d\d.parquet of .* (is missing|is damaged|cannot be read)"):
        train_job(loading.parse_recipe(tree))
