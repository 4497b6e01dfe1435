"""Lookup of embeddings and latents: a run uses only folders of its own encoder and its own data."""

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from raysde.cluster.tune_training import tune_job
from raysde.conditioning.text import AutoText, PretrainedText, ScratchText
from raysde.config import loading
from raysde.data.dataset.manifest import read_manifest, write_manifest
from raysde.data.dataset.precomputed import verify_derived
from raysde.precompute.jobs import LatentsJob, TextJob
from raysde.precompute.lookup import choose_text_encoder, find_embeddings, find_latents, latent_spec_of
from raysde.runs.run import list_remarks, open_run
from raysde.tuning.training.settings import read_settings
from tests.support.digits import write_digit_shards
from tests.support.encoders import autoencoder, text_encoder
from tests.support.precomputed import embed, encode, many_captions, text_recipe


def changed_data(manifest):
    """Return a manifest that claims another hash for the last shard."""
    last = dataclasses.replace(manifest.shards[-1], sha256=f"{int(manifest.shards[-1].sha256, 16) ^ 1:064x}")
    write_manifest(dataclasses.replace(manifest, shards=(*manifest.shards[:-1], last)))
    return read_manifest(manifest.path)


def nudged(folder: str, name: str) -> None:
    """Flip one bit of one weight in a file."""
    weights = load_file(Path(folder, name))
    first = sorted(weights)[-1]
    values = weights[first].clone().contiguous()
    values.view(-1)[0] = values.view(-1)[0].nextafter(values.view(-1)[0] + 1.0)
    save_file({**weights, first: values}, Path(folder, name), {"format": "pt"})


