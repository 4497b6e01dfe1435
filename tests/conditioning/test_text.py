"""Captions as tokens, and text encoders frozen or trained."""

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from raysde.conditioning.pretrained import pretrained_encoder
from raysde.conditioning.text import PretrainedText, Tokenizer, train_tokenizer
from raysde.models.spec import fresh_model
from tests.support.encoders import text_encoder
from tests.support.models import CAPTIONS, caption_spec, inputs


def test_the_mask_marks_the_tokens():
    tokenizer = Tokenizer(train_tokenizer(CAPTIONS, 1000), 77)
    ids, mask = tokenizer(CAPTIONS)
    lengths = [len(caption.replace(",", " ,").split()) + 2 for caption in CAPTIONS]
    assert mask.sum(dim=1).tolist() == lengths
    assert (ids[~mask] == tokenizer.tokenizer.pad_token_id).all()
    assert ids.shape[1] % 8 == 0


def test_captions_are_cut_at_max_tokens():
    tokenizer = Tokenizer(train_tokenizer(CAPTIONS, 1000), 5)
    ids, mask = tokenizer([CAPTIONS[3]])
    assert ids.shape == (1, 5)
    assert mask.all()
    assert ids[0, -1] == tokenizer.tokenizer.sep_token_id


def test_the_vocabulary_does_not_depend_on_order():
    first, second = train_tokenizer(CAPTIONS, 1000), train_tokenizer(CAPTIONS[::-1], 1000)
    assert first.get_vocab() == second.get_vocab()
    unseen = first("seventy-two zebras")["input_ids"]
    assert first.unk_token_id not in first("erwt")["input_ids"]  # spelled out in characters
    assert unseen[0] == first.cls_token_id


def test_a_small_vocabulary_keeps_the_words_seen_most():
    captions = ["a red heart"] * 3 + ["a blue heart"] * 2 + ["one tree"]
    everything = train_tokenizer(captions, 1000).get_vocab()
    fewer = train_tokenizer(captions, len(everything) - 3).get_vocab()
    assert everything.keys() - fewer.keys() == {"blue", "one", "tree"}


def encoder_of_captions(folder, kind="bert"):
    return text_encoder(folder, kind, captions=CAPTIONS)


@pytest.mark.parametrize("kind", ["bert", "t5", "clip"])
def test_any_text_encoder_loads_frozen_or_trained(tmp_path, kind):
    folder = encoder_of_captions(tmp_path / kind, kind)
    frozen = fresh_model(caption_spec(text=PretrainedText(path=folder, max_tokens=32)), [], 0).train()
    assert not any(p.requires_grad for p in frozen.conditioner.encoder.parameters())
    assert not frozen.conditioner.encoder.encoder.training
    trained = fresh_model(caption_spec(text=PretrainedText(path=folder, max_tokens=32, trainable=True)), [], 0).train()
    x, t = inputs()
    loss = trained(x, t, trained.conditioner.condition(CAPTIONS, None, 4))[0].square().mean()
    loss.backward()
    assert all(p.grad is not None for p in trained.conditioner.encoder.parameters())


def test_the_encoder_is_transformers_own(tmp_path):
    """Our tokens and mask give transformers' own output for the same captions."""
    folder = encoder_of_captions(tmp_path / "bert")
    encoder = pretrained_encoder(PretrainedText(path=folder, max_tokens=32)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, mask = Tokenizer(tokenizer, 32)(CAPTIONS)
    reference = BertModel.from_pretrained(folder).eval()
    expected = reference(**tokenizer(CAPTIONS, padding=True, return_tensors="pt")).last_hidden_state
    length = expected.shape[1]
    real = mask[:, :length]
    torch.testing.assert_close(encoder(ids, mask)[:, :length][real], expected[real])


@pytest.mark.parametrize(
    ("text", "culprit"),
    [({"path": "no/such/folder"}, "no/such/folder"), ({"path": "BERT", "max_tokens": 64}, "max_tokens")],
)
def test_encoders_that_do_not_fit_are_named(tmp_path, text, culprit):
    text = {**text, "path": text["path"].replace("BERT", encoder_of_captions(tmp_path / "bert"))}
    with pytest.raises(ValueError, match=culprit):
        pretrained_encoder(PretrainedText(**text))
