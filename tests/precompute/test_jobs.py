"""Precomputed embeddings equal the encoder's vectors, train the same network, and are refused when stale."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from raysde.checkpoints import checkpoint
from raysde.cli import main
from raysde.conditioning.embedder import encoder_hash
from raysde.conditioning.pretrained import pretrained_encoder, pretrained_tokenizer
from raysde.conditioning.text import PretrainedText, Tokenizer
from raysde.config import loading
from raysde.data.batches.arrow import from_table
from raysde.data.batches.microbatch import read_batches
from raysde.data.batches.tables import to_table
from raysde.data.dataset.manifest import write_manifest
from raysde.data.dataset.precomputed import NUMBERS, find_derived, folder_name, read_derived, verify_derived
from raysde.data.dataset.precomputed_rows import Contexts
from raysde.data.dataset.reader import Reader
from raysde.data.dataset.shard_table import Shards
from raysde.data.dataset.view import CAPTION, draw_uniforms
from raysde.distributed.world import World
from raysde.precompute.jobs import TextJob
from raysde.runs.build import make_objective, make_validator, new_state
from raysde.runs.local import train_here
from raysde.runs.run import check_resumable, check_run, open_run
from raysde.training.objective import microbatch_loss
from tests.support.blocks import decode_steps
from tests.support.encoders import CAPTIONS, text_encoder
from tests.support.precomputed import embed, many_captions, text_recipe
from tests.support.training import same_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a data set, an encoder and fp32 embeddings, shared by tests."""
    folder = tmp_path_factory.mktemp("made")
    manifest, encoder = many_captions(folder / "shards"), text_encoder(folder / "bert")
    return manifest, encoder, embed(manifest, encoder)


@pytest.fixture
def own(tmp_path):
    """Return a data set, an encoder and fp32 embeddings of a test's own, which it may change."""
    manifest, encoder = many_captions(tmp_path / "shards"), text_encoder(tmp_path / "bert")
    return manifest, encoder, embed(manifest, encoder)


@torch.no_grad()
def reference(encoder: str, caption: str) -> np.ndarray:
    """Return the vectors by transformers for one caption alone."""
    ids = pretrained_tokenizer(encoder)(caption, return_tensors="pt")
    return BertModel.from_pretrained(encoder).eval()(**ids).last_hidden_state[0].numpy()


def test_embeddings_are_the_encoders_own(made):
    """Embeddings cover every caption of every row and the empty one, hold only real tokens, and a row may have none."""
    manifest, encoder, derived = made
    assert read_derived(derived.path) == derived
    verify_derived(derived, manifest, hashes=True)
    contexts, expected = Contexts(derived, manifest), {word: reference(encoder, word) for word in [*CAPTIONS, ""]}
    for row in range(manifest.rows):
        captions = Reader(manifest).about(row)["captions"]
        for place, caption in enumerate(captions or [""]):
            draw = (place + 0.5) / max(1, len(captions))
            found, tokens = contexts.read(np.array([row]), np.array([draw]))
            assert tokens.tolist() == [len(expected[caption])]
            np.testing.assert_allclose(found[0, : tokens[0]], expected[caption], atol=1e-6)
            assert not found[0, tokens[0] :].any()
    np.testing.assert_allclose(contexts.empty, expected[""], atol=1e-6)


def test_half_precision_is_rounding(own):
    manifest, encoder, whole = own
    half = embed(manifest, encoder, "fp16")
    assert half.path != whole.path
    rows, middle = np.arange(manifest.rows), np.full(manifest.rows, 0.5)
    fine, coarse = (Contexts(each, manifest).read(rows, middle)[0] for each in (whole, half))
    assert coarse.dtype == np.float16
    assert np.array_equal(coarse, fine.astype(np.float16))
    assert sum(file.bytes for file in half.files) < 0.75 * sum(file.bytes for file in whole.files)


def test_the_rows_of_a_microbatch_carry_their_captions_vectors(made, tmp_path):
    """Tokens and mask are those of the caption that the microbatch's random stream selects."""
    manifest, encoder, derived = made
    run = open_run(loading.parse_recipe(text_recipe(manifest, encoder, tmp_path)))
    assert run.text == derived
    text = PretrainedText(path=encoder, max_tokens=32)
    model, tokenizer = pretrained_encoder(text).eval(), Tokenizer(pretrained_tokenizer(encoder), 32)
    seen = set()
    for batches in read_batches(run.feed, Reader(manifest, text=derived), 0, 6):
        for batch in batches:
            draw = draw_uniforms(run.config.seed, batch.step, batch.index, len(batch.rows))[:, CAPTION]
            own = [Reader(manifest).about(int(row))["captions"] for row in batch.rows]
            chosen = [each[int(d * len(each))] if each else "" for each, d in zip(own, draw, strict=True)]
            assert batch.captions == [""] * len(chosen)  # embeddings replace them
            ids, mask = tokenizer(chosen)
            assert torch.equal(batch.context_mask, mask)
            expected = model(ids, mask).detach() * mask[:, :, None]
            torch.testing.assert_close(batch.context, expected, atol=1e-6, rtol=1e-5)
            seen.update(chosen)
    assert seen == {*CAPTIONS, ""}


