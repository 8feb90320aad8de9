"""What TRL is given is the run's, to the id; its settings are ours; and its verdicts follow from the numbers."""

import ast
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import entry, refusal, run_of, tiny_llama, work_of
from datasets import load_from_disk
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, get_scheduler

from llm import pipeline
from llm.distributions import TEACHER, Distribution, Language
from llm.intervals import Estimate
from llm.models.given import initial
from llm.objectives import losses
from llm.run import Run
from llm.samplers import sample_sets
from llm.settings import config
from llm.settings.config import REPOSITORY
from llm.settings.parts import Part
from llm.settings.students import Student
from llm.store import files
from llm.store.resume import TrainingFiles
from llm.train import optimiser
from scripts.trl import comparison, export, train

ROOM = REPOSITORY / "scripts" / "trl"
KL = {"loss": "kl_teacher_student", "prefixes": "ground_truth", "temperature": 1.0}
JENSEN_SHANNON = KL | {"loss": "jensen_shannon", "beta": 0.5}
NAMES = ["student_direct", "student_tau0.50", "student_kl_teacher_student_on_ground_truth_tau1.00"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run as far as its teacher's samples: p* and the teacher are models of three ids, and no student is trained."""
    language = Language(vocab_size=3, prompts=((0,), (0, 1, 1)), eos_token_ids=(2,))
    sizes = dict(num_train=24, num_validation=4, shard_size=10, max_length=7, batch_size=8, teacher_epochs=1)
    e = config.load("smoke", temperatures=[0.5], student_epochs=2, students=[KL, KL | {"temperature": 0.5}], **sizes)
    found = run_of(e, tmp_path_factory.mktemp("run"), language)
    tiny_llama(1).save_pretrained(found.paths.ground_truth)
    (found.paths.ground_truth / files.SEAL).unlink()
    files.seal(found.paths.ground_truth)
    TrainingFiles(found.paths.checkpoints(teacher := Distribution(TEACHER, 0))).save_epoch(tiny_llama(2, 0.3), 1)
    drawn = [work.data for work in found.works("sample", script=pipeline.GENERATE) if work.data.split != "test"]
    sample_sets.complete(found, drawn, Part())
    record = {"model": TEACHER, "seed": 0, "bound": found.selection_bound(teacher), "best_epoch": 1}
    files.write_record(found.paths.selection(teacher), record)
    sample_sets.complete(found, [work_of(found, "train", "student_tau0.50").data], Part())
    return found


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Its export, and what settings.json says of each student."""
    directory = tmp_path_factory.mktemp("export")
    works = [work_of(run, "train", name) for name in NAMES]
    export.export(run, works, directory)
    return directory, export.settings_of(run, works)["students"]


# ----------------------------------------------------------------------------------------------------- export


def test_a_data_set_holds_the_ids_of_the_run_and_labels_behind_the_prompt(run, exported):
    directory, students = exported
    for student, name in zip(students, NAMES, strict=True):
        samples = run.samples(work_of(run, "train", name).data)
        rows = load_from_disk(directory / student["data"])
        assert len(rows) == len(samples) == 24 and set(samples.num_prompt) == {1, 3}
        assert {samples[i][-1] == 2 for i in range(24)} == {True, False}  # some end by themselves, and some do not
        for i, row in enumerate(rows):
            ids, num_prompt = samples[i].tolist(), samples.num_prompt[i]
            assert row["input_ids"] == ids
            assert row["labels"] == [-100] * num_prompt + ids[num_prompt:]
            assert row["completion_mask"] == [0] * num_prompt + [1] * (len(ids) - num_prompt)
            assert row["prompt"] == ""
    assert students[0]["data"] == students[2]["data"] != students[1]["data"]


def test_models_are_those_of_the_run(run, exported):
    directory, students = exported
    ids = torch.tensor([[0, 1, 0, 2]])
    for place, model in (("ground_truth", tiny_llama(1)), ("teacher/seed0", tiny_llama(2, 0.3))):
        assert torch.equal(AutoModelForCausalLM.from_pretrained(directory / place)(ids).logits, model(ids).logits)
    ours = initial(run, Distribution(NAMES[0], 0)).state_dict()
    given = AutoModelForCausalLM.from_pretrained(directory / students[1]["student"]).state_dict()
    assert ours.keys() == given.keys() and all(torch.equal(ours[name], given[name]) for name in ours)


def test_the_order_is_that_in_which_ours_learn(run, exported, monkeypatch):
    """By the rows that a training asks for."""
    from llm import train as ours

    directory, students = exported
    for student, name in zip(students[:2], NAMES, strict=False):
        asked = []
        monkeypatch.setattr(
            ours, "gradient", lambda batch, *_, asked=asked: asked.append(batch.rows) or torch.zeros(())
        )
        work = work_of(run, "train", name)
        model = initial(run, work.by)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        ours.train(run, work, model, run.samples(work.data))
        order = np.load(directory / student["order"])
        assert np.array_equal(np.concatenate(asked), order) and len(asked) == 6
        assert all(np.array_equal(np.sort(epoch), np.arange(24)) for epoch in order.reshape(2, 24))


def test_without_a_tokenizer_an_id_is_its_number_and_padding_is_an_id_that_there_is(exported):
    tokenizer = AutoTokenizer.from_pretrained(exported[0] / "student" / "seed0")
    assert tokenizer("2 0 1").input_ids == [2, 0, 1] and len(tokenizer) == 3
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (2, 2)


def test_with_a_tokenizer_of_more_ids_its_tokens_stay_and_padding_is_an_id_that_there_is(smoke, language, tmp_path):
    of_truth = run_of(smoke, tmp_path, language)
    words = Tokenizer(WordLevel({"the": 0, "cat": 1, "end": 2, "other": 3, "pad": 4}, unk_token="other"))
    given = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", eos_token="end")
    given.save_pretrained(of_truth.paths.ground_truth)
    export.tokenizer_of(of_truth).save_pretrained(tmp_path / "export")
    found = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert found.convert_ids_to_tokens(range(5)) == ["the", "cat", "end", "other", "pad"] and len(found) == 5
    assert (found.pad_token_id, found.eos_token_id) == (2, 2)


def test_a_twin_has_the_loss_of_ours():
    assert export.twin(None) == {"trainer": "SFTTrainer", "beta": None, "scale": 1.0}
    for given, beta, scale in (
        (KL, 0.0, 1.0),
        (KL | {"loss": "kl_student_teacher", "prefixes": "teacher"}, 1.0, 1.0),
        (JENSEN_SHANNON, 0.5, 0.25),
        (JENSEN_SHANNON | {"beta": 0.1}, 0.1, 0.09),
    ):
        found = export.twin(Student(**given))
        assert (found["trainer"], found["beta"]) == ("GKDTrainer", beta) and found["scale"] == pytest.approx(scale)
    others = [{"temperature": 0.8}, {"prefixes": "student"}, {"hard_weight": 0.1}, {"loss": "top_k", "k": 2}]
    assert [export.twin(Student(**(KL | each))) for each in others] == [None] * 4


def test_the_scale_is_that_of_trls_loss_over_ours():
    """TRL's as its paper has it: beta KL(P || M) + (1 - beta) KL(Q || M)."""
    teacher, student = torch.randn(2, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, q = torch.softmax(teacher, -1), torch.softmax(student, -1)
    for beta in (0.1, 0.5):
        m = beta * p + (1 - beta) * q
        theirs = beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)
        scale = export.twin(Student(**(JENSEN_SHANNON | {"beta": beta})))["scale"]
        torch.testing.assert_close(scale * losses.jensen_shannon(teacher, student, beta), theirs)


def test_an_export_of_a_run_that_is_not_there_is_refused(tmp_path):
    out, to = str(tmp_path / "run"), str(tmp_path / "export")
    assert "run_generate_data.sh" in refusal("scripts.trl.export", "--profile", "smoke", "--out", out, "--to", to)
    assert not (tmp_path / "export").exists()


# ------------------------------------------------------------------------------------------------------- train


def settings(run: Run) -> dict:
    return {field: getattr(run.experiment, field) for field in (*export.TRAINED_WITH, "student_epochs")}


@pytest.mark.parametrize("equal", [False, True])
def test_the_learning_rate_of_each_step_is_ours(run, equal):
    """By the functions that the two call: TRL's trainers take their schedule from get_scheduler."""
    num_sequences = 1000 * (run.experiment.student_epochs if equal else 1)
    given = train.arguments_of(settings(run), {"seed": 0, "scale": 1.0}, num_sequences, equal)
    num_steps = given["num_train_epochs"] * num_sequences // given["per_device_train_batch_size"]
    theirs = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], given["learning_rate"])
    schedules = [
        optimiser(torch.nn.Linear(1, 1), run.experiment, num_steps)[1],
        get_scheduler(
            given["lr_scheduler_type"],
            theirs,
            given["warmup_steps"],
            num_steps,
            scheduler_specific_kwargs=given["lr_scheduler_kwargs"],
        ),
    ]
    rates = []
    for schedule in schedules:
        rates.append([])
        for _ in range(num_steps):
            rates[-1] += schedule.get_last_lr()
            schedule.optimizer.step()
            schedule.step()
    assert rates[0] == rates[1] and len(set(rates[0])) > 10 and num_steps == 250


