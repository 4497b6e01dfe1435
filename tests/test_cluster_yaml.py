"""cluster.yaml passes the schema of Ray's launcher, and installs the versions that this project pins."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from tests.support.paths import ROOT

SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_it_fits_rays_schema(cluster):
    jsonschema.validate(cluster, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "workers": 3}, SCHEMA)


def test_image_and_packages_are_the_pinned_ones(cluster):
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert re.match(rf"rayproject/ray:{re.escape(pinned['ray'])}-py311", cluster["docker"]["image"])
    assert pinned["torch"] == "2.13.0"
    (install,) = cluster["setup_commands"]
    assert "constraints.txt" in install
    checkout = {source: target for target, source in cluster["file_mounts"].items()}["."]
    assert checkout in install


def test_the_head_has_no_gpu_and_workers_scale(cluster):
    types = cluster["available_node_types"]
    assert "GPU" not in types[cluster["head_node_type"]]["resources"]
    workers = [kind for name, kind in types.items() if name != cluster["head_node_type"]]
    assert all(kind["min_workers"] == 0 < kind["max_workers"] and kind["resources"]["GPU"] >= 1 for kind in workers)
