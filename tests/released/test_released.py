"""What each deviation from the released code is worth, measured on a small run."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import chain_within, contents, refusal, within
from test_deviations import small_bpe

from llm.results.table import PER_TOKEN, estimates, read_table
from llm.run import Run
from llm.settings import config
from llm.store.paths import Paths
from scripts.released import __main__ as released
from scripts.released.comparison import PERPLEXITY, SIDES, Variant, teacher_of, work_of

SIZES = dict(num_train=300, num_validation=60, num_test=120, teacher_epochs=2)
FLAGS = ("--profile", "smoke", "--temperatures", "0.8", *(f"--{name}={value}" for name, value in SIZES.items()))
EXPERIMENT = config.load("smoke", temperatures=[0.8], **SIZES)
TRAINED = ("end_of_sequence_dropped", "released_initialisation")
ENDS, TESTED = "end of sequence dropped", "checkpoints selected on test"
OTHERS, MEAN, LARGEST = (
    "models that select another epoch, of 3",
    "recall, mean over the models",
    "largest gain of recall in a model",
)


def measure(root) -> str:
    return within("scripts.released.__main__", "--out", str(root), *FLAGS)


def everything(root) -> dict:
    return contents(root) | {path: path.read_bytes() for path in (root / "timings.jsonl", root / ".lock")}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a small run, its files before it is compared with the released code, and what that prints."""
    root = tmp_path_factory.mktemp("released") / "run"
    chain_within("--out", str(root), *FLAGS)
    before = everything(root)
    return Run(EXPERIMENT, Paths(root)), before, measure(root)


def rows(root) -> pd.DataFrame:
    """Return value, low and high by deviation, quantity and side."""
    found = pd.read_csv(root / "results/released.csv").drop(columns="what")
    return found.set_index(["deviation", "quantity", "side"]).sort_index()


def test_every_deviation_has_its_rows(measured):
    root, printed = measured[0].paths.root, measured[2]
    assert "left out: text tokenised again" in printed
    found = rows(root)
    expected = {(ENDS, each) for each in released.ENDS}
    expected |= {("released initialisation", each) for each in (PERPLEXITY, "precision", "recall")}
    expected |= {("padding scored in perplexity", PERPLEXITY)}
    expected |= {(TESTED, each) for each in (OTHERS, MEAN, LARGEST)}
    assert set(found.index) == {(*each, side) for each in expected for side in SIDES}
    assert all(f"| {deviation} | {quantity} | " in printed for deviation, quantity in expected)
    header = (root / "results/released.csv").read_text().splitlines()[0]
    assert header == "deviation,what,quantity,side,value,low,high"
    estimates = found[found["low"].notna()]
    assert set(estimates.index.get_level_values("quantity")) == {"precision", "recall"} and len(estimates) == 12
    assert (estimates["low"] < estimates["value"]).all() and (estimates["value"] < estimates["high"]).all()


def test_a_difference_is_between_the_two_and_recalls_is_paired(measured):
    """The same test samples scored twice: their common part, which is most of an interval, is not in the difference."""
    for (_, quantity), sides in rows(measured[0].paths.root).groupby(level=["deviation", "quantity"]):
        ours, theirs, difference = (sides.xs(side, level="side").iloc[0] for side in SIDES)
        assert difference["value"] == pytest.approx(theirs["value"] - ours["value"], abs=1e-9)
        width, *of_both = (side["high"] - side["low"] for side in (difference, ours, theirs))
        if quantity == "recall" and np.isfinite(width):
            assert width < 0.7 * np.hypot(*of_both)
        elif np.isfinite(width):
            assert width == pytest.approx(np.hypot(*of_both), rel=0.2)