def test_latents_are_of_this_autoencoder_and_this_data(tmp_path):
    """The fp32 latents are preferred; changed weights, changed data or another image size are refused."""
    manifest, vae = write_digit_shards(tmp_path / "shards", 12, 8, 4), autoencoder(tmp_path / "vae")
    half = encode(manifest, vae, "fp16")
    assert find_latents(manifest, vae, None) == half
    fine = encode(manifest, vae, "fp32")
    assert find_latents(manifest, vae, None) == find_latents(manifest, vae, (8, 8)) == fine
    spec = latent_spec_of(fine, vae)
    assert spec == LatentsJob.of(manifest, vae, dtype="fp32", batch_size=1).latent
    with pytest.raises(ValueError, match=r"data\.image_size=4x8, but the latents are of images of size 8x8; "):
        find_latents(manifest, vae, (4, 8))
    with pytest.raises(ValueError, match=f"has no latents of data .*{fine.path} is of .* data {manifest.fingerprint}"):
        find_latents(changed_data(manifest), vae, None)
    write_manifest(manifest)
    nudged(vae, "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=f"is of sha256 {fine.sha256[:12]}.*run `raysde precompute"):
        find_latents(manifest, vae, None)


def test_embeddings_are_of_this_encoder_and_this_data(tmp_path):
    """The fp32 embeddings are preferred; changed weights or data are refused in every mode but off."""
    manifest = many_captions(tmp_path / "shards", 12, 8, 4)
    encoder = text_encoder(tmp_path / "bert")
    text = PretrainedText(path=encoder, max_tokens=32)
    assert find_embeddings(manifest, text, "auto") is None
    half = embed(manifest, encoder, "fp16")
    assert find_embeddings(manifest, text, "require") == half
    fine = embed(manifest, encoder, "fp32")
    assert find_embeddings(manifest, text, "auto") == find_embeddings(manifest, text, "require") == fine
    short = embed(manifest, encoder, "fp32", max_tokens=8)
    assert find_embeddings(manifest, dataclasses.replace(text, max_tokens=8), "auto") == short
    other = changed_data(manifest)
    for mode in ("auto", "require"):
        with pytest.raises(ValueError, match=f"from data {manifest.fingerprint}.* and data.path {other.fingerprint}"):
            find_embeddings(other, text, mode)
    assert find_embeddings(other, text, "off") is None
    write_manifest(manifest)
    nudged(encoder, "model.safetensors")
    for mode in ("auto", "require"):
        with pytest.raises(ValueError, match=f"sha256 {fine.sha256[:12]} .*remove the folder"):
            find_embeddings(manifest, text, mode)


def test_the_encoder_that_ran_over_the_data_is_the_one_that_is_meant(tmp_path):
    """Auto means a small encoder before `raysde precompute` and its encoder after it; several or stale ones are refused."""
    manifest = many_captions(tmp_path / "shards", 12, 8, 4)
    auto, small = AutoText(width=32, layers=1), ScratchText(width=32, layers=1)
    assert choose_text_encoder(manifest, auto, "auto") == choose_text_encoder(manifest, auto, "off") == small
    with pytest.raises(ValueError, match=r"data\.precomputed=require, but .* has no embeddings; run"):
        choose_text_encoder(manifest, auto, "require")
    first = embed(manifest, text_encoder(tmp_path / "bert"), "fp16")
    chosen = PretrainedText(path=first.encoder, max_tokens=32)
    assert choose_text_encoder(manifest, auto, "auto") == choose_text_encoder(manifest, auto, "require") == chosen
    assert find_embeddings(manifest, chosen, "auto") == first
    embed(manifest, text_encoder(tmp_path / "bert"), "fp32")
    assert choose_text_encoder(manifest, auto, "auto") == chosen
    assert choose_text_encoder(manifest, auto, "off") == small
    assert choose_text_encoder(manifest, small, "auto") == small
    assert choose_text_encoder(manifest, None, "auto") is None
    assert choose_text_encoder(dataclasses.replace(manifest, captions=0), auto, "auto") is None
    other = changed_data(manifest)
    with pytest.raises(ValueError, match=f"from data {manifest.fingerprint}, but data.path .* has {other.fingerprint}"):
        choose_text_encoder(other, auto, "auto")
    write_manifest(manifest)
    second = embed(manifest, text_encoder(tmp_path / "other", seed=1))
    third = embed(manifest, text_encoder(tmp_path / "third", seed=2))
    with pytest.raises(ValueError, match="embeddings of 3 encoders") as caught:
        choose_text_encoder(manifest, auto, "auto")
    for each in (first, second, third):
        assert str(caught.value).count(each.encoder) == 1


def test_a_run_with_the_encoder_that_is_meant_is_the_run_that_names_it(tmp_path):
    """The run's recipe names the encoder and its settings, and no setting of the small encoder."""
    manifest = many_captions(tmp_path / "shards", 12, 8, 4)
    tree = text_recipe(manifest, text_encoder(tmp_path / "bert"), tmp_path / "runs")
    embed(manifest, tree["text"]["path"])
    named = open_run(loading.parse_recipe(tree))
    meant = open_run(loading.parse_recipe({**tree, "text": {"kind": "auto", "width": 32}}))
    assert meant.config == named.config
    assert (meant.spec, meant.text) == (named.spec, named.text)
    assert meant.text is not None


def test_what_was_precomputed_in_vain_is_said(tmp_path):
    manifest = many_captions(tmp_path / "shards", 12, 8, 4)
    encoder, vae = text_encoder(tmp_path / "bert"), autoencoder(tmp_path / "vae")
    tree = text_recipe(manifest, encoder, tmp_path / "runs", train__batch=8)
    small = {**tree, "text": {"kind": "scratch", "width": 16, "heads": 2}}
    assert list_remarks(open_run(loading.parse_recipe(small))) == []
    embed(manifest, encoder)
    assert list_remarks(open_run(loading.parse_recipe(tree))) == []
    (said,) = list_remarks(open_run(loading.parse_recipe(small)))
    assert f"text.path={encoder}" in said
    assert (
        list_remarks(open_run(loading.parse_recipe({**small, "data": {**small["data"], "precomputed": "off"}}))) == []
    )
    encode(manifest, vae)
    (said,) = list_remarks(open_run(loading.parse_recipe(tree)))
    assert f"latent.vae={vae}" in said


def test_a_sweep_says_what_was_precomputed_in_vain(tmp_path, monkeypatch, capsys):
    """A sweep reports unused embeddings before it starts, as a run does."""

    def stopped(*given):
        raise RuntimeError("stopped")

    manifest = many_captions(tmp_path / "shards", 12, 8, 4)
    encoder = text_encoder(tmp_path / "bert")
    embed(manifest, encoder)
    tree = text_recipe(manifest, encoder, tmp_path / "runs", validation={"rows": 4, "every": 5})
    tree |= {
        "text": {"kind": "scratch", "width": 16, "heads": 2},
        "tracking": {"uri": f"sqlite:///{tmp_path / 'x.db'}"},
    }
    monkeypatch.setattr("raysde.cluster.tune_training.check_cluster", stopped)
    settings = read_settings(None, ["train.lr=[1e-3,2e-3]"], {"search": "grid", "scheduler": "fifo"})
    with pytest.raises(RuntimeError, match="stopped"):
        tune_job(tree, settings, "lrs")
    assert f"is not used: text.kind=auto, or text.kind=pretrained text.path={encoder}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "latents"])
def test_a_job_is_told_from_another_by_all_that_its_bytes_depend_on(tmp_path, kind):
    """Changing any value that determines the bytes changes the identity, so that no folder is resumed with it."""
    manifest = many_captions(tmp_path / "shards", 12, 8, 4)
    if kind == "text":
        job = TextJob.of(manifest, text_encoder(tmp_path / "bert"), max_tokens=32, dtype="fp32", batch_size=3)
        changes = [{"sha256": "x"}, {"max_tokens": 16}, {"width": 3}, {"encoder": "moved"}]
    else:
        job = LatentsJob.of(manifest, autoencoder(tmp_path / "vae"), dtype="fp32", batch_size=3)
        latent = job.latent
        changes = [
            {"latent": dataclasses.replace(latent, sha256="x")},
            {"latent": dataclasses.replace(latent, vae="moved")},
        ]
    changes += [{"dtype": "fp16"}, {"batch_size": 4}, {"fingerprint": "x"}, {"shards": "moved"}]
    others = [dataclasses.replace(job, **change) for change in changes]
    moved = [job.out != other.out for other in others]
    differs = [json.dumps(other.identity) != json.dumps(job.identity) for other in others]
    if kind == "text":
        # sha256, max_tokens, width, encoder; dtype, batch_size, fingerprint, shards
        assert differs == [True, True, True, False, True, True, True, False]
        assert moved == [True, True, False, False, True, False, False, True]
    else:
        # the autoencoder's hash, its place; dtype, batch_size, fingerprint, shards
        assert differs == [True, False, True, True, True, False]
        assert moved == [True, False, True, False, False, True]


def test_a_folder_is_what_its_manifest_and_the_shards_say(tmp_path):
    """Refuse a changed byte, a missing file, shards in another order, and shards with other rows."""
    manifest, vae = write_digit_shards(tmp_path / "shards", 12, 8, 4), autoencoder(tmp_path / "vae")
    derived = encode(manifest, vae)
    verify_derived(derived, manifest, hashes=True)
    shards = manifest.shards
    for wrong in (shards[::-1], shards[:1], (dataclasses.replace(shards[0], rows=7), shards[1])):
        with pytest.raises(ValueError, match="does not list the files and rows of the shards"):
            verify_derived(derived, dataclasses.replace(manifest, shards=wrong), hashes=False)
    path = Path(derived.path, derived.files[1].file)
    whole = path.read_bytes()
    for content, hashes in ((whole[:-1] + bytes([whole[-1] ^ 1]), True), (whole + b"x", False)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not the file that its manifest describes"):
            verify_derived(derived, manifest, hashes=hashes)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        verify_derived(derived, manifest, hashes=False)
