"""Where the selected epoch of a model is not its last, stage 4 evaluates the last one too, and changes nothing else."""

import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import FINISHED, chain_within, contents, within
from transformers import AutoModelForCausalLM

from llm.distributions import DIRECT, Distribution
from llm.pipeline import EVALUATE, LAST, TRUTH
from llm.results.sequences import FROM_TRUTH, read_sequences
from llm.results.summary import summarise
from llm.results.table import PER_TOKEN, read_table
from llm.run import Run, open_run
from llm.store import files
from scripts.analysis.results import Results
from scripts.report.tables import models, perplexity

MODEL = Distribution(DIRECT, 1)


def select(run: Run, model: Distribution, epoch: int) -> None:
    """Write a selection of another epoch, as validation might have made it."""
    selection = run.selection(model)
    files.write_record(run.paths.selection(model), selection | {"best_epoch": epoch})


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory) -> tuple[Run, Run]:
    """A run whose models are all at their last epoch, and one in which seed 1's direct student is at its first."""
    root = Path(shutil.copytree(finished[0], tmp_path_factory.mktemp("last") / "run"))
    first, _ = open_run("", ["--out", str(root), *FINISHED])
    for model in first.evaluated():
        select(first, model, 2)
    for part in ("samples", "scores"):  # of the other epochs, if any was selected
        for model in first.evaluated():
            shutil.rmtree(root / part / model.model / "tau1.00" / f"seed{model.seed}" / "test", ignore_errors=True)
    within("llm.eval_precision_and_recall", "--out", str(root), *FINISHED)
    copy = Path(shutil.copytree(root, root.with_name("copy")))
    second, _ = open_run("", ["--out", str(copy), *FINISHED])
    select(second, MODEL, 1)
    within("llm.eval_precision_and_recall", "--out", str(copy), *FINISHED)
    return first, second


def table(run: Run) -> pd.DataFrame:
    return read_table(run.paths.results / "table.csv")


def test_a_run_at_its_last_epochs_has_no_rows_of_them(runs):
    assert not runs[0].last_epochs() and not table(runs[0])["model"].str.endswith(LAST).any()


def test_the_last_epoch_is_a_model_beside_the_selected_one(runs):
    _, run = runs
    (last,) = run.last_epochs()
    assert (last.model, last.seed) == (DIRECT + LAST, 1)
    assert (run.epoch(MODEL), run.epoch(last)) == (1, 2)
    assert run.find_weights(last) == run.paths.checkpoint(MODEL, 2)
    rows = table(run)
    of_seed = rows[(rows["seed"] == 1) & (rows["quantity"] == "recall") & rows["position"].isna()]
    epochs = of_seed.groupby("model")["epoch"].unique().map(list)
    assert epochs[DIRECT] == [1] and epochs[DIRECT + LAST] == [2]


def test_it_is_scored_as_plain_transformers_scores_that_checkpoint(runs):
    _, run = runs
    samples = run.samples(run.test_set(TRUTH))
    scores = read_sequences(run.paths.results / "sequences.parquet").scored(run.last_epochs()[0], FROM_TRUTH).log_p
    model = AutoModelForCausalLM.from_pretrained(run.paths.checkpoint(MODEL, 2))
    in_all = 0.0
    for i in range(len(samples)):
        ids = torch.tensor(samples[i].astype(int))[None]
        with torch.inference_mode():
            log_probs = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
        drawn = log_probs.gather(1, ids[0, 1:, None])[int(samples.num_prompt[i]) - 1 :]
        assert scores[i] == pytest.approx(drawn.sum().item(), abs=1e-3)
        in_all += drawn.sum().item()
    rows = table(run)
    recall = rows[(rows["quantity"] == "recall") & (rows["unit"] == PER_TOKEN) & (rows["model"] == DIRECT + LAST)]
    assert recall["plain"].tolist() == [pytest.approx(in_all / samples.num_scored.sum(), abs=1e-4)]


def test_all_that_is_there_without_it_stays_as_it_is(runs, monkeypatch):
    _, run = runs
    frame = read_sequences(run.paths.results / "sequences.parquet").frame
    rows, shown = table(run), json.loads((run.paths.results / "texts.json").read_text("utf-8"))
    monkeypatch.setattr(Run, "last_epochs", lambda _: [])
    sequences, without, texts = summarise(run)
    others = rows[~rows["model"].str.endswith(LAST)].reset_index(drop=True)
    assert len(others) < len(rows) and texts == shown
    assert others.to_csv() == without.to_csv()
    others = frame[~frame["model"].astype(str).str.endswith(LAST)].reset_index(drop=True)
    assert others.to_csv() == read_sequences(io.BytesIO(sequences)).frame.to_csv()


def test_all_other_rows_are_as_they_were(runs):
    first, second = map(table, runs)
    of_model = (second["model"] == DIRECT) & ((second["seed"] == 1) | second["seed"].isna())
    rest = second[~second["model"].str.endswith(LAST) & ~of_model].reset_index(drop=True)
    of_model = (first["model"] == DIRECT) & ((first["seed"] == 1) | first["seed"].isna())
    pd.testing.assert_frame_equal(first[~of_model].reset_index(drop=True), rest)


def test_it_is_made_once_and_in_parts(runs):
    _, run = runs
    command = ["--out", str(run.paths.root), *FINISHED]
    told = within("llm.eval_precision_and_recall", *command, "--dry-run")
    works = [work for work in run.works("sample", "score", script=EVALUATE) if DIRECT + LAST in str(work)]
    assert len(works) == 4 and all(str(work) in told for work in works) and "to do" not in told
    before = contents(run.paths.root)
    within("llm.eval_precision_and_recall", *command)
    after = contents(run.paths.root)
    assert {name: value[1] for name, value in after.items()} == {name: value[1] for name, value in before.items()}
    shutil.rmtree(run.paths.root / "samples" / (DIRECT + LAST))
    shutil.rmtree(run.paths.root / "scores" / (DIRECT + LAST))
    for part in ("2/2", "1/2"):
        within("llm.eval_precision_and_recall", *command, "--part", part)
    again = contents(run.paths.root)
    assert {name: value[1] for name, value in again.items()} == {name: value[1] for name, value in before.items()}


def test_it_grows_with_the_test_set(runs, tmp_path):
    _, run = runs
    copy = Path(shutil.copytree(run.paths.root, tmp_path / "run"))
    chain_within("--out", str(copy), *FINISHED, "--num_test", "70")
    last = run.last_epochs()[0]
    before, after = (read_sequences(root / "results" / "sequences.parquet") for root in (run.paths.root, copy))
    scores = [found.scored(last, FROM_TRUTH).log_p for found in (before, after)]
    assert len(scores[1]) == 70 and scores[1][:60].tolist() == scores[0].tolist()


def test_the_report_has_it_beside_the_others_and_in_no_mean(runs):
    first, second = (Results(run.paths.results) for run in runs)
    of_all, over_seeds = models(second)
    assert [row[2] for row in of_all.rows if row[:2] == [DIRECT + LAST, "1"]] == ["2"]
    assert LAST in of_all.caption and LAST not in models(first)[0].caption
    assert [row[0] for row in over_seeds.rows] == [row[0] for row in models(first)[1].rows]
    selected = {(row[0], row[1]): row[2] for row in perplexity(second).rows}
    assert (DIRECT + LAST, "1") not in selected and selected[DIRECT, "1"] == "1"
