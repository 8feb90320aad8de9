"""The sample store: what goes in comes out, and damage is noticed."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from llm import shards
from llm.config import UsageError
from llm.shards import Samples

SEQUENCES = [[0, 5, 7, 2], [0, 2], [0, 9, 9, 9, 9], [0, 1, 2]]
LOG_PROB = [-1.5, -0.25, -9.0, -3.0]


def store(directory, shard_size=2, vocab_size=300) -> Samples:
    samples = Samples.of(SEQUENCES, 1, LOG_PROB)
    for k, indices in enumerate(shards.shard_indices(len(samples), shard_size)):
        part = samples.take(np.array(indices))
        shards.write_shard(shards.shard_path(directory, k), part, indices, vocab_size)
    shards.write_manifest(directory, len(samples), shard_size, {})
    return samples


def test_round_trip(tmp_path):
    store(tmp_path)
    samples = shards.read(tmp_path)
    assert [samples[i].tolist() for i in range(4)] == SEQUENCES
    assert samples.log_prob.tolist() == LOG_PROB
    assert samples.lengths.tolist() == [4, 2, 5, 3]
    assert samples.num_scored.tolist() == [3, 1, 4, 2]


@pytest.mark.parametrize("at_most", [1, 2, 3, 9])
def test_the_first_sequences_alone(tmp_path, at_most):
    store(tmp_path)
    samples = shards.read(tmp_path, at_most)
    assert [samples[i].tolist() for i in range(len(samples))] == SEQUENCES[:at_most]
    assert samples.log_prob.tolist() == LOG_PROB[:at_most] and len(samples.ids) == samples.offsets[-1]


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_ids_take_the_smallest_type_that_holds_the_vocabulary(tmp_path, vocab_size, name):
    store(tmp_path, vocab_size=vocab_size)
    assert str(pq.read_schema(shards.shard_path(tmp_path, 0)).field("ids").type.value_type) == name


def test_the_manifest_counts(tmp_path):
    store(tmp_path, shard_size=3)
    manifest = shards.read_manifest(tmp_path)
    assert (manifest["num_sequences"], manifest["num_tokens"], manifest["num_scored_tokens"]) == (4, 14, 10)
    assert [row["sequences"] for row in manifest["shards"]] == [3, 1]


def test_datasets_reads_the_shards(tmp_path):
    import datasets

    store(tmp_path / "set")
    files = [str(shards.shard_path(tmp_path / "set", k)) for k in range(2)]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["ids"][:] == SEQUENCES


def test_every_flipped_byte_is_noticed(tmp_path):
    store(tmp_path)
    path = shards.shard_path(tmp_path, 1)
    whole = path.read_bytes()
    manifest = shards.read_manifest(tmp_path)
    for offset in range(0, len(whole), 7):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
        assert shards.damaged(tmp_path, manifest) == [path.name], offset
    path.write_bytes(whole)
    assert shards.damaged(tmp_path, manifest) == []


def test_what_is_damaged_is_discarded_with_the_mark_of_completeness(tmp_path):
    store(tmp_path)
    assert shards.discard_damaged(tmp_path) == []
    path = shards.shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-1])
    assert shards.discard_damaged(tmp_path) == [path]
    assert [each.name for each in tmp_path.iterdir()] == ["shard-00000.parquet"]
    assert shards.missing_shards(tmp_path, 4, 2) == [1]


def test_the_manifest_of_another_set_is_none(tmp_path):
    store(tmp_path / "one")
    store(tmp_path / "other")
    shards.manifest_path(tmp_path / "one").write_bytes(shards.manifest_path(tmp_path / "other").read_bytes())
    assert shards.read_manifest(tmp_path / "one") is None
    assert shards.read_manifest(tmp_path / "other") is not None


def test_a_torn_shard_is_noticed_before_there_is_a_manifest(tmp_path):
    store(tmp_path)
    (tmp_path / "manifest.json").unlink()
    path = shards.shard_path(tmp_path, 1)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert shards.missing_shards(tmp_path, 4, 2) == [1], length
    path.write_bytes(whole)
    assert shards.missing_shards(tmp_path, 4, 2) == []


def test_a_damaged_set_is_not_read(tmp_path):
    store(tmp_path)
    path = shards.shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UsageError, match="shard-00000"):
        shards.read(tmp_path)


def test_an_incomplete_set_is_not_read(tmp_path):
    store(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UsageError, match="not a complete sample set"):
        shards.read(tmp_path)


def test_a_foreign_file_is_refused_by_name(tmp_path):
    store(tmp_path)
    (tmp_path / "shard-00009.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match="shard-00009"):
        shards.missing_shards(tmp_path, 4, 2)


def test_a_shard_of_other_indices_is_not_taken(tmp_path):
    store(tmp_path)
    (tmp_path / "manifest.json").unlink()
    shards.shard_path(tmp_path, 0).write_bytes(shards.shard_path(tmp_path, 1).read_bytes())
    assert shards.missing_shards(tmp_path, 4, 2) == [0]