def test_a_loss_of_another_scale_makes_the_same_steps(run):
    """Of AdamW behind clipping, with the epsilon and the largest norm that TRL is given for that scale."""
    scale, generator = 0.09, torch.Generator().manual_seed(0)
    gradients = 10 * torch.randn(5, 4, dtype=torch.float64, generator=generator)
    found = []
    for each in (1.0, scale):
        given = train.arguments_of(settings(run), {"seed": 0, "scale": each}, 24, False)
        weights = torch.ones(4, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.AdamW([weights], given["learning_rate"], eps=given["adam_epsilon"])
        for gradient in gradients * torch.tensor([1e-9, 1, 1, 1e-9, 1])[:, None]:
            weights.grad = each * gradient
            torch.nn.utils.clip_grad_norm_([weights], given["max_grad_norm"])
            adam.step()
        found.append(weights.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=0)
    assert torch.optim.AdamW([torch.zeros(1)]).defaults["eps"] == train.EPSILON


def test_what_runs_in_the_environment_of_trl_imports_nothing_of_ours():
    tree = ast.parse((ROOM / "train.py").read_text("utf-8"))
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in named if name.split(".")[0] in ("llm", "scripts")}


# -------------------------------------------------------------------------------------------------- comparison


@pytest.mark.parametrize(
    ("low", "high", "p", "told"),
    [
        (-0.1, 0.2, 0.5, "the same"),
        (0.1, 0.2, 0.001, "the same"),  # not 0, and yet less than what another seed of ours would change
        (-0.1, 0.3, 0.5, "undecided"),
        (0.1, 0.3, 0.2, "undecided"),
        (-0.3, -0.1, 0.01, "another"),
    ],
)
def test_the_verdict_follows_the_rule(low, high, p, told):
    assert comparison.verdict(Estimate((low + high) / 2, low, high), p, 0.1) == told


