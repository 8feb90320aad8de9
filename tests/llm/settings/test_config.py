"""Profiles, flags, and every wrong value refused by name."""

import math
import re
import sys

import pytest
from conftest import run

from llm.machine.processes import UsageError
from llm.settings import config
from llm.settings.experiment import Experiment

PROFILES = [*config.PROFILES.glob("*.yaml"), *config.REPOSITORY.glob("scripts/objectives/*.yaml")]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_is_complete(path):
    assert set(config.load(str(path)).to_dict()) == set(Experiment.model_fields)


@pytest.mark.parametrize("text", ["The", "1e-3", "0100", "1:30", "1_000", "yes", "null", "~", ".5", "2001-01-01", " a"])
def test_render_is_a_profile_of_the_same_experiment(tmp_path, smoke, text):
    path = tmp_path / "copy.yaml"
    for experiment in (smoke, smoke.with_values(prompt=text, learning_rate=1e-7)):
        path.write_text(config.render(experiment))
        assert config.load(str(path)) == experiment


def test_a_profile_has_what_it_extends_and_what_differs(tmp_path, smoke):
    (tmp_path / "below").mkdir()
    (tmp_path / "mine.yaml").write_text("extends: smoke\nseed: 7\nstudent: {model_type: gpt2}\n")
    (tmp_path / "below" / "other.yml").write_text("num_seeds: 2\nextends: ../mine.yaml\n")
    mine = smoke.with_values(seed=7, student={"model_type": "gpt2"})  # nothing is left of the other student
    assert config.load(str(tmp_path / "mine.yaml")) == mine
    experiment, root, _ = config.parse("", ["--profile", str(tmp_path / "below" / "other.yml"), "--seed", "8"])
    assert experiment == mine.with_values(num_seeds=2, seed=8) and root.name == "other"


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        (
            "none",
            r"mine\.yaml extends none: no profile 'none': use one of cpu, paper, place, quick, smoke, or the path",
        ),
        ("none.yaml", r"mine\.yaml extends none\.yaml: no profile 'none\.yaml'"),
        ("mine.yaml", r"mine\.yaml extends mine\.yaml, which extends it"),
        ("other.yaml", r"other\.yaml extends mine\.yaml, which extends it"),
        ("broken.yaml", r"broken\.yaml is not a mapping"),
        ("[cpu, smoke]", r"mine\.yaml: extends is \['cpu', 'smoke'\]: it must be the name or the path of one profile"),
        ("null", r"mine\.yaml: extends is None"),
    ],
)
def test_a_profile_that_extends_none_is_refused_in_one_line(tmp_path, extends, told):
    (tmp_path / "mine.yaml").write_text(f"extends: {extends}\n")
    (tmp_path / "other.yaml").write_text("extends: mine.yaml\n")
    (tmp_path / "broken.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match=rf"^[^\n]*{told}[^\n]*$"):
        config.load(str(tmp_path / "mine.yaml"))


def test_help_has_every_field_in_the_groups_and_the_order_of_the_profile(capsys):
    with pytest.raises(SystemExit):
        config.parse("", ["--help"])
    flag_or_title = re.compile(r"^(?:  --(\w+) .*|(?!usage|options)(\w.*):)$", re.MULTILINE)
    of_help = [
        flag or title
        for flag, title in flag_or_title.findall(capsys.readouterr().out)
        if flag not in ("profile", "out")
    ]
    lines = (config.PROFILES / "cpu.yaml").read_text().split("\n\n", 1)[1]
    assert of_help == re.findall(r"^(?:# )?(\w[\w ]*\w)", lines, re.MULTILINE)
    assert set(Experiment.model_fields) < set(of_help)


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


@pytest.mark.parametrize(
    ("flag", "given", "value"),
    [
        ("learning_rate", "1E-3", 1e-3),
        ("learning_rate", ".5", 0.5),
        ("num_test", "0100", 100),  # in YAML 1.1 it is 64, and 1:30 is 90
        ("num_test", "1:30", "'1:30': it must be a valid integer"),
        ("num_test", "1_000", "'1_000': it must be a valid integer"),
        ("num_test", "0x10", "'0x10': it must be a valid integer"),
        ("temperatures", "1:30", "'1:30': it must be a valid number"),
        ("temperatures", "", "None: it must be a valid number"),
        ("chat_template", "yes", "'yes': it must be a valid boolean"),
    ],
)
def test_a_number_is_decimal(flag, given, value):
    flags = ["--profile", "smoke", f"--{flag}", given]
    if isinstance(value, str):
        with pytest.raises(UsageError, match=f"^{flag} is {value}$"):
            config.parse("", flags)
    else:
        assert getattr(config.parse("", flags)[0], flag) == value


def test_null_is_none_where_a_field_may_be_none():
    experiment = config.parse("", ["--profile", "smoke", "--teacher", "null", "--student=null", "--baseline", "null"])[
        0
    ]
    assert (experiment.teacher, experiment.student, experiment.baseline) == (None, None, None)


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
        (["--student", "{a: 1, a: 2}"], "student is '{a: 1, a: 2}': not a YAML value"),
        (["--student", "{{a}}"], "student is '{{a}}': not a YAML value"),
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
    code = f"from llm.settings import config; print(ascii(config.load({str(path)!r}).prompt))"
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
    "control_temperatures": [[0.8, 0], [math.nan], ["warm"], 0.8, [0.8, 0.8]],
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
    "sampler": ["theirs"],
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
        ({"num_train": 10_001, "shard_size": 1}, "shard_size 1 makes more than 10000 shards"),
    ],
)
def test_what_is_wrong_with_the_whole_is_refused(smoke, change, told):
    with pytest.raises(UsageError, match=told):
        smoke.with_values(**change)


