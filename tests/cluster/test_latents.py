"""A whole job on Ray with precomputed latents and embeddings, compared with the bare loop."""

import pytest
import torch
from safetensors.torch import load_file

from raysde.checkpoints import checkpoint
from raysde.cluster.job import train_job
from raysde.cluster.precompute import precompute
from raysde.config import loading
from raysde.precompute.jobs import LatentsJob, TextJob
from raysde.runs.local import train_here
from raysde.runs.run import open_run
from tests.support.encoders import autoencoder, text_encoder
from tests.support.precomputed import many_captions
from tests.support.training import same_tensors, small_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_a_job_on_latents_and_embeddings_is_the_bare_loop(tmp_path):
    """Ray makes both and reads them through the stream; weights and EMA equal those of one process bit for bit."""
    torch.set_num_threads(1)
    manifest, encoder, vae = (
        many_captions(tmp_path / "shards"),
        text_encoder(tmp_path / "bert"),
        autoencoder(tmp_path / "vae"),
    )
    text = precompute(TextJob.of(manifest, encoder, max_tokens=32, dtype="fp32", batch_size=8), manifest)
    latents = precompute(LatentsJob.of(manifest, vae, dtype="fp16", batch_size=8), manifest)

    def recipe(name):
        return loading.parse_recipe(small_recipe(
            manifest, tmp_path / "runs", name=name, latent__vae=vae, text__kind="pretrained", text__path=encoder,
            text__max_tokens=32, network__multipliers=[1], train__microbatch=8, validation__rows=8,
            validation__every=5, tracking__uri=f"sqlite:///{tmp_path / 'mlflow.db'}", resources__cpus_per_worker=1,
        ))  # fmt: skip

    job = train_job(recipe("job"))
    found = checkpoint.read_description(job.checkpoint)
    assert (found.data["text"], found.data["latents"]) == (text.name, latents.name)
    bare = open_run(recipe("bare"))
    train_here(bare, None)
    alone = checkpoint.find_newest_checkpoint(tmp_path / "runs" / "bare")
    for name in ("weights.safetensors", "ema.safetensors"):
        assert same_tensors(load_file(job.checkpoint / name), load_file(alone / name))
