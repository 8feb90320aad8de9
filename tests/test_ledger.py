"""The ledger on a small run, and what it switches against loops and models small enough to follow by hand."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import chain_within, contents, entry, tiny_llama, within
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from llm import config, models, shards
from llm.likelihood import log_likelihood, perplexity
from llm.models import Language
from llm.paths import Paths
from llm.shards import Samples
from scripts import ledger, released

SMALL = ("--num_train", "300", "--teacher_epochs", "2", "--temperatures", "0.8")
TRAINED = ("end_of_sequence_dropped", "released_initialisation")
TEXT = "the cat that sat there then hated the other cats at that other theatre " * 3


# ------------------------------------------------------------------------------------------ what is done otherwise


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    """Two special tokens, the letters of the text, then merges: more than 20 of them, so that 25 ids cut some."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=64, special_tokens=["<s>", "</s>"], min_frequency=1, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def test_a_cut_tokenizer_stays_within_its_ids_and_reads_back_what_it_wrote(bpe):
    cut = released.cut_tokenizer(bpe, 25)
    assert cut.get_vocab_size() == 25 and max(bpe.encode(TEXT).ids) >= 25
    ids = cut.encode(TEXT).ids
    assert max(ids) < 25 and cut.decode(ids) == TEXT
    assert len(ids) < len(TEXT)  # some merges are left
    assert cut.encode(cut.decode(ids)).ids == ids
    generator = np.random.default_rng(0)
    for _ in range(200):  # of any of its ids, special ones too
        again = cut.encode(cut.decode(generator.integers(0, 25, 12).tolist())).ids
        assert all(i < 25 for i in again)
    whole = released.cut_tokenizer(bpe, 1000)
    assert whole.encode(TEXT).ids == bpe.encode(TEXT).ids


def test_letters_that_make_a_token_come_back_as_that_token(bpe):
    """t + h is one id in text; special tokens are gone, the prompt with them; what is too long is cut."""
    t, h, th, cat = (bpe.token_to_id(token) for token in ("t", "h", "th", "cat"))
    sequences = [[0, t, h], [t, h, th], [0], [cat, 1, cat, cat]]
    samples = Samples.of([np.array(each, np.uint8) for each in sequences], 1, np.zeros(4))
    again = released.tokenised_again(samples, bpe, 2)
    assert [again[i].tolist() for i in range(4)] == [[th], [th, th], [], bpe.encode("catcatcat").ids[:2]]
    assert again.num_prompt.tolist() == [1, 1, 0, 1] and again.ids.dtype == np.uint8


def test_padding_scored_against_a_double_loop():
    """Sequences of 2 to 5 ids, filled up to 5 with EOS = 2, in batches of two: the odd one weighs as much as a pair."""
    model, batch_size, max_length = tiny_llama(1), 2, 5
    sequences = [[0, 1, 1, 2], [0, 2], [0, 1, 0, 1, 1], [0, 1, 2], [0, 0, 2]]
    samples = Samples.of([np.array(each, np.uint8) for each in sequences], 1, np.zeros(5))
    filled = released.padded(samples, 2, max_length)
    log_prob = log_likelihood(model, filled, 4)
    means = []
    for start in range(0, len(sequences), batch_size):
        nats, count = 0.0, 0
        for sequence in sequences[start : start + batch_size]:
            ids = sequence + [2] * (max_length - len(sequence))
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
            for t in range(1, max_length):
                weights = np.exp(logits[t - 1])
                nats -= np.log(weights[ids[t]] / weights.sum())
                count += 1
        means.append(nats / count)
    found = released.perplexity_of_batch_means(log_prob, filled.num_scored, batch_size)
    assert found == pytest.approx(np.exp(np.mean(means)), rel=1e-6)
    assert abs(found - perplexity(log_prob, filled.num_scored)) > 1e-3  # the pairs and the odd one
    assert abs(found - perplexity(log_likelihood(model, samples, 4), samples.num_scored)) > 1e-2  # the padding


