"""Files that are whole or absent, their seals and records, and a disk that is full."""

import errno
import os

import pytest

from llm import files


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


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / "x" / ".a.12.tmp").mkdir(parents=True)
    (tmp_path / "x" / ".a.12.tmp" / "part").write_text("")
    (tmp_path / ".b.3.tmp").write_text("")
    (tmp_path / "kept.tmp").write_text("")
    files.remove_leftovers(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["kept.tmp", "x"]


def test_a_seal_names_what_is_not_as_it_was(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert files.broken_seal(tmp_path) == files.SEAL
    files.seal(tmp_path)
    assert files.broken_seal(tmp_path) is None
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


def test_leftovers_are_removed_whatever_they_are_in(tmp_path):
    for name in (".one.1.tmp", "deep/.two.2.tmp", ".directory.3.tmp/.three.4.tmp", ".directory.3.tmp/four"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "kept").write_text("whole")
    files.remove_leftovers(tmp_path, "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".directory.3.tmp", "deep", "kept"]
    files.remove_leftovers(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["deep", "kept"]


def test_a_record_in_the_place_of_another_is_no_record(tmp_path):
    for name in ("one", "other"):
        files.write_record(tmp_path / name / "selection.json", {"model": name})
    path = tmp_path / "one" / "selection.json"
    assert files.read_record(path, model="one") == {"model": "one"}
    assert files.read_record(path, model="other") is None
    (tmp_path / "one" / "training.json").write_bytes(path.read_bytes())
    assert files.read_record(tmp_path / "one" / "training.json", model="one") is None
