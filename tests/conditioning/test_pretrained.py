"""Text encoders of every family: transformers' own vectors, independence of padding, and refused folders."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.models import WordLevel
from transformers import AutoTokenizer

from raysde.cli import main
from raysde.conditioning.conditioner import Conditioner
from raysde.conditioning.pretrained import check_pretrained, pretrained_encoder, pretrained_tokenizer
from raysde.conditioning.text import PretrainedText, Tokenizer, train_tokenizer
from raysde.config import loading
from raysde.data.dataset.reader import Reader
from raysde.inference.model import Model
from raysde.models.spec import ModelSpec, fresh_model
from raysde.networks import UNetConfig
from raysde.runs.build import new_state
from raysde.runs.run import open_run
from raysde.sde import VE, VP
from tests.support.digits import write_digit_shards
from tests.support.real import real

CPU = torch.device("cpu")
SHORT = ["a red heart", "two", "", "the digit one, in pencil"]
LONG = "a very long story of a small red heart that met a blue whale and a green tree and two of the digits in pencil"
TEXTS = [*SHORT, LONG[:56]]
FAMILIES = ["bert", "roberta", "mpnet", "clip", "t5"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
POSITIONS = 80


def word_pieces(folder: Path) -> int:
    tokenizer = train_tokenizer([*SHORT, LONG], 1000)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def tiny_bert(folder: Path) -> None:
    sizes = transformers.BertConfig(**SIZES, vocab_size=word_pieces(folder), max_position_embeddings=POSITIONS)
    transformers.BertModel(sizes).save_pretrained(folder)


def tiny_roberta(folder: Path) -> None:
    """Save a RoBERTa; its positions begin after the padding token's number, 0 here."""
    settings = {"vocab_size": word_pieces(folder), "max_position_embeddings": POSITIONS + 1, "pad_token_id": 0}
    transformers.RobertaModel(transformers.RobertaConfig(**SIZES, **settings)).save_pretrained(folder)


def tiny_mpnet(folder: Path) -> None:
    """Save an MPNet, which transformers does not list for text encoding; its positions begin at 2, whatever pads."""
    settings = {"vocab_size": word_pieces(folder), "max_position_embeddings": POSITIONS + 2, "pad_token_id": 0}
    transformers.MPNetModel(transformers.MPNetConfig(**SIZES, **settings)).save_pretrained(folder)