def stirred(run):
    """Return a state with random weights in all layers, since layers that start at zero would hide differences."""
    state = new_state(run, CPU)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in state.model.network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return state


def test_the_loss_and_gradient_are_those_without(made, tmp_path):
    """Loss and gradient agree with dropped conditions and several captions a row, and the encoder is not run."""
    manifest, encoder, _ = made
    losses, gradients, validations = [], [], []
    for mode in ("require", "off"):
        changes = {"data__precomputed": mode, "validation__rows": 12}
        run = open_run(loading.parse_recipe(text_recipe(manifest, encoder, tmp_path, **changes)))
        state, task = stirred(run), make_objective(run)
        calls = []
        state.model.conditioner.encoder.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        (batches,) = read_batches(run.feed, Reader(manifest, text=run.text), 0, 1)
        losses.append([microbatch_loss(state.model, state.model, batch, task, CPU) for batch in batches])
        gradients.append(torch.autograd.grad(sum(losses[-1]), [p for p in state.model.network.parameters()]))
        with torch.no_grad():
            validations.append(make_validator(run, World())(state.model)["val/loss"])
        assert bool(calls) == (mode == "off")
    assert len(losses[0]) == 2
    torch.testing.assert_close(torch.stack(losses[0]), torch.stack(losses[1]), rtol=1e-5, atol=0)
    for with_them, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_them, without, rtol=1e-3, atol=1e-5)
    assert validations[0] == pytest.approx(validations[1], rel=1e-5)


def test_dropped_rows_see_the_empty_caption(made, tmp_path):
    """The loss does not depend on the captions' vectors where every condition is dropped."""
    manifest, encoder, _ = made
    run = open_run(loading.parse_recipe(text_recipe(manifest, encoder, tmp_path, train__condition_dropout=1.0)))
    state, task = stirred(run), make_objective(run)
    ((batch, _),) = read_batches(run.feed, Reader(manifest, text=run.text), 0, 1)
    other = dataclasses.replace(batch, context=batch.context + 1.0)
    losses = [microbatch_loss(state.model, state.model, each, task, CPU) for each in (batch, other)]
    assert losses[0].item() == losses[1].item()
    kept = dataclasses.replace(task, condition_dropout=0.0)
    losses = [microbatch_loss(state.model, state.model, each, kept, CPU) for each in (batch, other)]
    assert losses[0].item() != losses[1].item()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_runs_with_embeddings_repeat_to_the_bit(tmp_path, dtype):
    """Two runs and a resumed run give equal weights, and the checkpoint, which holds the encoder, samples alone."""
    manifest, encoder = many_captions(tmp_path / "shards"), text_encoder(tmp_path / "bert")
    embed(manifest, encoder, dtype)
    ends = []
    for name in ("a", "b"):
        tree = text_recipe(manifest, encoder, tmp_path / name, data__precomputed="require")
        if name == "b":
            train_here(
                open_run(loading.parse_recipe({**tree, "train": {**tree["train"], "length": {"steps": 5}}})), None
            )
        ends.append(train_here(open_run(loading.parse_recipe(tree)), None))
    assert same_tensors(ends[0].model.state_dict(), ends[1].model.state_dict())
    found = checkpoint.load_model(tmp_path / "a" / "small" / checkpoint.checkpoint_name(10))
    images = found.sample(prompts=["the digit 7"], solver="euler", steps=2, guidance=2.0).images
    assert images.shape == (1, 1, 8, 8)


def test_a_resumed_run_keeps_its_way(own, tmp_path):
    """Resuming is refused if embeddings appeared or vanished, because results would differ slightly."""
    manifest, encoder, _ = own
    tree = text_recipe(manifest, encoder, tmp_path / "runs", train__length__steps=2, checkpoint_every=2)
    run = open_run(loading.parse_recipe(tree))
    train_here(run, None)
    found = checkpoint.read_description(tmp_path / "runs" / "small" / checkpoint.checkpoint_name(2))
    check_resumable(run, found)
    tree["data"]["precomputed"] = "off"
    with pytest.raises(ValueError, match=r"trained with text-[0-9a-f]{12} precomputed text"):
        check_resumable(open_run(loading.parse_recipe(tree)), found)


