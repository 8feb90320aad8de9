"""Profiles, flags, and every wrong value refused by name."""

import math
import sys

import pytest
from conftest import run

from llm import config
from llm.config import Experiment
from llm.processes import UsageError


@pytest.mark.parametrize("name", ["smoke", "quick", "cpu", "paper"])
def test_every_profile_is_complete(name):
    assert set(config.load(name).to_dict()) == set(Experiment.model_fields)


def test_render_is_a_profile_of_the_same_experiment(tmp_path, smoke):
    path = tmp_path / "copy.yaml"
    path.write_text(config.render(smoke))
    assert config.load(str(path)) == smoke


def test_paper_profile_has_the_papers_numbers():
    paper = config.load("paper")
    assert (paper.num_train, paper.num_validation, paper.num_test) == (10_000_000, 100_000, 100_000)
    assert paper.temperatures == (0.8, 0.875, 0.95, 1.0)
    assert (paper.max_length, paper.batch_size, paper.num_seeds, paper.teacher_epochs) == (512, 256, 5, 5)
    assert (paper.learning_rate, paper.adam_beta1, paper.adam_beta2, paper.max_grad_norm) == (5e-4, 0.9, 0.95, 1.0)
    assert (paper.warmup_fraction, paper.decay_fraction) == (0.01, 0.2)


@pytest.mark.parametrize(("given", "value"), [("true", True), ("false", False)])
def test_a_flag_says_whether_the_truth_has_students(given, value):
    assert config.load("cpu").students_of_truth is False
    assert config.parse("", ["--students_of_truth", given])[0].students_of_truth is value


def test_a_flag_overrides_the_profile():
    flags = ["--profile", "smoke", "--learning_rate", "1e-3", "--temperatures", "0.5", "1", "--vocab_size", "null"]
    experiment, root, _ = config.parse("", flags)
    assert experiment.learning_rate == 1e-3
    assert experiment.temperatures == (0.5, 1.0)
    assert experiment.vocab_size is None
    assert root.name == "smoke"


@pytest.mark.parametrize("text", ["the cat # hash", "the ", " - a", "-a", "--a", "a\nb", "yes", "123", "null", "é"])
def test_text_is_taken_as_it_is_typed(text):
    for flags in (["--prompt", text], [f"--prompt={text}"]):
        experiment, root, _ = config.parse("", ["--profile", "smoke", *flags, "--out", "/here"])
        assert (experiment.prompt, str(root)) == (text, "/here")


@pytest.mark.parametrize(
    ("text", "prompt"), [("[1, 2]", (1, 2)), ('["[INST] a"]', ("[INST] a",)), ("[[1], [2]]", ((1,), (2,)))]
)
def test_a_list_is_one_in_brackets(text, prompt):
    assert config.parse("", ["--profile", "smoke", "--prompt", text])[0].prompt == prompt


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--prompt", "--out", "/x"], "--prompt: expected one argument"),
        (["--prompt", "[INST] a"], "a text that begins with a bracket"),
        (["--prompt", "\udcff"], "not in UTF-8"),
        (["--student", "{a: 1, a: 2}"], "student"),
    ],
)
def test_text_that_is_none_is_refused(flags, told):
    with pytest.raises(UsageError, match=told):
        config.parse("", ["--profile", "smoke", *flags])


@pytest.mark.parametrize("value", [123, True, 1.5])
def test_a_profiles_text_that_yaml_takes_for_something_else_is_refused_with_a_hint(smoke, value):
    with pytest.raises(UsageError, match=rf"prompt is {value}: .*; as text, in quotes: '{value}'"):
        smoke.with_values(prompt=value)


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nteacher: {a: 1}\nseed: 2\n")
    with pytest.raises(UsageError, match=r"twice\.yaml .* 'seed' is given twice, in lines 1 and 3"):
        config.read_profile(path)


def test_a_profile_is_utf_8_whatever_the_locale(tmp_path, smoke):
    path = tmp_path / "accents.yaml"
    path.write_bytes(f"{config.render(smoke)}\n".replace("[0]", "élève").encode())
    code = f"from llm import config; print(ascii(config.load({str(path)!r}).prompt))"
    done = run(sys.executable, "-X", "utf8=0", "-c", code, LC_ALL="C", PYTHONCOERCECLOCALE="0")
    assert done.stdout.strip() == ascii("élève"), done.stderr
    path.write_bytes("prompt: élève".encode("latin-1"))
    with pytest.raises(UsageError, match=r"accents\.yaml is no YAML in UTF-8"):
        config.read_profile(path)


def test_a_profile_file_of_ones_own(tmp_path, smoke):
    path = tmp_path / "mine.yaml"
    path.write_text(config.render(smoke.with_values(seed=7)))
    experiment, root, _ = config.parse("", ["--profile", str(path)])
    assert experiment.seed == 7
    assert root.name == "mine"


def test_an_experiment_does_not_change(smoke):
    with pytest.raises(ValueError, match="frozen"):
        smoke.seed = 1
    assert smoke.with_values(seed=1).seed == 1 and smoke.seed == 0


WRONG = {
    "temperatures": [[0.8, 0], [-1.0], [1e-50], [math.nan], [math.inf], ["warm"], [], 0.8, [0.8, 0.8]],
    "num_train": [0, 10.5, True],
    "num_test": [1],
    "max_length": [1],
    "vocab_size": [1, "many"],
    "prompt": ["", [], [-1], 5, ["The", 1], ["The", ""], [[1], []], [[1], [-1]]],
    "seed": [-1, None],
    "learning_rate": [0, "nan", "quick"],
    "adam_beta1": [1.0],
    "adam_beta2": [-0.1],
    "weight_decay": [-1],
    "max_grad_norm": [0],
    "warmup_fraction": [1.5],
    "decay_fraction": [-0.2],
    "training_dtype": ["float16"],
    "sampling_dtype": ["int8"],
    "tracker": ["notebook"],
    "students_of_truth": [1, "maybe", None],
    "batch_size": [0],
    "teacher": [{}],
    "ground_truth": [3],
    "gradient_checkpointing": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_a_wrong_value_is_refused_by_name_and_in_one_line(smoke, name, value):
    with pytest.raises(UsageError, match=rf"^{name} [^\n]*$"):
        smoke.with_values(**{name: value})


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("The", ("The",)),
        ([1, 2], ((1, 2),)),
        (["The", "A"], ("The", "A")),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ([[1, 2]], ((1, 2),)),
    ],
)
def test_one_prompt_or_several(smoke, prompt, prompts):
    experiment = smoke.with_values(prompt=prompt)
    assert experiment.prompts == prompts
    assert config.build(experiment.to_dict()) == experiment


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temprature": 1.0}, "unknown key 'temprature'"),
        ({"warmup_fraction": 0.6, "decay_fraction": 0.6}, "warmup_fraction"),
    ],
)
def test_what_is_wrong_with_the_whole_is_refused(smoke, change, told):
    with pytest.raises(UsageError, match=told):
        smoke.with_values(**change)


def test_a_missing_key_is_refused_by_name(smoke):
    values = smoke.to_dict()
    del values["batch_size"]
    with pytest.raises(UsageError, match="batch_size"):
        config.build(values)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", ""])
def test_a_profile_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"bad\.yaml"):
        config.read_profile(path)