def test_ours_is_what_the_run_reports(measured):
    run, found = measured[0], rows(measured[0].paths.root)["value"]
    table = read_table(run.paths.results / "table.csv")
    for deviation in (ENDS, "released initialisation"):
        for quantity in ("precision", "recall"):
            assert found[deviation, quantity, "ours"] == estimates(table, quantity)["teacher", 1.0][0].value
    perplexities = table[(table["quantity"] == "perplexity") & (table["model"] == "teacher")].set_index("epoch")
    chosen = run.selection(work_of(run, "select").by)["best_epoch"]
    assert found["padding scored in perplexity", PERPLEXITY, "ours"] == perplexities["value"][chosen]
    plain = table[(table["quantity"] == "recall") & (table["unit"] == PER_TOKEN) & (table["temperature"] == 1)]
    plain = plain[plain["position"].isna() & plain["seed"].notna()].set_index("model")["plain"]
    recalls = [plain[each.by.model] for each in run.works("train")]  # a perplexity is of the plain estimate
    assert len(recalls) == 3 and found[TESTED, MEAN, "ours"] == pytest.approx(np.mean(recalls), abs=1e-6)


def test_selecting_on_test_never_loses_on_test(measured):
    found = rows(measured[0].paths.root)["value"][TESTED]
    gain, largest = found[MEAN, "difference"], found[LARGEST, "released"]
    assert 0 <= gain <= largest <= 3 * gain + 1e-12
    assert (found[OTHERS, "released"] > 0) == (largest > 0)


def test_a_teacher_that_never_saw_an_end_stops_less(measured):
    run = measured[0]
    samples = run.samples(work_of(run, "train").data)
    dropped = released.deviations.without_eos(samples, (1,))
    ended = samples.ids[samples.offsets[1:] - 1] == 1
    assert ended.any() and not (dropped.ids == 1).any()
    assert (samples.lengths - dropped.lengths).tolist() == ended.astype(int).tolist()
    assert dropped.num_prompt.tolist() == samples.num_prompt.tolist()
    found = rows(run.paths.root)["value"][ENDS]
    assert found["stop rate", "released"] < found["stop rate", "ours"] / 2
    assert found["mean generated length", "ours"] < found["mean generated length", "released"]


def test_the_run_is_left_as_it_was(measured):
    root, before = measured[0].paths.root, measured[1]
    own = {name for name in everything(root) if str(name).startswith("released/") or name == "results/released.csv"}
    assert {name: data for name, data in everything(root).items() if name not in own} == before


def test_a_second_run_reads_what_is_kept(measured, tmp_path):
    root, printed = measured[0].paths.root, measured[2]
    for name in TRAINED:
        assert f"training teacher seed 0 in {root / 'released' / name}" in printed
    before = contents(root)
    again = measure(root)
    assert contents(root) == before
    assert all(f"complete: {name}" in again for name in (*TRAINED, "padding_scored", "selected_on_test"))
    assert "training teacher" not in again and again.split("\n\n")[-1] == printed.split("\n\n")[-1]

    copy = shutil.copytree(root, tmp_path / "copy")  # stopped after the training: the teacher is not trained again
    shutil.rmtree(copy / "released/end_of_sequence_dropped/results")
    shutil.rmtree(copy / "released/end_of_sequence_dropped/scores")
    assert "training teacher" not in measure(copy)
    assert rows(copy).equals(rows(root))


def test_text_tokenised_again_gives_the_teacher_its_ids(measured, monkeypatch):
    """With a tokenizer put beside p* and no training: the share is that of the sequences that differ."""
    run, seen = measured[0], []
    kept = replace(run, paths=Variant(run.paths.root / "released/text", run.paths))
    monkeypatch.setattr(released, "load_tokenizer", lambda directory: SimpleNamespace(backend_tokenizer=small_bpe()))
    monkeypatch.setattr(released, "other_teacher", lambda kept, samples: seen.append(samples) or teacher_of(run))
    share = next(row for row in released.text_tokenised_again(run, kept) if row["side"] == "released")
    dropped = released.deviations.without_eos(run.samples(work_of(run, "train").data), (1,))
    differ = [dropped[i].tolist() != seen[0][i].tolist() for i in range(300)]
    assert share["value"] == pytest.approx(sum(differ) / 300) and sum(differ) > 0
    assert seen[0].lengths.max() <= EXPERIMENT.max_length and not (seen[0].ids == 1).any()


def test_without_a_finished_run_one_line_says_what_to_run(tmp_path):
    line = refusal("scripts.released.__main__", "--out", str(tmp_path / "none"), *FLAGS)
    assert "run_eval_precision_and_recall.sh" in line and not (tmp_path / "none").exists()
