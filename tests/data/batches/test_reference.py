"""References to a run's data, which processes of a cluster open."""

from dataclasses import replace

import numpy as np
import pytest

from raysde.data.batches.plan import Plan
from raysde.data.batches.reference import DataReference, DerivedReference, SelectionReference
from raysde.data.dataset.layout import Rows
from raysde.data.dataset.precomputed import (
    Latents,
    PrecomputedFile,
    TextEmbeddings,
    hash_contents,
    write_derived,
    write_empty,
)
from raysde.data.dataset.selection import Selection
from raysde.data.dataset.split import split_rows
from raysde.data.dataset.view import View


@pytest.fixture
def text(digits, tmp_path) -> TextEmbeddings:
    path = str(tmp_path / "text-0")
    files = tuple(PrecomputedFile(shard.file, shard.rows, 8, "0" * 64) for shard in digits.shards)
    derived = TextEmbeddings(path=path, encoder="t5", sha256="1" * 64, width=4, max_tokens=8, dtype="fp16",
                             fingerprint=digits.fingerprint, files=files, empty=write_empty(path, bytes(8)))  # fmt: skip
    write_derived(derived)
    return derived


class OtherRows(Rows):
    """Another version of the map from positions to row numbers."""


def test_a_reference_opens_the_rows_that_it_was_made_of(digits):
    """It has the training rows of the split, in the plan's order and through its view; later calls open nothing."""
    rows, _ = split_rows(digits, 20, 7)
    plan, view = Plan(rows=rows.count, batch=8, microbatch=4, seed=7), View(shape=(6, 6))
    reference = DataReference(path=digits.path, fingerprint=digits.fingerprint, plan=plan, view=view, validation=20,
                              split_seed=7, rows=OtherRows)  # fmt: skip
    feed, reader = reference.open()
    everything = np.arange(rows.count)
    assert np.array_equal(feed.rows[everything], rows[everything])
    assert (feed.plan, feed.view, reader.manifest, type(feed.rows)) == (plan, view, digits, OtherRows)
    assert replace(reference).open()[1] is reader
    other = replace(reference, split_seed=8).open()[0]
    assert not np.array_equal(other.rows[everything], rows[everything])


def test_a_data_set_that_changed_is_refused(digits):
    plan = Plan(rows=digits.rows, batch=8, microbatch=4, seed=7)
    with pytest.raises(ValueError, match="was changed while it was in use"):
        DataReference(path=digits.path, fingerprint="0" * 16, plan=plan).open()


def test_a_selection_is_opened_by_path_and_hash(tmp_path):
    """Rows that were selected after the run began, in a file of the same name, are refused."""
    kept, other = (Selection(np.array([bits], dtype=np.uint8), np.array([0, 4])) for bits in (0b1010_0101, 0b1111_0000))
    file = tmp_path / "selection.arrow"
    file.write_bytes(kept.content)
    reference = SelectionReference(str(file), kept.sha256)
    assert reference.open().bits.tolist() == [0b1010_0101]
    file.write_bytes(other.content)
    with pytest.raises(ValueError, match=r"selection\.arrow was removed or changed while it was in use: it has sha256"):
        reference.open()
    file.unlink()
    with pytest.raises(ValueError, match="was removed or changed while it was in use"):
        reference.open()


def test_precomputed_values_are_opened_by_path_and_hash(text):
    """Values of another encoder, or in other files, have another hash."""
    reference = DerivedReference.of(text)
    assert reference.open(TextEmbeddings) == text
    with pytest.raises(ValueError, match=r"text-0 was changed while it was in use"):
        reference.open(Latents)
    write_derived(replace(text, files=(*text.files[1:], replace(text.files[0], sha256="2" * 64))))
    with pytest.raises(ValueError, match=r"text-0 was changed while it was in use"):
        reference.open(TextEmbeddings)
    assert len({hash_contents(each) for each in (text, replace(text, sha256="3" * 64))}) == 2
    assert DerivedReference.of(None) is None
