"""The sample store: what goes in comes out, and damage is noticed."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import kept

from llm.distributions import Samples
from llm.machine.processes import UsageError
from llm.store.samples import SampleFiles, most_bytes

SEQUENCES = [[0, 5, 7, 2], [0, 2], [0, 9, 9, 9, 9], [0, 1, 2]]
LOG_PROB = [-1.5, -0.25, -9.0, -3.0]
SAMPLES = Samples.of(SEQUENCES, 1, LOG_PROB)


def store(directory, shard_size=2, vocab_size=300, bound="these weights") -> SampleFiles:
    return kept(directory, SAMPLES, shard_size, vocab_size, bound)


@pytest.fixture
def stored(tmp_path) -> SampleFiles:
    return store(tmp_path)


@pytest.fixture
def unfinished(stored) -> SampleFiles:
    """All shards, and no manifest."""
    stored.manifest_path.unlink()
    return stored


@pytest.mark.parametrize(("last", "log_prob"), [(300, -1.0), (2, np.nan)])
def test_what_cannot_be_kept_as_it_is_is_not_written(tmp_path, last, log_prob):
    """An id would be wrapped to a smaller integer."""
    with pytest.raises(ValueError, match="not finite"):
        SampleFiles(tmp_path, 1, 1, {}).write(0, Samples.of([[0, last]], 1, [log_prob]), 256)
    assert not list(tmp_path.iterdir())


def test_round_trip(stored):
    samples = stored.read(4)
    assert stored.verified()
    assert [samples[i].tolist() for i in range(4)] == SEQUENCES
    assert samples.log_prob.tolist() == LOG_PROB
    assert samples.lengths.tolist() == [4, 2, 5, 3]
    assert samples.num_scored.tolist() == [3, 1, 4, 2]


@pytest.mark.parametrize("at_most", [1, 2, 3, 9])
def test_the_first_sequences_alone(stored, at_most):
    samples = stored.read(at_most)
    assert [samples[i].tolist() for i in range(len(samples))] == SEQUENCES[:at_most]
    assert samples.log_prob.tolist() == LOG_PROB[:at_most] and len(samples.ids) == samples.offsets[-1]


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_ids_take_the_smallest_type_that_holds_the_vocabulary(tmp_path, vocab_size, name):
    stored = store(tmp_path, vocab_size=vocab_size)
    assert str(pq.read_schema(stored.path(0)).field("ids").type.value_type) == name
    assert most_bytes(1, 5, vocab_size) == 5 * np.dtype(name).itemsize + 24


def test_the_manifest_counts(tmp_path):
    manifest = store(tmp_path, shard_size=3).manifest()
    assert (manifest["num_sequences"], manifest["num_tokens"], manifest["num_scored_tokens"]) == (4, 14, 10)
    assert [row["sequences"] for row in manifest["shards"]] == [3, 1]


@pytest.mark.parametrize("what", ["shards", "directory"])
def test_datasets_reads_a_set(tmp_path, what):
    """As one types it: the shards by a pattern, or the directory, in which the manifest lies beside them."""
    import datasets

    stored = store(tmp_path / "train")
    shards = ("parquet", None, None, str(tmp_path / "train" / "shard-*.parquet"))
    arguments = shards if what == "shards" else [str(tmp_path / "train")]
    loaded = datasets.load_dataset(*arguments, cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"] and loaded["train"].column_names == ["index", "ids", "num_prompt", "log_prob"]
    assert loaded["train"]["ids"][:] == SEQUENCES and loaded["train"]["log_prob"][:] == LOG_PROB
    assert stored.verified()


def test_every_flipped_byte_is_noticed(stored):
    path = stored.path(1)
    whole = path.read_bytes()
    for offset in range(0, len(whole), 7):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
        assert stored.damaged([0, 1]) == [1] and not stored.verified(), offset
    path.write_bytes(whole)
    assert stored.damaged([0, 1]) == [] and stored.verified()


def test_a_torn_shard_is_noticed_before_there_is_a_manifest(unfinished):
    path = unfinished.path(1)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert unfinished.missing([0, 1]) == [1], length
    path.write_bytes(whole)
    assert unfinished.missing([0, 1]) == []


def test_a_damaged_set_is_not_read(stored):
    stored.path(0).write_bytes(stored.path(0).read_bytes()[:-3])
    with pytest.raises(UsageError, match="shard-00000"):
        stored.read(4)


def test_an_incomplete_set_is_not_read(unfinished):
    with pytest.raises(UsageError, match="not a complete sample set"):
        unfinished.read(4)


def test_a_foreign_file_is_refused_by_name(stored):
    stored.path(9).write_bytes(b"")
    for look in (lambda: stored.missing([0, 1]), stored.verified):
        with pytest.raises(UsageError, match="shard-00009"):
            look()


def test_a_shard_of_other_indices_is_not_taken(unfinished):
    unfinished.path(0).write_bytes(unfinished.path(1).read_bytes())
    assert unfinished.missing([0, 1]) == [0]


def test_what_is_bound_to_something_else_is_not_taken(tmp_path, stored):
    """Neither a manifest in the place of another, nor shards that were drawn from other weights."""
    other = store(tmp_path / "other", bound="other weights")
    (tmp_path / "manifest.json").write_bytes(other.manifest_path.read_bytes())
    assert SampleFiles(tmp_path, 4, 2, stored.bound).manifest() is None
    assert other.manifest() is not None
    here = SampleFiles(other.directory, 4, 2, stored.bound)
    assert here.manifest() is None and here.missing([0, 1]) == [0, 1]
    with pytest.raises(UsageError, match="of another sample set, or drawn from other weights"):
        here.read_shard(0)


@pytest.mark.parametrize("num", [3, 4])
def test_the_last_shard_of_a_smaller_set_is_a_beginning(tmp_path, num):
    """Of five sequences: the shards that the smaller set filled are whole, its manifest is not that of the larger."""
    smaller = SampleFiles(tmp_path, num, 2, {})
    for shard, indices in enumerate(smaller.ranges):
        smaller.write(shard, SAMPLES.take(np.array(indices)), 300)
    smaller.complete({})
    larger = SampleFiles(tmp_path, 5, 2, {})
    assert larger.manifest() is None and not larger.verified()
    assert larger.missing(range(3)) == [1, 2][num - 3 :] and larger.damaged(range(3)) == []
    assert len(larger.beginning(1)) == num - 2 and larger.beginning(2) is None
    assert [each.tolist() for each in (larger.beginning(1)[i] for i in range(num - 2))] == SEQUENCES[2:num]
    smaller.path(1).write_bytes(smaller.path(1).read_bytes()[:-1])
    assert larger.damaged(range(3)) == [1] and larger.beginning(1) is None


def test_a_larger_set_is_not_taken_for_a_smaller_one(stored):
    smaller = SampleFiles(stored.directory, 3, 2, stored.bound)
    assert smaller.manifest() is None and not smaller.verified() and smaller.missing([0, 1]) == [1]
