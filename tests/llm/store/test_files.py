"""Files that are whole or absent, their seals and records, and a disk that is full."""

import contextlib
import errno
import math
import os
import subprocess

import pytest

from llm.machine.processes import UsageError
from llm.store import files


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "told", [OSError(errno.ENOSPC, "No space left"), RuntimeError("I/O error: No space left on device")]
)
def test_a_full_disk_is_told_with_the_path_and_the_bytes(tmp_path, told):
    """Also where the library that writes has its own exception for it, as safetensors has."""
    with (
        pytest.raises(OSError, match=r"disk full after 4 bytes of it: '.*/a'") as caught,
        files.atomic(tmp_path / "a") as t,
    ):
        t.write_text("half")
        raise told
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_of_a_log_too(tmp_path):
    with (
        pytest.raises(OSError, match=r"disk full after 5 bytes of it: '.*/log'"),
        files.appending(tmp_path / "log") as f,
    ):
        f.write("half\n")
        f.flush()
        raise OSError(errno.ENOSPC, "No space left")


def left(root) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


# A user's: nothing else makes the names of half-written files, and even these stay where no directory is ours.
KEPT = ["kept.half-written", ".kept", ".a.host.12.tmp", f"theirs/.a.{files.HOST}.1.half-written"]


@pytest.fixture
def littered(tmp_path):
    """A directory with what is kept, and with half-written files of a dead process, of this one and of another host."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    owners = [f"{files.HOST}.{dead.pid}", f"{files.HOST}.{os.getpid()}", "elsewhere.1"]
    for name in (
        *(f".half.{owner}.half-written" for owner in owners),
        *(f".set.{owner}.half-written/deep/part" for owner in owners),
    ):
        for path in (tmp_path / name, tmp_path / "deep" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half")
    (tmp_path / "theirs").mkdir()
    for name in KEPT:
        (tmp_path / name).write_text("whole")
    return tmp_path


def test_leftovers_of_killed_processes_are_removed_whatever_they_are_in(littered):
    files.remove_leftovers(littered, ("deep",), alone=True)
    assert left(littered) == sorted(["deep", "theirs", *KEPT])


def test_beside_other_writers_only_what_a_dead_process_of_this_host_left_is_removed(littered):
    before = left(littered)
    files.remove_leftovers(littered, ("deep",), alone=False)
    gone = set(before) - set(left(littered))
    alive = {f"{files.HOST}.{os.getpid()}", "elsewhere.1"}
    assert len(gone) == 2 * 4 and not any(owner in name for owner in alive for name in gone)
    assert {name for name in before if any(owner in name for owner in alive)} <= set(left(littered))


def test_what_a_running_process_writes_is_named_so_that_the_others_leave_it(tmp_path):
    with files.atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        files.remove_leftovers(tmp_path, (), alone=False)
        assert temporary.exists()
    assert left(tmp_path) == ["a"]


@pytest.mark.parametrize("sealed", [True, False])
def test_a_directory_with_a_users_file_is_not_replaced(tmp_path, sealed):
    def write():
        with files.atomic(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / "config.json").write_text("{}")
            files.seal(temporary)

    write()
    (tmp_path / "model" / "notes.md").write_text("mine")
    if not sealed:
        (tmp_path / "model" / files.SEAL).unlink()
    with pytest.raises(UsageError, match=r"notes\.md is no file of this program"):
        write()
    assert (tmp_path / "model" / "notes.md").read_text() == "mine"
    (tmp_path / "model" / "notes.md").unlink()
    write()
    assert files.broken_seal(tmp_path / "model") is None


def test_a_seal_whose_names_are_damaged_makes_no_file_of_ours_foreign(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    files.seal(tmp_path)
    seal = tmp_path / files.SEAL
    seal.write_text(seal.read_text().replace("config.json", "confiG.json"))
    assert files.broken_seal(tmp_path) == "confiG.json" and files.foreign_file(tmp_path) is None
    (tmp_path / "notes.md").write_text("mine")
    assert files.foreign_file(tmp_path) == tmp_path / "notes.md"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_record(tmp_path / "record.json", {"log_prob": [0.0, value]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("refused", [errno.EINVAL, errno.EIO])
def test_a_directory_that_cannot_be_synced_is_written_where_the_file_system_says_so(tmp_path, monkeypatch, refused):
    def fsync(descriptor):
        raise OSError(refused, "no")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with contextlib.nullcontext() if refused == errno.EINVAL else pytest.raises(OSError, match="no"):
        files.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").exists() == (refused == errno.EINVAL)


def test_a_seal_names_what_is_not_as_it_was(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert files.broken_seal(tmp_path) == files.SEAL and files.seal_hash(tmp_path) is None
    files.seal(tmp_path)
    assert files.broken_seal(tmp_path) is None and len(files.seal_hash(tmp_path)) == 64
    (tmp_path / "b").write_text("c")
    assert files.broken_seal(tmp_path) == "b"
    (tmp_path / "a").unlink()
    assert files.broken_seal(tmp_path) == "a"
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "c").write_text("")
    assert files.broken_seal(tmp_path) == "c"


def test_a_record_of_which_any_character_has_changed_is_no_record(tmp_path):
    path = tmp_path / "record.json"
    value = {"best_epoch": 3, "epochs": [1.5, None], "name": "a"}
    files.write_record(path, value)
    assert files.read_record(path) == value
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert files.read_record(path) is None
        path.write_bytes(data[:place])
        assert files.read_record(path) is None
    assert files.read_record(tmp_path / "none.json") is None


def test_a_record_in_the_place_of_another_is_no_record(tmp_path):
    for name in ("one", "other"):
        files.write_record(tmp_path / name / "selection.json", {"model": name})
    path = tmp_path / "one" / "selection.json"
    assert files.read_record(path, model="one") == {"model": "one"}
    assert files.read_record(path, model="other") is None
    assert files.read_record(path, model="one", bound="to something") is None
    (tmp_path / "one" / "training.json").write_bytes(path.read_bytes())
    assert files.read_record(tmp_path / "one" / "training.json", model="one") is None
