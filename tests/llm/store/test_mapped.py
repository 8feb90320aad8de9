"""Ids that stay on disk are those of the shards, whatever has happened to the file that they are read from."""

import errno
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import kept
from conftest import run as command

from llm.distributions import Samples
from llm.machine.processes import UsageError
from llm.store import mapped as module
from llm.store.files import remove_leftovers
from llm.store.mapped import bytes_to_make, mapped
from llm.store.paths import DIRECTORIES
from llm.store.samples import SampleFiles

NUM, VOCAB = 7, 300


def sequences(seed: int, num: int = NUM) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(VOCAB, size=n).tolist() for n in rng.integers(1, 9, 20)][:num]


def store(directory: Path, seed: int = 0, num: int = NUM, shard_size: int = 3) -> SampleFiles:
    made = Samples.of(sequences(seed, num), 1, -1.5 - np.arange(num))
    return kept(directory / "samples", made, shard_size, VOCAB, "these")


@pytest.fixture
def stored(tmp_path) -> SampleFiles:
    return store(tmp_path)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cache" / "train.arrow"


def as_lists(samples: Samples) -> list[list[int]]:
    return [samples[i].tolist() for i in range(len(samples))]


def state(path: Path) -> tuple[int, bytes]:
    return path.stat().st_mtime_ns, path.read_bytes()


@pytest.mark.parametrize("shard_size", [1, 2, 3, NUM, 50])
def test_it_is_what_the_shards_hold(tmp_path, path, shard_size):
    stored = store(tmp_path, shard_size=shard_size)
    found, read = mapped(stored, path), stored.read(NUM)
    assert as_lists(found) == sequences(0) and found.log_prob.tolist() == (-1.5 - np.arange(NUM)).tolist()
    for name in ("ids", "offsets", "num_prompt", "log_prob", "lengths", "num_scored"):
        ours, theirs = getattr(found, name), getattr(read, name)
        assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist(), name
    rows = np.array([4, 0, 4])
    assert as_lists(found.take(rows)) == [sequences(0)[row] for row in rows]
    assert found.stopped((7,)).tolist() == [each[-1] == 7 for each in sequences(0)]


def test_datasets_reads_the_file_too(stored, path):
    import datasets

    mapped(stored, path)
    assert datasets.Dataset.from_file(str(path))["ids"][:] == sequences(0)


def test_every_array_is_a_view_of_the_file(stored, path):
    found = mapped(stored, path)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    areas = [line.split()[0].split("-") for line in maps if line.endswith(str(path))]
    for array in (found.ids, found.offsets, found.num_prompt, found.log_prob):
        address = array.__array_interface__["data"][0]
        assert any(int(first, 16) <= address < int(end, 16) for first, end in areas)
        assert not array.flags.writeable


def test_it_is_made_once_and_again_where_it_was_deleted(stored, path):
    mapped(stored, path)
    before = state(path)
    mapped(stored, path)
    assert state(path) == before
    path.unlink()
    assert as_lists(mapped(stored, path)) == sequences(0)
    assert state(path)[1] == before[1]


@pytest.mark.parametrize(("seed", "num"), [(1, NUM), (0, NUM + 4), (0, 2)])
def test_another_state_of_the_set_is_read_anew(tmp_path, path, seed, num):
    """Made again with other ids, grown, or made smaller; what was mapped before stays what it was."""
    before = mapped(store(tmp_path), path)
    for shard in (tmp_path / "samples").iterdir():
        shard.unlink()
    assert as_lists(mapped(store(tmp_path, seed, num), path)) == sequences(seed, num)
    assert as_lists(before) == sequences(0)
    assert {each.name for each in path.parent.iterdir()} == {"train.arrow", "train.json", ".lock-train"}


def test_every_flipped_byte_is_noticed(stored, path):
    mapped(stored, path)
    whole = path.read_bytes()
    for offset in np.linspace(0, len(whole) - 1, 8).astype(int):  # in the ids, and around them
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        assert as_lists(mapped(stored, path)) == sequences(0) and path.read_bytes() == whole, offset


@pytest.mark.parametrize("name", ["train.arrow", "train.json"])
@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_cut_file_is_made_again(stored, path, name, length):
    mapped(stored, path)
    before = path.read_bytes()
    (path.parent / name).write_bytes((path.parent / name).read_bytes()[:length])
    assert as_lists(mapped(stored, path)) == sequences(0) and path.read_bytes() == before


