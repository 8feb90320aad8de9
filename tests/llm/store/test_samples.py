"""The sample store: what goes in comes out, and damage is noticed."""

import errno
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import kept, shard_table
from conftest import run as command

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


def test_more_ids_than_a_shards_offsets_can_tell_are_not_written(tmp_path):
    many = Samples(np.zeros(2, np.uint8), np.array([0, 1, 2**31]), np.ones(2, np.int64), np.zeros(2))
    with pytest.raises(ValueError, match="2147483648"):
        SampleFiles(tmp_path, 2, 2, {}).write(0, many, 256)
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
    assert str(shard_table(stored.path(0)).schema.field("ids").type.value_type) == name
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
    shards = ("arrow", None, None, str(tmp_path / "train" / "shard-*.arrow"))
    arguments = shards if what == "shards" else [str(tmp_path / "train")]
    loaded = datasets.load_dataset(*arguments, cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"] and loaded["train"].column_names == ["index", "ids", "num_prompt", "log_prob"]
    assert loaded["train"]["ids"][:] == SEQUENCES and loaded["train"]["log_prob"][:] == LOG_PROB
    assert datasets.Dataset.from_file(str(stored.path(1)))["ids"][:] == SEQUENCES[2:]
    assert stored.verified()


@pytest.mark.parametrize("shard_size", [1, 2, 3, 4, 50])
def test_a_set_of_shards_is_its_sequences(tmp_path, shard_size):
    found = store(tmp_path, shard_size).read()
    assert [found[i].tolist() for i in range(len(found))] == SEQUENCES
    for name in ("ids", "offsets", "num_prompt", "log_prob", "lengths", "num_scored"):
        assert getattr(found, name).tolist() == getattr(SAMPLES, name).tolist(), name
    rows = np.array([3, 0, 3])
    assert [each.tolist() for each in (found.take(rows)[i] for i in range(3))] == [SEQUENCES[row] for row in rows]
    assert len(found.take(rows[:0])) == 0 and found.ids.dtype == found.take(rows).ids.dtype == np.uint16
    assert found.stopped((2,)).tolist() == [True, True, False, True]


def test_every_array_of_a_shard_is_a_view_of_its_file(stored):
    found = stored.read()
    maps = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    for shard, part in enumerate(found.shards):
        areas = [each[0].split("-") for each in maps if each[-1] == str(stored.path(shard))]
        for array in (part.ids, part.offsets, part.num_prompt, part.log_prob):
            address = array.__array_interface__["data"][0]
            assert any(int(first, 16) <= address < int(end, 16) for first, end in areas)
            assert not array.flags.writeable


def test_what_was_read_stays_what_it_was(tmp_path, stored):
    before = stored.read()
    kept(tmp_path, SAMPLES.take(np.array([3, 2, 1, 0])), 2, 300, "these weights")
    assert [stored.read()[i].tolist() for i in range(4)] == SEQUENCES[::-1]
    stored.path(0).unlink()
    assert [before[i].tolist() for i in range(4)] == SEQUENCES


def test_the_same_sequences_are_the_same_bytes(tmp_path, stored):
    """Also where they are read from a shard, as the first ones of a larger set are."""
    again = SampleFiles(tmp_path / "again", 4, 2, stored.bound)
    for shard in (0, 1):
        again.write(shard, Samples.joined([stored.read_shard(shard).take(np.array([i])) for i in (0, 1)]), 300)
        assert again.path(shard).read_bytes() == stored.path(shard).read_bytes()


def test_bytes_of_a_set_are_at_most_those_that_are_asked_of_the_disk(tmp_path):
    stored = SampleFiles(tmp_path, 100, 100, {})
    stored.write(0, Samples.of([range(200)] * 100, 1, np.zeros(100)), 300)
    assert most_bytes(100, 200, 300) == pytest.approx(stored.path(0).stat().st_size, rel=0.03)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    opened = pa.ipc.new_stream
    monkeypatch.setattr(pa.ipc, "new_stream", lambda path, schema: opened("/dev/full", schema))
    with pytest.raises(OSError, match="disk full after") as told:
        SampleFiles(tmp_path, 4, 4, {}).write(0, SAMPLES, 300)
    assert told.value.errno == errno.ENOSPC and told.value.filename == str(tmp_path / "shard-00000.arrow")
    assert not list(tmp_path.iterdir())


def test_reading_writes_nothing(tmp_path):
    """Not beside the shards, which may be another's to write, nor in the home folder or where temporary files are."""
    home, stored = tmp_path / "home", store(tmp_path / "train")
    home.mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code = (
        "import sys; from pathlib import Path\n"
        "from llm.store.samples import SampleFiles\n"
        "found = SampleFiles(Path(sys.argv[1]), 4, 2, {'weights': 'these weights'}).read()\n"
        "print([found[i].tolist() for i in range(len(found))])\n"
        "assert 'datasets' not in sys.modules  # which takes seconds to import\n"
    )
    directories = dict.fromkeys(["HOME", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR"], str(home))
    done = command(sys.executable, "-c", code, str(stored.directory), **directories)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == SEQUENCES
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_every_flipped_byte_is_noticed(stored):
    path = stored.path(1)
    whole = path.read_bytes()
    for offset in range(0, len(whole), 7):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
        assert stored.damaged([0, 1]) == [1] and not stored.verified(), offset
    path.write_bytes(whole)
    assert stored.damaged([0, 1]) == [] and stored.verified()


def test_a_damaged_shard_is_noticed_before_there_is_a_manifest(unfinished):
    path = unfinished.path(1)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        assert unfinished.missing([0, 1]) == [1], place
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert unfinished.missing([0, 1]) == [1], place
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