FORWARD = {"loss": "kl_teacher_student", "prefixes": "ground_truth", "temperature": 0.8}
MIXED, SKEWED = FORWARD | {"loss": "jensen_shannon"}, FORWARD | {"loss": "skewed_kl_student_teacher"}
CUT, SAMPLED = FORWARD | {"loss": "top_k", "k": 5}, FORWARD | {"loss": "sampled", "m": 2}
STUDENTS = [FORWARD, MIXED | {"beta": 0.25}, SKEWED | {"lambda": 0.1}, CUT, CUT | {"loss": "top_k_tail"}, SAMPLED]
STUDENTS += [FORWARD | {"prefixes": "student", "temperature": 3.0}, SAMPLED | {"prefixes": "teacher"}]
STUDENTS += [FORWARD | {"loss": "kl_student_teacher", "hard_weight": 0.25}]


def test_students_are_a_profile_of_the_same_students(tmp_path, smoke):
    experiment = smoke.with_values(students=STUDENTS)
    assert experiment.to_dict()["students"] == STUDENTS and len(experiment.students) == len(STUDENTS)
    assert config.build(experiment.to_dict()) == experiment != smoke
    path = tmp_path / "mine.yaml"
    path.write_text(config.render(experiment))
    assert config.load(str(path)) == experiment


def test_students_are_given_as_a_flag(smoke):
    flag = "[{loss: kl_teacher_student, prefixes: ground_truth, temperature: 0.8}]"
    for flags in (["--students", flag], [f"--students={flag}"]):
        assert config.parse("", ["--profile", "smoke", *flags])[0] == smoke.with_values(students=[FORWARD])


