"""Models that exist, on the plane: what is read of them, what is kept, and that their rows are those of stage 4."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FINISHED, enumerate_sequences, exact_log_probabilities, refusal, shard_table, tiny_llama, within
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm.distributions import Distribution
from llm.machine.processes import UsageError
from llm.metrics import SequenceEstimate
from llm.models.language import tokens
from llm.place import beside_baseline, open_place
from llm.results.table import estimates, read_table
from llm.run import open_run
from llm.settings import config, prompts
from llm.settings.experiment import Experiment
from llm.settings.placed import Placed
from llm.store.files import sha256
from scripts.analysis.results import Results
from scripts.figures import place as place_figure

WORDS = {f"w{i}": i for i in range(40)}
TEMPLATE = "{% for turn in messages %}w5 {{ turn['content'] }} w2 {% endfor %}w6"
IDS = torch.tensor([[5, 6, 7, 2, 9]])
LENGTH, NUM_TEST = 8, 40
TINY = ("--prompt", "w5 w6", "--max_length", str(LENGTH), "--num_test", str(NUM_TEST), "--temperatures", "0.7")


def tokenizer(words: dict[str, int] = WORDS) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    found = Tokenizer(models.WordLevel(words, unk_token="w0"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="w2", chat_template=TEMPLATE)


def saved(directory: Path, seed: int, num_ids: int = 40, words: dict[str, int] = WORDS):
    """A tiny Llama with a tokenizer of words, saved in a directory; num_ids: rows of its embedding."""
    model = tiny_llama(seed, 0.3, num_ids)
    model.config.eos_token_id = model.generation_config.eos_token_id = 2
    model.save_pretrained(directory)
    tokenizer(words).save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """p* with 8 rows beyond its tokenizer; models, one with 4 such rows, one with other ids; an adapter over one."""
    root = tmp_path_factory.mktemp("models")
    saved(root / "truth", 1, 48)
    base, padded = saved(root / "base", 2), saved(root / "padded", 2, 44)
    with torch.no_grad():
        for wide, narrow in zip(padded.parameters(), base.parameters(), strict=True):
            wide[: len(narrow)] = narrow
        for weight in (padded.get_input_embeddings().weight, padded.lm_head.weight):
            weight[40:] = 9.0
    padded.save_pretrained(root / "padded")
    saved(root / "other", 3, 40, {word: place for word, place in WORDS.items() if word != "w7"} | {"zz": 7})
    _adapt(base, root)
    return root


def _adapt(base, root: Path) -> None:
    """Save an adapter that changes a model, and the model that it makes of it by its own forward pass's weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    chosen = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, chosen)
    adapted.peft_config["default"].base_model_name_or_path = str(root / "base")
    adapted.save_pretrained(root / "adapter")
    np.save(root / "adapted.npy", torch.log_softmax(adapted(input_ids=IDS).logits, -1).detach().numpy())


def place(root: Path, *arguments: str) -> str:
    return within("llm.place", *arguments, "--ground_truth", str(root / "truth"))


@pytest.fixture(scope="module")
def placed(models, tmp_path_factory) -> tuple[Path, str]:
    """A directory with three models placed, and what was printed."""
    out = tmp_path_factory.mktemp("placed")
    names = (str(models / "base"), str(models / "padded"), f"mine={models / 'adapter'}")
    return out, place(models, *names, *TINY, "--out", str(out))


def rows(directory: Path, model: str, seed: int = 0) -> pd.DataFrame:
    """The rows of a model in a table, without its name."""
    table = read_table(directory / "results" / "table.csv")
    found = table[(table["model"] == model) & (table["seed"] == seed)]
    return found.drop(columns=["model", "seed", "epoch"]).reset_index(drop=True)


# ------------------------------------------------------------------------------------------------- its numbers


