"""Where a model comes from: found wherever it may be, and named where it is not."""

import pytest

from llm.machine.processes import UsageError
from llm.models import sources


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "_hub_reachable", lambda: False)


def test_a_hub_id_that_is_in_the_cache(tmp_path):
    """The layout of the hub's cache, made by hand, found without a network."""
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert sources.locate("someone/tiny", ["config.json"]) == snapshot


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("someone/tiny", "the hub cannot be reached"),
        ("no/such/place", "no/such/place"),
        ("missing.gguf", "missing"),
        ("package://no_such_package/file.gguf", "file"),
        ("a b", "a b"),
    ],
)
def test_what_cannot_be_found_is_named(spec, told):
    with pytest.raises(UsageError, match=told):
        sources.locate(spec, ["config.json"])


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json: it is no model's"):
        sources.check(sources.locate(str(tmp_path), ["config.json"]), "ground_truth")