def test_stale_embeddings_are_refused(own, tmp_path):
    """Embeddings of other weights, of other data or damaged are refused by name; another max_tokens is ignored."""
    manifest, encoder, derived = own

    def opened(mode="auto", **text):
        tree = text_recipe(manifest, encoder, tmp_path / "runs", data__precomputed=mode)
        tree["text"].update(text)
        return open_run(loading.parse_recipe(tree))

    assert opened().text == derived
    assert opened("off").text is None
    assert opened(max_tokens=16).text is None
    assert opened(trainable=True).text is None
    with pytest.raises(ValueError, match=r"data\.precomputed=require.*raysde precompute .* --max-tokens 16"):
        opened("require", max_tokens=16)
    with pytest.raises(ValueError, match="needs a frozen encoder"):
        opened("require", trainable=True)
    Path(derived.path, "empty.bin").write_bytes(b"\0" * derived.empty.bytes)
    with pytest.raises(ValueError, match=r"empty\.bin is not the file"):
        check_run(opened())
    text_encoder(Path(encoder), seed=1)
    with pytest.raises(ValueError, match=f"{derived.sha256[:12]}.*remove the folder"):
        opened()
    job = TextJob.of(manifest, encoder, max_tokens=32, dtype="fp32", batch_size=1)
    with pytest.raises(ValueError, match="where the job began"):
        dataclasses.replace(job, sha256=derived.sha256).work(manifest)
    text_encoder(Path(encoder))
    first, *rest = manifest.shards
    other = dataclasses.replace(first, sha256="0" * 64)
    write_manifest(dataclasses.replace(manifest, shards=Shards.of([other, *rest])))
    with pytest.raises(ValueError, match=derived.fingerprint):
        opened()


def test_another_tokenizer_is_another_encoder(own):
    """The same weights with another tokenizer have another hash."""
    _, encoder, derived = own
    assert encoder_hash(encoder) == derived.sha256
    file = Path(encoder, "tokenizer.json")
    content = json.loads(file.read_text())
    content["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(content))
    assert encoder_hash(encoder) != derived.sha256


def test_what_fits_no_half_number_is_refused(own):
    """An encoder whose values overflow float16 raises instead of storing infinity."""
    from safetensors.torch import load_file, save_file

    manifest, encoder, _ = own
    weights = load_file(Path(encoder, "model.safetensors"))
    key = next(name for name in weights if name.endswith("layer.1.output.LayerNorm.weight"))
    save_file({**weights, key: weights[key] * 1e6}, Path(encoder, "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(ValueError, match="fp16 cannot hold; use --dtype fp32"):
        embed(manifest, encoder, "fp16")


def test_an_unfinished_folder_is_passed_over(own, tmp_path):
    manifest, encoder, derived = own
    Path(derived.path, "manifest.json").unlink()
    assert find_derived("text", manifest.path) == []
    assert open_run(loading.parse_recipe(text_recipe(manifest, encoder, tmp_path / "runs"))).text is None


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_blocks_carry_vectors(tmp_path, dtype):
    """An Arrow table keeps vectors and masks, also if lengths differ."""
    manifest, encoder = many_captions(tmp_path / "shards"), text_encoder(tmp_path / "bert")
    embed(manifest, encoder, dtype)
    run = open_run(loading.parse_recipe(text_recipe(manifest, encoder, tmp_path / "runs", train__microbatch=2)))
    reader, numbers = Reader(manifest, text=run.text), {"context": NUMBERS[dtype]}
    batches = [batch for step in read_batches(run.feed, reader, 0, 2) for batch in step]
    assert len({batch.context.shape[1] for batch in batches}) > 1
    table = to_table(decode_steps(run.feed, reader, 0, 2), numbers)
    assert to_table([], numbers).schema == table.schema
    found = list(from_table(table, 1))
    assert len(found) == len(batches) == 16
    for got, sent in zip(found, batches, strict=True):
        assert got.context.dtype == sent.context.dtype
        assert torch.equal(got.context, sent.context)
        assert torch.equal(got.context_mask, sent.context_mask)


def test_an_encoder_kept_in_half_precision_trains_and_draws(tmp_path):
    """Half-precision weights are cast to the network's dtype, with and without embeddings, and from the checkpoint."""
    manifest, encoder = many_captions(tmp_path / "shards"), text_encoder(tmp_path / "bert")
    BertModel.from_pretrained(encoder).half().save_pretrained(encoder)
    tree = text_recipe(manifest, encoder, tmp_path / "runs", train__length__steps=1)
    train_here(open_run(loading.parse_recipe({**tree, "name": "plain"})), None)
    embed(manifest, encoder, "fp16")
    train_here(open_run(loading.parse_recipe(tree)), None)
    for name in ("plain", "small"):
        model = checkpoint.load_model(tmp_path / "runs" / name / checkpoint.checkpoint_name(1))
        assert {p.dtype for p in model.score_model.parameters()} == {torch.float32}
        assert model.sample(prompts=["the digit 7"], solver="euler", steps=1).images.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ([], "--text, --vae or both"),
        (["--text", "BERT", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["--text", "BERT", "--max-tokens", "64"], "max_tokens=64 exceeds the 32 positions"),
        (["--text", "no/such/encoder"], "no/such/encoder"),
    ],
)
def test_the_command_names_what_is_wrong(made, capsys, options, culprit):
    manifest, encoder, _ = made
    assert main(["precompute", manifest.path, *(option.replace("BERT", encoder) for option in options)]) == 2
    assert culprit in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", ["/data/shards/text-1", "/what?/shards/text-1", "s3://bucket/text-1?region=a/b", "s3://bucket/x/text-1"]
)
def test_folders_are_known_by_their_last_name(path):
    """A question mark starts options only in a URI, not in a path."""
    assert folder_name(path) == "text-1"