def test_a_runs_own_student_has_its_row_of_stage_4(finished, tmp_path):
    root, names = finished[0], ("student_direct", "student_tau0.80")
    run, _ = open_run("", [*FINISHED, "--out", str(root)])
    kept = [run.find_weights(Distribution(name, 0)) for name in names]
    flags = [*FINISHED, "--num_seeds", "1", "--out", str(tmp_path / "place")]
    within("llm.place", *map(str, kept), *flags)
    for name in names:
        ours, theirs = (
            each[each["quantity"] != "perplexity"] for each in (rows(root, name), rows(tmp_path / "place", name))
        )
        pd.testing.assert_frame_equal(theirs.reset_index(drop=True), ours.reset_index(drop=True), check_exact=True)
        assert len(ours) > 50


def test_recall_is_that_of_enumeration(tmp_path):
    for name, seed in (("truth", 1), ("model", 2)):
        model = tiny_llama(seed, 0.3)
        model.config.eos_token_id = 2
        model.save_pretrained(tmp_path / name)
    sizes = ("--prompt", "[0]", "--max_length", "5", "--num_test", "400", "--temperatures", "1.0")
    place(tmp_path, str(tmp_path / "model"), *sizes, "--out", str(tmp_path / "out"))
    everything = enumerate_sequences(5)
    log_p, log_q = (exact_log_probabilities(tiny_llama(seed, 0.3), everything) for seed in (1, 2))
    tokens = np.array([len(each) - 1 for each in everything])
    table = read_table(tmp_path / "out" / "results" / "table.csv")
    for quantity, weight, scored in (("recall", np.exp(log_p), log_q), ("precision", np.exp(log_q), log_p)):
        found = estimates(table, quantity)["model", 1.0][0]
        exact = (weight @ scored) / (weight @ tokens)
        assert abs(found.value - exact) < 4 * found.error and found.error < 0.05, quantity


def test_ids_beyond_the_tokenizers_are_never_drawn_on_either_side(placed):
    out, printed = placed
    assert "p*: its tokenizer has 40 ids, and the other 8 are never drawn" in printed
    assert "padded seed 0: the first 40 of 44 ids are p*'s, and the rest are never drawn" in printed
    # The rows that were cut off would have had nearly all of the probability.
    recalls = estimates(read_table(out / "results" / "table.csv"), "recall")
    assert recalls["base", 1.0][0].value == pytest.approx(recalls["padded", 1.0][0].value, abs=1e-6)


def test_an_adapter_is_merged_into_its_base(models, placed):
    from llm.models import checkpoints

    kept = checkpoints.read(placed[0] / "kept" / "mine" / "seed0", "mine", torch.float32)
    found = torch.log_softmax(kept(input_ids=IDS).logits, -1).detach().numpy()
    np.testing.assert_allclose(found, np.load(models / "adapted.npy"), atol=1e-5)
    base = checkpoints.read(models / "base", "base", torch.float32)
    assert np.abs(torch.log_softmax(base(input_ids=IDS).logits, -1).detach().numpy() - found).max() > 0.1


def test_the_baseline_is_the_control(placed):
    out, printed = placed
    table = read_table(out / "results" / "table.csv")
    assert set(table.loc[table["model"] == "base", "temperature"]) == {0.7, 1.0}
    assert set(table.loc[table["model"] == "mine", "temperature"]) == {1.0}
    lines = printed[printed.index("minus base:") :].splitlines()
    mine = next(line for line in lines if line.startswith("| mine")).split("|")
    found = estimates(table, "recall")
    difference = found["mine", 1.0][0].value - found["base", 1.0][0].value
    assert float(mine[3].split()[0]) == pytest.approx(difference, abs=6e-4)


def test_the_figure_shows_every_model_and_the_control(models, placed):
    out, _ = placed
    axes = place_figure.draw(Results(out / "results"), "base").axes[0]
    table = read_table(out / "results" / "table.csv")
    at = {}
    for name in ("base", "padded", "mine"):
        at[name] = tuple(estimates(table, quantity)[name, 1.0][0].value for quantity in ("recall", "precision"))
    shown = {line.get_label(): line.get_xydata() for line in axes.lines}
    handles, labels = axes.get_legend_handles_labels()
    assert {"base", "padded", "mine", "$p^*$ itself"} <= set(labels)
    marks = dict(zip(labels, handles, strict=True))
    for name, where in at.items():
        assert tuple(marks[name].lines[0].get_xydata()[0]) == pytest.approx(where), name
    control = next(line for label, line in shown.items() if "control" in label)
    assert len(control) == 2 and tuple(control[1]) == pytest.approx(at["base"])


