"""Profiles, flags, and every wrong value refused by name."""

import dataclasses
import math
import sys

import pytest
from conftest import run

from llm import config
from llm.config import UsageError


def smoke_values() -> dict:
    return config.read_yaml(config.find_profile("smoke"))


@pytest.mark.parametrize("name", ["smoke", "cpu", "paper"])
def test_every_profile_is_complete(name):
    experiment = config.build(config.read_yaml(config.find_profile(name)))
    assert set(experiment.to_dict()) == set(config.FIELDS)


def test_render_is_a_profile_of_the_same_experiment(tmp_path, smoke):
    path = tmp_path / "copy.yaml"
    path.write_text(config.render(smoke))
    assert config.build(config.read_yaml(path)) == smoke


def test_paper_profile_has_the_papers_numbers():
    paper = config.build(config.read_yaml(config.find_profile("paper")))
    assert (paper.num_train, paper.num_validation, paper.num_test) == (10_000_000, 100_000, 100_000)
    assert paper.temperatures == (0.8, 0.875, 0.95, 1.0)
    assert (paper.max_length, paper.batch_size, paper.num_seeds, paper.teacher_epochs) == (512, 256, 5, 5)
    assert (paper.learning_rate, paper.adam_beta1, paper.adam_beta2, paper.max_grad_norm) == (5e-4, 0.9, 0.95, 1.0)
    assert (paper.warmup_fraction, paper.decay_fraction) == (0.01, 0.2)


def test_a_flag_overrides_the_profile():
    flags = ["--profile", "smoke", "--learning_rate", "1e-3", "--temperatures", "0.5", "1", "--vocab_size", "null"]
    experiment, root, _ = config.parse("", flags)
    assert experiment.learning_rate == 1e-3
    assert experiment.temperatures == (0.5, 1.0)
    assert experiment.vocab_size is None
    assert root.name == "smoke"


def test_a_profile_file_of_ones_own(tmp_path, smoke):
    path = tmp_path / "mine.yaml"
    path.write_text(config.render(dataclasses.replace(smoke, seed=7)))
    experiment, root, _ = config.parse("", ["--profile", str(path)])
    assert experiment.seed == 7
    assert root.name == "mine"


WRONG = [
    ("temperatures", [0.8, 0]),
    ("temperatures", [-1.0]),
    ("temperatures", [math.nan]),
    ("temperatures", [math.inf]),
    ("temperatures", ["warm"]),
    ("temperatures", []),
    ("temperatures", 0.8),
    ("temperatures", [0.8, 0.8]),
    ("num_train", 0),
    ("num_train", 10.5),
    ("num_train", True),
    ("num_test", 1),
    ("max_length", 1),
    ("vocab_size", 1),
    ("vocab_size", "many"),
    ("prompt", ""),
    ("prompt", []),
    ("prompt", [-1]),
    ("prompt", 5),
    ("prompt", ["The", 1]),
    ("prompt", ["The", ""]),
    ("prompt", [[1], []]),
    ("prompt", [[1], [-1]]),
    ("seed", -1),
    ("seed", None),
    ("learning_rate", 0),
    ("learning_rate", "nan"),
    ("learning_rate", "quick"),
    ("adam_beta1", 1.0),
    ("adam_beta2", -0.1),
    ("weight_decay", -1),
    ("max_grad_norm", 0),
    ("warmup_fraction", 1.5),
    ("decay_fraction", -0.2),
    ("training_dtype", "float16"),
    ("sampling_dtype", "int8"),
    ("tracker", "notebook"),
    ("num_bootstrap", 3),
    ("batch_size", 0),
    ("teacher", {}),
    ("ground_truth", 3),
    ("gradient_checkpointing", 1),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=name):
        config.build({**smoke_values(), name: value})


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
def test_one_prompt_or_several(prompt, prompts):
    experiment = config.build({**smoke_values(), "prompt": prompt})
    assert experiment.prompts == prompts
    assert config.build(experiment.to_dict()) == experiment


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(UsageError, match="temprature"):
        config.build({**smoke_values(), "temprature": 1.0})


def test_a_missing_key_is_refused_by_name():
    values = smoke_values()
    del values["batch_size"]
    with pytest.raises(UsageError, match="batch_size"):
        config.build(values)


def test_warmup_and_decay_must_fit_into_the_training():
    with pytest.raises(UsageError, match="warmup_fraction"):
        config.build({**smoke_values(), "warmup_fraction": 0.6, "decay_fraction": 0.6})


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", ""])
def test_a_profile_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"bad\.yaml"):
        config.read_yaml(path)


def test_a_signal_is_told_as_one_also_where_a_library_turns_it_into_another_exception():
    code = (
        "import os, signal\n"
        "from llm import config\n"
        "def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ImportError('half imported') from None\n"
        "config.run(main)\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 128 + 15
    assert done.stderr == "interrupted: what is complete is kept; run the same command again to go on\n"