def tiny_clip(folder: Path) -> None:
    """Save both halves of a CLIP with the hub's file names, and a byte-level tokenizer that ends and pads with one
    token."""
    letters = "abcdefghijklmnopqrstuvwxyz,."
    vocabulary = {token: number for number, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    tokenizer.save_pretrained(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    words = {**SIZES, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": POSITIONS}
    vision = {**SIZES, "image_size": 8, "patch_size": 4}
    sizes = transformers.CLIPConfig(text_config=words, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(sizes).save_pretrained(folder)


def tiny_t5(folder: Path) -> None:
    """Save a T5 encoder and decoder, which has relative positions and no start token."""
    words = sorted({word for text in (*SHORT, LONG) for word in text.split()})
    pieces = [*(f"\u2581{word}" for word in words), *"abcdefghijklmnopqrstuvwxyz,\u2581"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in pieces)]
    tokenizer = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0)
    tokenizer.save_pretrained(folder)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    transformers.T5Model(transformers.T5Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Return folders with a tiny random encoder of each family, as Hugging Face saves them."""
    place = tmp_path_factory.mktemp("encoders")
    makers = {"bert": tiny_bert, "roberta": tiny_roberta, "mpnet": tiny_mpnet, "clip": tiny_clip, "t5": tiny_t5}
    for family, make in makers.items():
        torch.manual_seed(1)
        make(place / family)
    return {family: str(place / family) for family in makers}


@pytest.fixture(params=FAMILIES)
def family(request, folders) -> tuple[str, str]:
    return request.param, folders[request.param]


@torch.no_grad()
def transformers_own(kind: str, folder: str, captions: list[str]):
    """Return the output of transformers' own class for the family, with its tokenizer's mask."""
    tokens = AutoTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
    words = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    loaded = {
        "bert": lambda: transformers.BertModel.from_pretrained(folder),
        "roberta": lambda: transformers.RobertaModel.from_pretrained(folder),
        "mpnet": lambda: transformers.MPNetModel.from_pretrained(folder),
        "clip": lambda: transformers.CLIPModel.from_pretrained(folder).text_model,
        "t5": lambda: transformers.T5Model.from_pretrained(folder).encoder,
    }[kind]()
    return loaded.eval()(**words), words["attention_mask"].bool()


@torch.no_grad()
def test_vectors_are_transformers_own(family):
    """The vectors of all real tokens equal transformers' own, whatever is behind the mask."""
    kind, folder = family
    expected, real_tokens = transformers_own(kind, folder, TEXTS)
    conditioner = Conditioner(Tokenizer(pretrained_tokenizer(folder), POSITIONS), encoder_of(folder), 0)
    condition = conditioner.condition(TEXTS, None, 5)
    assert condition.mask.sum(dim=1).tolist() == real_tokens.sum(dim=1).tolist()
    encoded = conditioner(condition)
    torch.testing.assert_close(
        encoded.context[condition.mask], expected.last_hidden_state[real_tokens], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_captions_are_summed_up_as_their_encoder_was_trained(family):
    """CLIP's own pooler takes the end token; other encoders average over real tokens, written out."""
    kind, folder = family
    expected, real_tokens = transformers_own(kind, folder, TEXTS)
    if kind == "clip":
        summary = expected.pooler_output
    else:
        summary = torch.stack(
            [row[mask].mean(dim=0) for row, mask in zip(expected.last_hidden_state, real_tokens, strict=True)]
        )
    conditioner = Conditioner(Tokenizer(pretrained_tokenizer(folder), POSITIONS), encoder_of(folder), 0)
    found = conditioner(conditioner.condition(TEXTS, None, 5))
    torch.testing.assert_close(found.pooled, summary, atol=1e-5, rtol=1e-5)


def encoder_of(folder: str, max_tokens: int = POSITIONS):
    return pretrained_encoder(PretrainedText(path=folder, max_tokens=max_tokens)).eval()


def test_a_frozen_encoder_does_not_drop_out(folders):
    """A frozen encoder has no dropout even in training, unlike a trained one."""
    tokens = Tokenizer(pretrained_tokenizer(folders["bert"]), POSITIONS)

    def vectors(trainable: bool) -> list[torch.Tensor]:
        text = PretrainedText(path=folders["bert"], max_tokens=POSITIONS, trainable=trainable)
        conditioner = Conditioner(tokens, pretrained_encoder(text), 0).train()
        condition = conditioner.condition(SHORT, None, len(SHORT))
        return [conditioner(condition).context.detach() for _ in range(2)]

    first, second = vectors(trainable=False)
    assert torch.equal(first, second)
    first, second = vectors(trainable=True)
    assert not torch.equal(first, second)


def drawing_model(folder: str, max_tokens: int, **changes) -> Model:
    """Return a tiny model that draws floats, its zero-initialised layers filled so that every word matters."""
    values = {
        "image": (1, 8, 8), "data_range": (-1.0, 1.0), "data_std": 0.5, "sde": VP(), "target": "v", "classes": 0,
        "network": UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8),
        "text": PretrainedText(path=folder, max_tokens=max_tokens),
    }  # fmt: skip
    spec = ModelSpec(**{**values, **changes})
    model = fresh_model(spec, [*SHORT, LONG], 0)
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.1, generator=g)
    return Model(model.eval().requires_grad_(False), spec)


def test_images_do_not_depend_on_padding(family, monkeypatch):
    """Alone under a limit of 16 tokens, or beside a longer prompt under 77, a prompt has the same vectors and
    images."""
    monkeypatch.setattr(Model, "pixels", lambda self, x0, dtype=None: x0)
    _, folder = family
    short = [prompt for prompt in SHORT if len(pretrained_tokenizer(folder)(prompt)["input_ids"]) <= 16]
    assert len(short) >= 3
    settings = {"seed": 4, "guidance": 2.0, "solver": "heun", "steps": 2}
    # on this process the steps do not amplify rounding, which depends on the batch size
    narrow, wide = (drawing_model(folder, limit, sde=VE(sigma_max=1.0), target="noise") for limit in (16, 77))
    alone = narrow.sample(prompts=short, **settings).images
    beside = wide.sample(prompts=[*short, LONG], **settings).images
    torch.testing.assert_close(beside[: len(short)], alone, atol=1e-5, rtol=0)
    others = narrow.sample(prompts=[*short[1:], short[0]], **settings).images
    assert ((others - alone).abs().amax(dim=(1, 2, 3)) > 1e-2).all()  # the words matter


@torch.no_grad()
def test_vectors_do_not_depend_on_padding(family):
    """A caption has the same vectors in a batch with a much longer one, as in training."""
    _, folder = family
    narrow, wide = (drawing_model(folder, limit).score_model.conditioner for limit in (16, 77))
    short = [caption for caption in SHORT if narrow.tokenizer.length(caption) <= 16]
    count = len(short)
    expected = narrow(narrow.condition(short, None, count))
    found = wide(wide.condition([*short, LONG], None, count + 1))
    width, kept = expected.mask.shape[1], expected.mask
    assert found.mask.shape[1] > width
    assert torch.equal(found.mask[:count, :width], kept)
    torch.testing.assert_close(found.context[:count, :width][kept], expected.context[kept], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.pooled[:count], expected.pooled, atol=1e-5, rtol=0)


def test_all_positions_are_used(family):
    """An encoder with a table of positions takes as many tokens as positions and not one more; T5 has no limit."""
    kind, folder = family
    more = PretrainedText(path=folder, max_tokens=POSITIONS + 1)
    if kind == "t5":
        encoder, tokenizer = pretrained_encoder(more), Tokenizer(pretrained_tokenizer(folder), POSITIONS + 1)
    else:
        with pytest.raises(ValueError, match=f"max_tokens={POSITIONS + 1} exceeds the {POSITIONS} positions"):
            check_pretrained(more)
        encoder, tokenizer = encoder_of(folder), Tokenizer(pretrained_tokenizer(folder), POSITIONS)
    ids, mask = tokenizer([" ".join([LONG] * 5)])
    assert mask.all()
    assert encoder(ids, mask).isfinite().all()


def test_the_real_minilm():
    """MiniLM's vectors are transformers' own, and its pooling the one shipped by its authors."""
    folder = str(real("minilm"))
    expected, real_tokens = transformers_own("bert", folder, TEXTS)
    tokenizer = Tokenizer(pretrained_tokenizer(folder), 77)
    conditioner = Conditioner(tokenizer, encoder_of(folder, 77), 0)
    with torch.no_grad():
        condition = conditioner.condition(TEXTS, None, 5)
        encoded = conditioner(condition)
    torch.testing.assert_close(
        encoded.context[condition.mask], expected.last_hidden_state[real_tokens], atol=1e-5, rtol=1e-5
    )
    pooling = json.loads(Path(folder, "1_Pooling", "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    assert not conditioner.encoder.ends


# --- refused folders ----------------------------------------------------------------------------------------------


class Harm:
    """An object that creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def own(folders, tmp_path) -> Path:
    return Path(shutil.copytree(folders["bert"], tmp_path / "own"))


def pickled(folder: Path) -> None:
    """Leave only pytorch_model.bin as weights, as in older folders."""
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_with_harm(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"harm": Harm(folder / "mark")}, folder / "pytorch_model.bin")


def pickled_behind_an_index(folder: Path) -> None:
    """Write a safetensors index whose parts are pickles."""
    names = load_file(folder / "model.safetensors")
    pickled_with_harm(folder)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def edited(file: str, **changes):
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **changes}))
        (folder / "own_model.py").write_text(f"from pathlib import Path\nPath({str(folder / 'mark')!r}).touch()\n")

    return edit


CODE = {"AutoModel": "own_model.OwnModel", "AutoConfig": "own_model.OwnConfig"}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (pickled, "no weights in safetensors format"),
        (pickled_with_harm, "no weights in safetensors format"),
        (pickled_behind_an_index, "no weights in safetensors format"),
        (edited("config.json", auto_map=CODE), "config.json names code of its own"),
        (edited("config.json", auto_map=CODE, model_type="own"), "config.json names code of its own"),
        (
            edited("tokenizer_config.json", auto_map={"AutoTokenizer": ["own_model.T", None]}),
            "tokenizer_config.json names code",
        ),
        (edited("config.json", transformers_weights="adapter_model.bin"), "names a weights file of its own"),
    ],
)
def test_pickles_and_code_are_refused_before_a_worker_starts(own, tmp_path, capsys, change, culprit):
    """Pickles and code are refused in one sentence that names the folder, and nothing of them is run."""
    change(own)
    write_digit_shards(tmp_path / "shards", rows=20)
    text = [f"text={{kind: pretrained, path: {own}}}", f"data.path={tmp_path}/shards", f"storage={tmp_path}/runs"]
    text.append("validation.rows=0")
    capsys.readouterr()
    assert main(["train", "digits", "--no-ray", *text]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(own) in line
    assert culprit in line
    for load in (check_pretrained, pretrained_encoder):
        with pytest.raises(ValueError, match=culprit):
            load(PretrainedText(path=str(own)))
    assert not (own / "mark").exists()


def test_an_encoder_that_lacks_weights_is_refused(own):
    """Missing weights are refused, since transformers would initialise them at random."""
    weights = load_file(own / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in weights.items() if k != lost}, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks 1 weights of BertModel: {lost}"):
        pretrained_encoder(PretrainedText(path=str(own)))
    pooler = {k: v for k, v in weights.items() if not k.startswith("pooler.")}
    save_file(pooler, own / "model.safetensors", metadata={"format": "pt"})
    assert pretrained_encoder(PretrainedText(path=str(own))).width == 16


def vision(folder: Path) -> None:
    """Save a vision model beside a tokenizer."""
    sizes = transformers.ViTConfig(**SIZES, image_size=8, patch_size=4)
    transformers.ViTModel(sizes).save_pretrained(folder)


def unmasked(folder: Path) -> None:
    """Save an encoder that mixes tokens by Fourier transforms and takes no mask."""
    sizes = {key: value for key, value in SIZES.items() if key != "num_attention_heads"}
    transformers.FNetModel(transformers.FNetConfig(**sizes, vocab_size=50)).save_pretrained(folder)


def cut(file: str):
    def halve(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return halve


def written(file: str, content: str):
    return lambda folder: (folder / file).write_text(content)


def indexed(content: str):
    def index(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)

    return index


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (edited("config.json", hidden_act="nope"), "nope"),
        (edited("config.json", hidden_size="x"), "hidden_size.*expected int, got str"),
        (edited("config.json", hidden_size=0), "no text encoder can be loaded"),
        (edited("config.json", dtype="nope"), "nope"),
        (written("config.json", "[]"), r"config\.json cannot be read"),
        (written("config.json", "{"), r"config\.json cannot be read"),
        (written("tokenizer_config.json", "[]"), r"tokenizer_config\.json cannot be read"),
        (written("tokenizer.json", "[]"), "no tokenizer can be loaded"),
        (written("tokenizer.json", "{}"), "no tokenizer can be loaded"),
        (indexed("{"), r"model\.safetensors\.index\.json"),
        (indexed("[]"), r"model\.safetensors\.index\.json"),
        (vision, "ViTModel takes no input_ids"),
        (unmasked, "FNetModel takes no attention_mask"),
    ],
)
def test_encoders_that_are_none_are_refused_before_a_worker_starts(own, harm, culprit):
    """A folder without a text encoder is refused in one sentence that names it."""
    harm(own)
    for load in (check_pretrained, pretrained_encoder):
        with pytest.raises(ValueError, match=culprit) as caught:
            load(PretrainedText(path=str(own)))
        assert str(own) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("harm", "culprit"),
    [
        (cut("model.safetensors"), "no text encoder can be loaded: .*header"),
        (written("model.safetensors", "x" * 100), "no text encoder can be loaded: .*header"),
        (edited("config.json", hidden_size=32), r"weights of BertModel have other shapes .*: embeddings\.LayerNorm\.bias"),
        (edited("config.json", num_hidden_layers=3), r"lacks 16 weights of BertModel: encoder\.layer\.2"),
        (edited("config.json", num_hidden_layers=1), r"16 weights of more layers than its config\.json says: encoder\.layer\.1"),
    ],
)  # fmt: skip
def test_weights_that_are_none_of_the_encoder_are_named(own, harm, culprit):
    """Surplus weights are named; a layer of BERT has 16 tensors, weights and biases of 6 linear layers and 2 norms."""
    harm(own)
    with pytest.raises(ValueError, match=culprit) as caught:
        pretrained_encoder(PretrainedText(path=str(own)))
    assert str(own) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(folders) -> Model:
    return drawing_model(folders["bert"], 16)


def test_a_prompt_that_is_cut_is_named_once(model):
    tokenizer = model.score_model.conditioner.tokenizer
    cut = tokenizer.tokenizer(LONG, truncation=True, max_length=16)["input_ids"]
    tokens = len(LONG.split()) + 2
    assert (tokenizer.length(LONG), len(cut)) == (tokens, 16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.sample(prompts=[LONG, SHORT[0], LONG], batch_size=1, guidance=2.0, steps=1)
        model.sample(prompts=[LONG], steps=1)
        model.sample(prompts=["and another " + LONG, LONG], steps=1)
        encoder = model.score_model.conditioner.encoder
        encoder.load_state_dict({key: 2.0 * value for key, value in encoder.state_dict().items()})
        model.sample(prompts=[LONG], steps=1)  # encoded again
    first, second = (str(each.message) for each in caught)
    begins = "the prompt 'a very long story of a small red hear...' has"
    assert first == f"{begins} {tokens} tokens, the model reads the first 16"
    assert second.startswith("the prompt 'and another")


def test_a_prompt_of_just_the_limit_is_not_named(model):
    tokenizer = model.score_model.conditioner.tokenizer
    prompt = " ".join(["red"] * 14)
    assert tokenizer.length(prompt) == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(prompts=[prompt], steps=1)


def calls_of(model: Model) -> list[torch.Size]:
    seen: list[torch.Size] = []
    model.score_model.conditioner.encoder.register_forward_hook(lambda _, given, out: seen.append(out.shape))
    return seen


def test_each_prompt_is_encoded_once(model):
    """Each prompt, the null prompt included, is encoded once for all images, batches, steps and calls."""
    calls = calls_of(model)
    settings = {"solver": "heun", "steps": 3, "guidance": 2.0}
    first = model.sample(prompts=["two", "a red heart"] * 5, batch_size=4, **settings)
    assert len(calls) == 3
    again = model.sample(prompts=["two", "a red heart"] * 5, batch_size=4, **settings)
    assert torch.equal(first.images, again.images)
    model.sample(prompts=["a red heart", "two"], guidance=1.0, steps=1)
    assert len(calls) == 3
    model.sample(prompts=["the digit one, in pencil"], **settings)
    assert len(calls) == 4


def test_a_prompts_vectors_depend_on_nothing_else(model, folders):
    """A prompt's vectors are bit-equal whatever else is asked for beside or before it."""
    conditioner = model.score_model.conditioner
    alone = drawing_model(folders["bert"], 16).score_model.conditioner.encode(["two"], None, 1)
    beside = conditioner.encode([SHORT[3], SHORT[0], "two"], None, 3)
    tokens = int(alone.mask.sum())
    assert torch.equal(beside.context[2, :tokens], alone.context[0, :tokens])
    assert torch.equal(beside.pooled[2], alone.pooled[0])
    together = conditioner(conditioner.condition([SHORT[3], SHORT[0], "two"], None, 3))
    assert torch.equal(together.mask, beside.mask)
    torch.testing.assert_close(together.context * together.mask[:, :, None], beside.context, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.pooled, beside.pooled, atol=1e-5, rtol=1e-5)


def test_only_the_last_prompts_are_kept(model, monkeypatch):
    prompts = model.score_model.conditioner.prompts
    monkeypatch.setattr(type(prompts), "REMEMBERED", 2)
    calls = calls_of(model)
    for prompt in ("two", "red", "two", "heart", "two", "red", "red", "two"):
        prompts([prompt])
    # "red" was the least recently used when "heart" came, and a cached prompt evicts none
    assert len(calls) == 4
    context, mask = prompts(["two", "red", "heart"])
    assert (context.shape[0], int(mask[2].sum())) == (3, 3)


@torch.no_grad()
def test_a_tokenizer_that_makes_nothing_of_an_empty_prompt(folders):
    """Without start and end tokens an empty prompt becomes one padding token, since attention over no token is
    undefined."""
    words = tokenizers.Tokenizer(WordLevel({"[PAD]": 0, "two": 1}, unk_token="[PAD]"))
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    assert plain("")["input_ids"] == []
    conditioner = Conditioner(Tokenizer(plain, 16), encoder_of(folders["bert"], 16), 0)
    for prompts in ([""], ["", "two"]):
        encoded = conditioner.encode(prompts, None, len(prompts))
        assert encoded.mask.sum(dim=1).tolist() == [1] * len(prompts)
        assert encoded.pooled.isfinite().all()


@pytest.mark.parametrize("change", ["step", "swap", "load", "load frozen"])
def test_other_weights_encode_anew(folders, change):
    """An optimizer step, switching to the EMA and loading weights all empty the cache, the last also for a frozen
    encoder."""
    text = PretrainedText(path=folders["bert"], max_tokens=16, trainable=True)
    model = drawing_model(folders["bert"], 16, text=text).score_model
    conditioner = model.requires_grad_("frozen" not in change).conditioner
    before = conditioner.encode(["two"], None, 1).context
    parameters = list(conditioner.encoder.parameters())
    if change == "step":
        conditioner(conditioner.condition(["two"], None, 1)).context.square().sum().backward()
        torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0, fused=True).step()
    elif change == "swap":
        from raysde.training.ema import Ema

        ema = Ema(conditioner, half_life=1.0, rampup=0.0)
        for value in ema.average.values():
            value.add_(0.1)
        ema._swap()
    else:
        conditioner.load_state_dict({key: value + 0.1 for key, value in conditioner.state_dict().items()})
    after = conditioner.encode(["two"], None, 1).context
    with torch.no_grad():
        expected = conditioner(conditioner.condition(["two"], None, 1))
    torch.testing.assert_close(after[expected.mask], expected.context[expected.mask], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [8, 7, 4])
def test_a_run_says_how_many_captions_it_cuts(recipe, digits, limit):
    """A run warns once, at its start, of the share of distinct captions that exceed the limit, special tokens
    included."""
    captions = {caption for row in range(digits.rows) for caption in Reader(digits).about(row)["captions"]}
    tokens = [len(re.findall(r"\w+|[^\w\s]", caption)) + 2 for caption in captions]
    share = 100 * sum(count > limit for count in tokens) / len(tokens)
    assert max(tokens) == 8
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        new_state(open_run(loading.parse_recipe(recipe(text__max_tokens=limit))), CPU)
    said = [str(each.message) for each in caught if "captions" in str(each.message)]
    expected = f"text.max_tokens={limit} cuts the end off {share:.2g}% of the captions; the longest has 8 tokens"
    assert said == ([expected] if limit < 8 else [])