# ----------------------------------------------------------------------------------------------- going on


def test_a_second_time_changes_nothing(models, placed):
    out, _ = placed
    before = {path: sha256(path) for path in sorted(out.rglob("*")) if path.is_file() and path.suffix != ".jsonl"}
    names = (str(models / "base"), str(models / "padded"), f"mine={models / 'adapter'}")
    again = place(models, *names, *TINY, "--out", str(out))
    assert "made:" not in again and "kept:" not in again
    assert before == {path: sha256(path) for path in before}


def test_parts_make_what_one_makes(models, placed, tmp_path):
    names = (str(models / "base"), str(models / "padded"), f"mine={models / 'adapter'}")
    for part in ("2/2", "1/2"):
        place(models, *names, *TINY, "--out", str(tmp_path), "--part", part)
    for name in ("table.csv", "sequences.parquet"):
        assert sha256(tmp_path / "results" / name) == sha256(placed[0] / "results" / name)


def refused(root: Path, model: str, out: Path) -> str:
    return refusal("llm.place", model, *TINY, "--ground_truth", str(root / "truth"), "--out", str(out))


def test_a_name_keeps_its_model(models, placed):
    line = refused(models, f"mine={models / 'base'}", placed[0])
    assert f"mine: '{models / 'adapter'}' there, '{models / 'base'}' here" in line


def test_a_dry_run_touches_nothing(models, tmp_path):
    printed = place(models, str(models / "base"), *TINY, "--out", str(tmp_path / "out"), "--dry-run")
    assert not (tmp_path / "out").exists()
    assert "train" not in printed and printed.count("(to do)") == len(printed.splitlines())


# ------------------------------------------------------------------------------------------------- prompts


def test_each_sequence_follows_a_prompt_of_the_file(models, tmp_path):
    (tmp_path / "questions.txt").write_text("w5 w6\nw7\nw9 w8 w7\n", encoding="utf-8")
    out = tmp_path / "out"
    place(models, str(models / "base"), *TINY[2:], "--prompts", str(tmp_path / "questions.txt"), "--out", str(out))
    assert json.loads((out / "config.json").read_text("utf-8"))["num_test"] == 3
    wanted = [[5, 6], [7], [9, 8, 7]]
    for shard in (out / "samples").rglob("shard-*.arrow"):
        drawn = shard_table(shard).to_pandas()
        assert [list(ids[: len(prompt)]) for ids, prompt in zip(drawn["ids"], wanted, strict=True)] == wanted
        assert list(drawn["num_prompt"]) == [2, 1, 3]


def test_a_chat_template_is_put_around_a_prompt(models, tmp_path):
    (tmp_path / "questions.txt").write_text("w7\nw9 w8\n", encoding="utf-8")
    flags = ("--prompts", str(tmp_path / "questions.txt"), "--chat_template", "true", "--out", str(tmp_path / "out"))
    printed = place(models, str(models / "base"), *TINY[2:], *flags)
    assert "prompt: [5, 7, 2, 6]: 'w5 w7 w2 w6'" in printed
    settled = json.loads((tmp_path / "out" / "ground_truth" / "distribution.json").read_text("utf-8"))
    assert settled["prompts"] == [[5, 7, 2, 6], [5, 9, 8, 2, 6]]
    theirs = AutoTokenizer.from_pretrained(models / "truth")
    turn = [{"role": "user", "content": "w9 w8"}]
    assert theirs.apply_chat_template(turn, add_generation_prompt=True, return_dict=False) == [5, 9, 8, 2, 6]


