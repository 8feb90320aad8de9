"""What a card says of where weights come from: their licence as it is given or stated, never made up, and no path."""

import pytest

from llm.machine.processes import UsageError
from scripts.export.cards import licence_of
from scripts.export.described import code, hub_id, source


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense: MIT\n---\n", "mit"),
        ("---\nlicense: Free for Tuesdays\n---\n", "unknown"),
        ("---\nlanguage: en\n---\n", "unknown"),
        ("---\nlicense: [\n---\n", "unknown"),
        ("---\n- license\n---\n", "unknown"),
        ("# Under the Apache licence\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_card_states_it_in_its_front_matter_alone(tmp_path, card, expected):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path), None) == expected
    assert licence_of(str(tmp_path), "gpl-3.0") == "gpl-3.0"


@pytest.mark.parametrize(
    "spec", [{"model_type": "llama"}, "Somebody/model", "package://carrier/a.gguf", "/gone/a.gguf"]
)
def test_elsewhere_nobody_states_it(spec):
    assert licence_of(spec, None) == "unknown" and licence_of(spec, "mit") == "mit"


@pytest.mark.parametrize("given", ["", "Apache 2.0", "MIT", "[mit]"])
def test_what_is_no_identifier_is_refused(given):
    with pytest.raises(UsageError, match=r"it must be an identifier of the hub, like apache-2.0 or other"):
        licence_of("Somebody/model", given)


def test_only_a_hub_id_is_a_base_model_and_no_path_is_shown(tmp_path):
    assert hub_id("Somebody/model") == "Somebody/model"
    for spec in (str(tmp_path), "package://carrier/a.gguf", "a/b.gguf", {"model_type": "llama"}, "/gone/away"):
        assert hub_id(spec) is None
    assert source(str(tmp_path / "inner" / "m.gguf")) == "a local copy named `m.gguf`"
    assert source("package://carrier/a.gguf") == "`a.gguf` of the Python package `carrier`"


def test_code_stays_code():
    assert code("a") == "`a`" and code("a`b") == "`` a`b ``" and code("a\nb") == "`a b`"
