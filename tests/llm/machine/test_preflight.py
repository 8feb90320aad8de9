"""What would run out on the way is refused before it begins, in one line that says how much there is."""

import pytest
from conftest import tiny_llama

from llm.machine import preflight
from llm.machine.processes import UsageError


@pytest.fixture
def little(monkeypatch):
    """A machine with 999 free bytes of each."""
    free = type("", (), {"free": 999, "available": 999})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda directory: free)
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: free)


def test_what_fits_is_let_through_and_one_byte_more_is_not(little, tmp_path):
    preflight.need_disk(tmp_path / "not" / "there", 999, "this")
    preflight.need_memory(999, "this")
    with pytest.raises(UsageError, match=r"this needs 1,000 bytes in .*there, where 999 are free"):
        preflight.need_disk(tmp_path / "not" / "there", 1000, "this")
    with pytest.raises(UsageError, match="this needs 1,000 bytes of memory, and 999 are free"):
        preflight.need_memory(1000, "this")


def test_a_place_that_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file cannot be written"):
        preflight.need_writable(tmp_path / "file" / "run")


def test_the_bytes_of_saved_weights_are_those_of_the_parameters(tmp_path):
    model = tiny_llama(0)
    model.save_pretrained(tmp_path)
    assert preflight.weights_bytes(tmp_path, 2) == 2 * model.num_parameters()


def test_a_tracker_that_is_not_installed_is_named():
    preflight.need_tracker("none")
    with pytest.raises(UsageError, match="run pip install no_such_tracker"):
        preflight.need_tracker("no_such_tracker")