def test_a_reset_changes_all_weights_but_the_gains(smoke):
    language = Language(64, ((0,),), (1,))
    model, before = (models.build(smoke.teacher, "teacher", language, 3) for _ in range(2))
    released.reset_parameters(model, 5)
    unchanged = [
        name for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True) if new.equal(old)
    ]
    assert len(unchanged) == 2 * 2 + 1 and all("norm" in name for name in unchanged)
    assert all(module.weight.ne(other.weight).all() for module, other in matrices(model, before))
    shared = model.get_input_embeddings().weight
    assert shared is model.get_output_embeddings().weight
    assert 0.9 / 8 < shared.abs().max() <= 1 / 8  # uniform within 1 / sqrt(64), of which 64 x 64 values fill the range
    again = models.build(smoke.teacher, "teacher", language, 4)
    released.reset_parameters(again, 5)
    assert all(new.equal(old) for new, old in zip(model.parameters(), again.parameters(), strict=True))


def matrices(*built) -> list[tuple]:
    """The Linear and Embedding modules of some models of one architecture, side by side."""
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    return list(zip(*([m for m in model.modules() if isinstance(m, kinds)] for model in built), strict=True))


# ------------------------------------------------------------------------------------------------------ the ledger


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A small run, its files before the ledger, and what the ledger printed."""
    root = tmp_path_factory.mktemp("ledger") / "run"
    chain_within("--profile", "smoke", "--out", str(root), *SMALL)
    before = contents(root) | {"timings": (root / "timings.jsonl").read_bytes()}
    return root, before, measure(root)


def measure(root) -> str:
    return within("scripts.ledger", "--profile", "smoke", "--out", str(root), *SMALL)


def values(root) -> dict[tuple[str, str], tuple]:
    """(ours, released) of each deviation and quantity; of an estimate, its value."""
    rows = json.loads((root / "results/ledger.json").read_text())["rows"]

    def number(value):
        return value["value"] if isinstance(value, dict) else value

    return {(row["deviation"], row["quantity"]): (number(row["ours"]), number(row["released"])) for row in rows}


def test_every_deviation_has_its_rows(measured):
    root, _, printed = measured
    assert "left out: text tokenised again" in printed
    found = values(root)
    ends = {"stop rate", "mean generated length", "precision", "recall"}
    expected = {("end of sequence dropped", each) for each in ends}
    expected |= {("released initialisation", each) for each in ("perplexity on validation", "precision", "recall")}
    expected |= {("padding scored in perplexity", "perplexity on validation")}
    chosen = ("models that select another epoch, of 3", "recall, mean over the models")
    expected |= {("checkpoints selected on test", each) for each in (*chosen, "largest gain of recall in a model")}
    assert found.keys() == expected
    assert all(f"| {deviation} | {quantity} | " in printed for deviation, quantity in found)
    rows = json.loads((root / "results/ledger.json").read_text())["rows"]
    estimates = [row[side] for row in rows for side in ledger.SIDES if row["quantity"] in ("precision", "recall")]
    assert len(estimates) == 12 and all(each["low"] < each["value"] < each["high"] for each in estimates)


def test_a_difference_is_between_the_two_and_recalls_is_paired(measured):
    """The same test samples scored twice: their common part, which is most of an interval, is not in the difference."""
    rows = json.loads((measured[0] / "results/ledger.json").read_text())["rows"]
    for row in rows:
        ours, released, difference = (row[side] for side in ledger.SIDES)
        if isinstance(difference, dict):
            width = {side: row[side]["high"] - row[side]["low"] for side in ledger.SIDES}
            independent = np.hypot(width["ours"], width["released"])
            if row["quantity"] == "recall":
                assert width["difference"] < 0.7 * independent
            else:
                assert width["difference"] == pytest.approx(independent, rel=0.2)
            ours, released, difference = ours["value"], released["value"], difference["value"]
        assert difference == pytest.approx(released - ours, abs=1e-9)


def test_ours_is_what_the_run_reports(measured):
    root, found = measured[0], values(measured[0])
    models_of_run = json.loads((root / "results/precision_recall.json").read_text())["models"]
    teacher = models_of_run[0]
    selection = json.loads((root / "results/perplexity.json").read_text())["models"][0]
    chosen = selection["epochs"][selection["best_epoch"] - 1]["perplexity"]
    for deviation in ("end of sequence dropped", "released initialisation"):
        for quantity in ("precision", "recall"):
            assert found[deviation, quantity][0] == teacher["per_token"][quantity]["value"]
    assert found["padding scored in perplexity", "perplexity on validation"][0] == chosen
    recall = np.mean([row["per_token"]["recall"]["value"] for row in models_of_run])
    assert found["checkpoints selected on test", "recall, mean over the models"][0] == pytest.approx(recall, abs=1e-6)


def test_selecting_on_test_never_loses_on_test(measured):
    found = values(measured[0])
    others, ours_and_theirs, (_, largest) = (
        found["checkpoints selected on test", quantity]
        for quantity in (
            "models that select another epoch, of 3",
            "recall, mean over the models",
            "largest gain of recall in a model",
        )
    )
    gain = ours_and_theirs[1] - ours_and_theirs[0]
    assert 0 <= gain <= largest <= 3 * gain + 1e-12
    assert (others[1] > 0) == (largest > 0)


def test_a_teacher_that_never_saw_an_end_stops_less(measured):
    root = measured[0]
    samples = shards.read(root / "samples/ground_truth/tau1.00/train")
    dropped = released.without_eos(samples, (1,))
    ended = samples.ids[samples.offsets[1:] - 1] == 1
    assert ended.any() and not (dropped.ids == 1).any()
    assert (samples.lengths - dropped.lengths).tolist() == ended.astype(int).tolist()
    assert dropped.num_prompt.tolist() == samples.num_prompt.tolist()
    found = values(root)
    ours, theirs = found["end of sequence dropped", "stop rate"]
    assert theirs < ours / 2
    ours, theirs = found["end of sequence dropped", "mean generated length"]
    assert ours < theirs


def test_the_run_is_left_as_it_was(measured):
    root, before, _ = measured
    after = contents(root) | {"timings": (root / "timings.jsonl").read_bytes()}
    own = {name for name in after if name.startswith("ledger/") or name == "results/ledger.json"}
    assert {name: data for name, data in after.items() if name not in own} == before


def test_a_second_run_reads_what_is_kept(measured, tmp_path):
    root, _, printed = measured
    for name in TRAINED:
        assert f"training teacher seed 0 in {root / 'ledger' / name}" in printed
    before = contents(root)
    again = measure(root)
    assert contents(root) == before
    assert all(f"complete: {name}" in again for name in (*TRAINED, "padding_scored", "selected_on_test"))
    assert "training" not in again and again.split("\n\n")[-1] == printed.split("\n\n")[-1]

    copy = shutil.copytree(root, tmp_path / "copy")  # stopped after the training: the teacher is not trained again
    shutil.rmtree(copy / "ledger/end_of_sequence_dropped/results")
    shutil.rmtree(copy / "ledger/end_of_sequence_dropped/scores")
    assert "training" not in measure(copy)
    assert values(copy) == values(root)


def test_text_tokenised_again_gives_the_teacher_its_ids(measured, bpe, monkeypatch):
    """With a tokenizer put beside p* and no training: the share is that of the sequences that differ."""
    root = measured[0]
    overrides = {"num_train": 300, "teacher_epochs": 2, "temperatures": [0.8]}
    experiment = config.build(config.read_yaml(config.find_profile("smoke")) | overrides)
    small = ledger.Run(experiment, models.read_language(Paths(root)), Paths(root))
    seen = []
    monkeypatch.setattr(models, "load_tokenizer", lambda where: SimpleNamespace(backend_tokenizer=bpe))
    monkeypatch.setattr(ledger, "other_teacher", lambda samples, *_: seen.append(samples) or ledger.our_teacher(small))
    rows = ledger.text_tokenised_again(small, ledger.Variant(root / "ledger/text", Paths(root)))
    dropped = released.without_eos(small.samples("train"), (1,))
    differ = [dropped[i].tolist() != seen[0][i].tolist() for i in range(300)]
    assert rows[0]["released"] == pytest.approx(sum(differ) / 300) and sum(differ) > 0
    assert seen[0].lengths.max() <= experiment.max_length and not (seen[0].ids == 1).any()


def test_without_a_finished_run_one_line_says_what_to_run(tmp_path):
    done = entry("scripts.ledger", "--profile", "smoke", "--out", str(tmp_path / "none"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "run_eval_precision_and_recall.sh" in done.stderr and not (tmp_path / "none").exists()