@pytest.mark.parametrize(
    ("student", "told"),
    [
        (
            FORWARD | {"loss": "cross_entropy"},
            r"students\[0\]\.loss is 'cross_entropy': it must be 'hard', 'kl_teacher_",
        ),
        (FORWARD | {"loss": "hard"}, r"students\[0\]: hard is not to be listed"),
        (
            FORWARD | {"prefixes": "student", "hard_weight": 0.1},
            r"students\[0\]: hard_weight on a student's own prefixes",
        ),
        (FORWARD | {"hard_weight": 1}, r"students\[0\]\.hard_weight is 1: it must be less than 1"),
        (
            FORWARD | {"hard_weight": -0.1},
            r"students\[0\]\.hard_weight is -0\.1: it must be greater than or equal to 0",
        ),
        (MIXED | {"beta": 0}, r"students\[0\]\.beta is 0: it must be greater than 0"),
        (MIXED | {"beta": 1}, r"students\[0\]\.beta is 1: it must be less than 1"),
        (MIXED | {"beta": 1.5}, r"students\[0\]\.beta is 1\.5: it must be less than 1"),
        (SKEWED | {"lambda": 0}, r"students\[0\]\.lambda is 0: it must be greater than 0"),
        (SKEWED | {"lambda": 1}, r"students\[0\]\.lambda is 1: it must be less than 1"),
        (CUT | {"k": 0}, r"students\[0\]\.k is 0: it must be greater than or equal to 1"),
        (CUT | {"k": 2.5}, r"students\[0\]\.k is 2\.5: it must be a valid integer"),
        (CUT | {"k": 41}, r"students\[0\]\.k is 41: it must be at most the vocabulary's 40 ids"),
        (SAMPLED | {"m": 0}, r"students\[0\]\.m is 0: it must be greater than or equal to 1"),
        (MIXED, r"students\[0\]: jensen_shannon needs beta"),
        (SKEWED, r"students\[0\]: skewed_kl_student_teacher needs lambda"),
        (FORWARD | {"loss": "top_k_tail"}, r"students\[0\]: top_k_tail needs k"),
        (FORWARD | {"loss": "sampled"}, r"students\[0\]: sampled needs m"),
        (FORWARD | {"k": 3}, r"students\[0\]: kl_teacher_student has no k"),
        (MIXED | {"beta": 0.5, "lambda": 0.5}, r"students\[0\]: jensen_shannon has no lambda"),
        (
            FORWARD | {"prefixes": "teacher", "temperature": 0.7},
            r"students\[0\]\.temperature is 0\.7: the teacher's samples",
        ),
        (
            FORWARD | {"prefixes": "p"},
            r"students\[0\]\.prefixes is 'p': it must be 'ground_truth', 'teacher' or 'student'",
        ),
        (FORWARD | {"temperature": "warm"}, r"students\[0\]\.temperature is 'warm': it must be a valid number"),
        (FORWARD | {"temperature": 0}, r"students\[0\]\.temperature is 0: it must be at least 1e-30"),
        (
            FORWARD | {"tau": 1},
            r"unknown key 'students\[0\]\.tau': the keys are loss, prefixes, temperature, beta, lambda",
        ),
        ({"loss": "kl_teacher_student", "prefixes": "student"}, r"students\[0\]\.temperature is not set"),
        ({"loss": "other"}, r"students\[0\]\.loss is 'other': it must be 'hard', [^F]*$"),
        ("kl_teacher_student", r"students\[0\] is 'kl_teacher_student': it must be an object"),
    ],
)
def test_what_is_no_student_is_refused_in_one_line_with_its_place(smoke, student, told):
    with pytest.raises(UsageError, match=rf"^{told}[^\n]*$"):
        smoke.with_values(students=[student], vocab_size=40)
    with pytest.raises(UsageError, match=rf"^{told.replace('0', '1', 1)}[^\n]*$"):  # the second of two
        smoke.with_values(students=[SAMPLED, student], vocab_size=40)


@pytest.mark.parametrize(
    ("placed", "told"),
    [
        ({"name": "a", "model": "b", "sed": 1}, r"unknown key 'placed\[0\]\.sed': the keys are name, model, seed"),
        ({"name": "a"}, r"placed\[0\]\.model is not set"),
        ({"name": "a", "model": "b", "seed": -1}, r"placed\[0\]\.seed is -1: it must be greater than or equal to 0"),
        ("a", r"placed\[0\] is 'a': it must be an object"),
    ],
)
def test_what_is_no_placed_model_is_refused_in_one_line_with_its_place(smoke, placed, told):
    with pytest.raises(UsageError, match=rf"^{told}$"):
        smoke.with_values(placed=[placed])


def test_a_student_is_listed_once(smoke):
    for second in (FORWARD, FORWARD | {"hard_weight": 0, "temperature": 0.8}):
        with pytest.raises(
            UsageError, match=r"^students has student_kl_teacher_student_on_ground_truth_tau0\.80 twice$"
        ):
            smoke.with_values(students=[FORWARD, SAMPLED, second])


@pytest.mark.parametrize("value", [FORWARD, 5, None, "kl_teacher_student"])
def test_students_that_are_no_list_are_refused_by_name(smoke, value):
    with pytest.raises(UsageError, match=r"^students is [^\n]*$"):
        smoke.with_values(students=value)


def test_a_missing_key_is_refused_by_name(smoke):
    values = smoke.to_dict()
    del values["batch_size"]
    with pytest.raises(
        UsageError, match=r"^batch_size is not set: extend a profile that has it, as in 'extends: cpu'$"
    ):
        config.build(values)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", ""])
def test_a_profile_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"bad\.yaml"):
        config.read_profile(path)