def committed() -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_csv(comparison.COMPARISON), pd.read_csv(comparison.EQUAL)


def test_the_verdicts_are_those_of_the_committed_numbers():
    table, _ = committed()
    assert len(table) == 4 * len(comparison.QUANTITIES)
    for row in table.itertuples():
        estimate = Estimate(row.difference, row.difference_low, row.difference_high)
        assert row.verdict == comparison.verdict(estimate, row.adjusted_p, row.sd_of_ours)
        assert row.difference == pytest.approx(row.trl - row.ours, abs=1e-5)


def test_the_versions_are_those_that_are_installed():
    pins = dict(line.split("==") for line in (ROOM / "requirements.txt").read_text().splitlines() if "==" in line)
    for table in committed():
        (told,) = set(table["versions"])
        versions = dict(each.split(" ") for each in told.split(", "))
        assert {name: version.split("+")[0] for name, version in versions.items()} == {
            name: pins[name] for name in train.VERSIONS
        }


@pytest.mark.parametrize("module", ["export", "train", "comparison"])
def test_the_flags_that_are_named_exist(module):
    told = entry(f"scripts.trl.{module}", "--help")
    assert told.returncode == 0, told.stderr
    lines = [line for path in (*ROOM.glob("*.md"), *ROOM.glob("*.sh"), *ROOM.glob("*.py")) for line in open_lines(path)]
    named = {flag for line in lines if f"scripts.trl.{module} " in line for flag in re.findall(r" (--\w+)", line)}
    assert named
    for flag in named:
        assert re.search(rf"{flag}\b", told.stdout), flag


def open_lines(path) -> list[str]:
    return path.read_text("utf-8").splitlines()
