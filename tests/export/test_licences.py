"""The licence of p*'s weights is read where it is stated, and never made up."""

import gguf
import pytest
from huggingface_hub import constants

from scripts.export import licences
from scripts.export.described import code, source
from scripts.export.licences import hub_id, licence_of


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def write_gguf(path, **stated: str) -> None:
    """A GGUF of metadata alone."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in stated.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_random_weights_have_none():
    found = licence_of({"model_type": "llama"})
    assert found.fields == {"license": "unknown"} and not found.is_known and "random" in found.told


def test_a_gguf_states_it(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, license="apache-2.0")
    found = licence_of(str(path))
    assert found.fields == {"license": "apache-2.0"} and found.is_known
    assert "a.gguf" in found.told and "general.license" in found.told and str(tmp_path) not in found.told
    write_gguf(path, license="other", license_name="mine", license_link="LICENCE.txt")
    assert licence_of(str(path)).fields == {"license": "other", "license_name": "mine", "license_link": "LICENCE.txt"}
    write_gguf(path, license="Free for Tuesdays")
    assert licence_of(str(path)).fields == {"license": "other", "license_name": "Free for Tuesdays"}


def test_a_gguf_that_does_not_state_it_or_is_none(tmp_path):
    write_gguf(tmp_path / "a.gguf", name="tiny")
    (tmp_path / "b.gguf").write_text("no GGUF")
    for name in ("a.gguf", "b.gguf", "missing.gguf"):
        assert licence_of(str(tmp_path / name)).fields == {"license": "unknown"}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("License: Apache-2.0", "apache-2.0"),
        ("License-Expression: MIT", "mit"),
        ("License: Permission is granted\n        to nobody", "unknown"),
        ("Author: Somebody", "unknown"),
    ],
)
def test_a_package_states_it_where_its_gguf_does_not(tmp_path, monkeypatch, stated, expected):
    information = tmp_path / "some_carrier-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.4\nName: some-carrier\nVersion: 1.0\n{stated}\n")
    (information / "top_level.txt").write_text("some_carrier\n")
    (tmp_path / "some_carrier").mkdir()
    (tmp_path / "some_carrier" / "__init__.py").touch()
    write_gguf(tmp_path / "some_carrier" / "a.gguf", name="tiny")
    monkeypatch.syspath_prepend(tmp_path)
    found = licence_of("package://some_carrier/a.gguf")
    assert found.fields == {"license": expected}
    assert ("some-carrier" in found.told) == (expected != "unknown")
    write_gguf(tmp_path / "some_carrier" / "a.gguf", license="gpl-3.0")
    assert licence_of("package://some_carrier/a.gguf").fields == {"license": "gpl-3.0"}


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", {"license": "apache-2.0"}),
        ("---\nlicense: other\nlicense_name: theirs\n---\n", {"license": "other", "license_name": "theirs"}),
        ("---\nlanguage: en\n---\n", {"license": "unknown"}),
        ("---\nlicense: [\n---\n", {"license": "unknown"}),
        ("---\n- license\n---\n", {"license": "unknown"}),
        ("# Under the Apache licence\n", {"license": "unknown"}),
        (None, {"license": "unknown"}),
    ],
)
def test_a_card_states_it_in_its_front_matter_alone(tmp_path, monkeypatch, card, expected):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)).fields == expected
    monkeypatch.setattr(licences, "locate", lambda spec, names: tmp_path)
    found = licence_of("Somebody/model")
    assert found.fields == expected and "Somebody/model" in found.told


def test_a_hub_that_cannot_be_reached_states_nothing():
    assert licence_of("Somebody/model").fields == {"license": "unknown"}


def test_only_a_hub_id_is_a_base_model_and_no_path_is_shown(tmp_path):
    assert hub_id("Somebody/model") == "Somebody/model"
    for spec in (str(tmp_path), "package://carrier/a.gguf", "a/b.gguf", {"model_type": "llama"}, "/gone/away"):
        assert hub_id(spec) is None
    assert source(str(tmp_path / "inner" / "m.gguf")) == "a local copy named `m.gguf`"
    assert source("package://carrier/a.gguf") == "`a.gguf` of the Python package `carrier`"


def test_code_stays_code():
    assert code("a") == "`a`" and code("a`b") == "`` a`b ``" and code("a\nb") == "`a b`"