def test_lines_of_json_have_text_or_ids(tmp_path):
    (tmp_path / "ids.jsonl").write_text('{"ids": [5, 6]}\n{"ids": [7]}\n', encoding="utf-8")
    (tmp_path / "texts.jsonl").write_text('{"text": "one\\nline"}\n{"text": "two"}\n', encoding="utf-8")
    assert prompts.read(tmp_path / "ids.jsonl") == [[5, 6], [7]]
    assert prompts.read(tmp_path / "texts.jsonl") == ["one\nline", "two"]


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("a.txt", "one\n\ntwo\n", "line 2 .* has no prompt"),
        ("a.txt", "one\n", "has 1: an interval over prompts needs two"),
        ("a.jsonl", '{"text": "one"}\n{"ids": [3]}\n', "line 2 .* all have text, or all have ids"),
        ("a.jsonl", '{"text": "one"}\nnone\n', "line 2 .* has no prompt"),
        ("a.jsonl", '{"ids": [1]}\n{"ids": [-1]}\n', "line 2 .* has no prompt"),
        ("a.jsonl", '{"ids": [1]}\n{"ids": []}\n', "line 2 .* has no prompt"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path, name, text, told):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        prompts.read(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt cannot be read: No such file"):
        prompts.read(tmp_path / "none.txt")


# ------------------------------------------------------------------------------------------------ refusals


def _damaged(root: Path, what: str) -> Path:
    """A model's directory with one thing wrong."""
    directory = root / what
    shutil.copytree(root / ("adapter" if "adapter" in what else "base"), directory)
    config_file = directory / "config.json"
    match what:
        case "pickled":
            (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
        case "pickled adapter":
            (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
        case "adapter without base":
            _change(directory / "adapter_config.json", base_model_name_or_path=str(root / "nowhere"))
        case "adapter of another":
            _change(directory / "adapter_config.json", base_model_name_or_path=str(root / "shallow"))
            model = tiny_llama(4, 0.3, 40, num_layers=1)
            model.save_pretrained(root / "shallow")
            tokenizer().save_pretrained(root / "shallow")
        case "translator":
            config_file.write_text('{"model_type": "t5", "vocab_size": 40}', encoding="utf-8")
        case "own code":
            config_file.write_text(
                '{"model_type": "mine", "auto_map": {"AutoConfig": "x.C"}, "vocab_size": 40}', encoding="utf-8"
            )
    return directory


def _change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    "what, told",
    [
        ("pickled", "only pickled weights"),
        ("pickled adapter", "only pickled weights"),
        ("adapter without base", "is over another model, and '.*nowhere' is neither a directory"),
        ("adapter of another", "has no place in its base"),
        ("translator", "no causal language model of model_type 't5'"),
        ("own code", "code that comes with a model is never run"),
    ],
)
def test_what_cannot_be_placed_is_refused_in_a_line(models, tmp_path, what, told):
    root = tmp_path / "models"
    shutil.copytree(models, root)
    line = refused(root, f"x={_damaged(root, what)}", tmp_path / "out")
    assert re.search(told, line), line


def test_another_vocabulary_is_refused_by_the_first_id_that_differs(models, tmp_path):
    assert "id 7 is 'zz', not 'w7'" in refused(models, str(models / "other"), tmp_path)
    assert not (tmp_path / "ground_truth").exists()


def test_fewer_ids_are_refused(models, tmp_path):
    saved(tmp_path / "small", 5, 30, {word: place for word, place in WORDS.items() if place < 30})
    line = refused(models, str(tmp_path / "small"), tmp_path / "out")
    assert "small has a vocabulary of 30 ids, but ground_truth has 40" in line


@pytest.mark.parametrize(
    "text, name, seed",
    [
        ("mine=some/where", "mine", 0),
        ("models/My Model", "My_Model", 0),
        ("org/name", "name", 0),
        ("weights/small.Q4_1.gguf", "small.Q4_1", 0),
        ("runs/cpu/checkpoints/student_tau0.80/seed2/epoch-6", "student_tau0.80", 2),
    ],
)
def test_a_model_is_named_after_where_it_is(text, name, seed):
    found = Placed.of(text)
    assert (found.name, found.seed) == (name, seed)


def test_a_name_of_a_last_epoch_is_like_any_other(models, tmp_path):
    """Nothing is trained, so that it is nothing's last epoch."""
    names = [f"{name}={models / 'base'}" for name in ("mine", "mine_last")]
    place(models, *names, *TINY, "--out", str(tmp_path))
    chosen = "quantity == 'recall' and temperature == 1"
    recall = [rows(tmp_path, name).query(chosen).to_csv(index=False) for name in ("mine", "mine_last")]
    assert recall[0] == recall[1] and recall[0].count("\n") > LENGTH
    texts = json.loads((tmp_path / "results" / "texts.json").read_text("utf-8"))
    assert [each["model"] for each in texts] == ["ground_truth", "mine", "mine_last"]


def test_a_name_needs_a_model():
    with pytest.raises(UsageError, match="'mine=' names no model: it must be NAME=MODEL"):
        open_place(["mine="])
    with pytest.raises(UsageError, match="placed has the name ground_truth, which is p\\*'s"):
        open_place(["ground_truth=some/where"])


def test_ids_that_a_tokenizer_leaves_out_keep_their_places(models, tmp_path):
    """Words 0 to 9 and 20 to 39: the last id is 39, though there are 30; and what stands behind the gap is compared."""
    gap = {word: place for word, place in WORDS.items() if not 10 <= place < 20}
    assert tokens(tokenizer(gap))[9:21] == ["w9", *[None] * 10, "w20"] and len(tokens(tokenizer(gap))) == 40
    saved(tmp_path / "truth", 1, 48, gap)
    saved(tmp_path / "same", 2, 40, gap)
    saved(tmp_path / "moved", 3, 40, gap | {"w30": 31, "w31": 30})
    printed = place(tmp_path, str(tmp_path / "same"), *TINY, "--out", str(tmp_path / "out"))
    assert "p*: its tokenizer has 40 ids, and the other 8 are never drawn" in printed
    assert "id 30 is 'w31', not 'w30'" in refused(tmp_path, str(tmp_path / "moved"), tmp_path / "out")


def test_names_are_told_apart(models):
    same = [str(models / "base"), f"base={models / 'padded'}"]
    with pytest.raises(UsageError, match="placed has base twice"):
        open_place([*same, *TINY, "--ground_truth", str(models / "truth")])
    with pytest.raises(UsageError, match="baseline is 'none': it must be one of base"):
        open_place([same[0], *TINY, "--baseline", "none"])


def test_nothing_is_trained(tmp_path):
    run, _ = open_place(["some/where", "--out", str(tmp_path)])
    assert isinstance(run.experiment, Experiment) and run.experiment.roles == ()
    assert {work.kind for work in run.works("train", "select")} == set()


def test_it_lies_apart_from_the_profiles_own_run():
    run, _ = open_place(["some/where", "--profile", "smoke"])
    assert run.paths.root == config.REPOSITORY / "runs" / "place"


@pytest.mark.parametrize(("entropies", "told"), [((3.0, 3.3), False), ((3.0, 3.6), True), ((3.2, 3.4), False)])
def test_temperatures_of_the_baseline_that_lie_far_apart_around_a_model_are_told(entropies, told, monkeypatch):
    """The model lies at 3.1: between both, between both with 0.6 nats between them, and outside."""
    placed = [{"name": "base", "model": "x"}, {"name": "mine", "model": "y"}]
    experiment = config.load("place", placed=placed, baseline="base", temperatures=[0.9, 1.0])
    run = SimpleNamespace(experiment=experiment, language=SimpleNamespace(prompts=((0,),)))
    base, mine = Distribution("base", 0), Distribution("mine", 0)
    values = dict(zip([base.at(0.9), base, mine], [*entropies, 3.1], strict=True))

    class Given:
        def distributions(self):
            return list(values)

        def estimate(self, quantity, distribution):
            value = values[distribution] * (1 if quantity == "entropy" else -1)
            return SequenceEstimate(value, value, value, np.array([0.1, -0.1, 0.1, -0.1]), 0)

    printed = beside_baseline(run, Given())
    assert ("0.60 nats" in printed and "0.4 nats apart at most" in printed) == told
    assert ("never has its self-entropy" in printed) == (min(entropies) > 3.1)