def test_the_whole_file_of_another_set_is_not_taken(tmp_path, stored, path):
    other = store(tmp_path / "other", seed=1)
    mapped(other, path)
    assert as_lists(mapped(stored, path)) == sequences(0)
    record = path.with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"manifest": "that one's"}))
    assert as_lists(mapped(other, path)) == sequences(1)


def test_a_maker_that_ends_between_file_and_record_leaves_nothing_that_is_taken(tmp_path, stored, path, monkeypatch):
    mapped(stored, path)
    for shard in (tmp_path / "samples").iterdir():
        shard.unlink()
    again = store(tmp_path, seed=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        mapped(again, path)
    assert path.is_file()
    assert as_lists(mapped(again, path)) == sequences(1)


def test_what_a_killed_maker_left_is_removed_with_the_runs_leftovers(tmp_path):
    left = tmp_path / "cache/ground_truth/tau1.00/.train.arrow.elsewhere.1.half-written"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    remove_leftovers(tmp_path, DIRECTORIES, alone=True)
    assert not left.exists()


def test_several_at_once_make_it_once(stored, path, monkeypatch):
    makes, make = [], module._make
    monkeypatch.setattr(module, "_make", lambda *arguments: makes.append(0) or make(*arguments))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: as_lists(mapped(stored, path)), range(4)))
    assert found == [sequences(0)] * 4 and len(makes) == 1


def test_a_full_disk_is_told_and_leaves_nothing(stored, path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full after") as told:
        patch.setattr(module.tempfile, "TemporaryFile", lambda dir: Path("/dev/full").open("wb"))  # noqa: SIM115
        mapped(stored, path)
    assert told.value.errno == errno.ENOSPC and told.value.filename == str(path)
    assert {each.name for each in path.parent.iterdir()} == {".lock-train"}
    assert as_lists(mapped(stored, path)) == sequences(0)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_where_nothing_may_be_written_the_set_is_read_into_memory(stored, path, monkeypatch, code):
    with monkeypatch.context() as patch:
        refuse = OSError(code, "not to be written", str(path.parent))
        patch.setattr(module, "one_at_a_time", lambda *_: (_ for _ in ()).throw(refuse))
        assert as_lists(mapped(stored, path)) == sequences(0)
    assert not path.exists()
    mapped(stored, path)
    assert path.exists()


def test_a_damaged_shard_is_not_covered_by_a_file_that_is_whole(stored, path):
    mapped(stored, path)
    stored.path(1).write_bytes(stored.path(1).read_bytes()[:-3])
    with pytest.raises(UsageError, match="shard-00001"):
        mapped(stored, path)


def test_the_bytes_that_are_asked_of_the_disk_are_those_that_are_taken(tmp_path, path):
    stored = SampleFiles(tmp_path / "samples", 100, 100, {})
    stored.write(0, Samples.of([range(200)] * 100, 1, np.zeros(100)), VOCAB)
    stored.complete({})
    asked = bytes_to_make(stored, path, VOCAB)
    mapped(stored, path)
    assert asked == pytest.approx(path.stat().st_size + 100 * 200 * 2, rel=0.05)
    assert bytes_to_make(stored, path, VOCAB) == 0


def test_nothing_is_written_elsewhere(tmp_path, stored):
    """Not in the home folder, nor where temporary files or those of Hugging Face's libraries are."""
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path\n"
        "from llm.store.mapped import mapped; from llm.store.samples import SampleFiles\n"
        f"found = mapped(SampleFiles(Path(sys.argv[1]), {NUM}, 3, {{'weights': 'these'}}), Path(sys.argv[2]))\n"
        "print([found[i].tolist() for i in range(len(found))])\n"
        "assert 'datasets' not in sys.modules  # which takes seconds to import\n"
    )
    directories = dict.fromkeys(["HOME", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR"], str(home))
    there = [str(stored.directory), str(tmp_path / "cache" / "train.arrow")]
    done = command(sys.executable, "-c", code, *there, **directories)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == sequences(0)
    assert not list(home.iterdir()) and {each.name for each in tmp_path.iterdir()} == {"home", "samples", "cache"}
