"""The direct student is trained until it is finished, and that one is what others are compared with."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import chain_within, refusal, within
from transformers import AutoModelForCausalLM

from llm import config
from llm.advantage import difference, mean_over
from llm.distributions import DIRECT, TEACHER, Distribution
from llm.pipeline import TRUTH
from llm.processes import UsageError
from llm.run import Run
from llm.sequences import FROM_TRUTH, Sequences, read_sequences
from llm.store import files
from llm.store.paths import Paths
from scripts.analysis.advantage import advantages, sampled
from scripts.analysis.results import Results
from scripts.evidence import length

FLAGS = ["--profile", "smoke", "--num_train", "120", "--num_validation", "40", "--num_test", "40", "--num_seeds", "2"]
FLAGS += ["--temperatures", "0.8", "1.0", "--teacher_epochs", "2", "--student_epochs", "2"]
FLAGS += ["--control_temperatures", "0.5", "2.0"]
VALUES = dict(num_train=120, num_validation=40, num_test=40, num_seeds=2, temperatures=[0.8, 1.0])
VALUES |= dict(control_temperatures=[0.5, 2.0])
TAUS = (0.5, 0.8, 1.0, 2.0)
MEMBERS = [Distribution(DIRECT, seed, tau) for tau in TAUS for seed in (0, 1)]


def perplexities(root, seed: int) -> list[float]:
    selection = files.read_json(root / f"checkpoints/{DIRECT}/seed{seed}/selection.json")
    return [each["perplexity"] for each in selection["epochs"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A small run with its control, made in two parts, where a gain of 0.055 nats is one that counts."""
    root = tmp_path_factory.mktemp("control") / "run"
    chain_within("--out", str(root), *FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(length, "FINISHED", 0.055)
        for part in (["--part", "2/2"], ["--part", "1/2"], []):
            within("scripts.evidence.control", "--out", str(root), *FLAGS, *part)
    return Run(config.load("smoke", **VALUES, teacher_epochs=2, student_epochs=2), Paths(root))


@pytest.fixture(scope="module")
def gathered(run) -> Results:
    folder = run.paths.root.parent / "gathered"
    within("scripts.analysis.gather", "--out", str(run.paths.root), *FLAGS, "--results", str(folder), "--numbers")
    return Results(folder)


def test_each_length_is_half_as_long_again_and_the_first_that_is_finished_is_taken(run, gathered):
    frame = pd.read_csv(gathered.directory / "control.csv")
    assert frame["seed"].unique().tolist() == [0, 1] and (frame.groupby("seed")["epochs"].count() > 2).all()
    for seed, rows in frame.groupby("seed"):
        assert rows["epochs"].tolist() == [2, 3, 4, 6, 9, 14, 21, 32, 48][: len(rows)]
        roots = [run.paths.root, *(run.paths.root / f"length/epochs-{k}" for k in rows["epochs"][1:])]
        nats = [np.log(min(perplexities(root, seed))) for root in roots]
        assert rows["nats"].tolist() == pytest.approx(nats)
        gains = -np.diff(nats)
        assert (gains[:-1] >= 0.055).all() and gains[-1] < 0.055
        assert rows["taken"].tolist() == [k == len(rows) - 2 for k in range(len(rows))]


def test_the_kept_scores_are_of_the_length_that_is_taken(run, gathered):
    """By plain transformers, on p*'s test sequences."""
    frame, kept = (
        pd.read_csv(gathered.directory / "control.csv"),
        read_sequences(gathered.directory / "control.parquet"),
    )
    assert set(kept.distributions()) == set(MEMBERS)
    samples = run.samples(run.test_set(TRUTH))
    for member in MEMBERS:
        epochs = frame[(frame["seed"] == member.seed) & frame["taken"]]["epochs"].item()
        root = run.paths.root / f"length/epochs-{epochs}" if epochs != 2 else run.paths.root
        nats = perplexities(root, member.seed)
        best = root / f"checkpoints/{DIRECT}/seed{member.seed}/epoch-{1 + int(np.argmin(nats))}"
        model = AutoModelForCausalLM.from_pretrained(best)
        scores = kept.scored(member, FROM_TRUTH).log_p
        for i in range(0, len(samples), 8):
            ids = torch.tensor(samples[i].astype(int))[None]
            with torch.inference_mode():
                log_probs = torch.log_softmax(model(ids).logits[0, :-1].double() / member.temperature, -1)
            drawn = log_probs.gather(1, ids[0, 1:, None])[int(samples.num_prompt[i]) - 1 :]
            assert scores[i] == pytest.approx(drawn.sum().item(), abs=1e-3)


def test_others_are_compared_with_it_and_with_nothing_else_of_it(gathered, tmp_path):
    own, kept = gathered.sequences, read_sequences(gathered.directory / "control.parquet")
    for member in own.distributions():
        expected = kept if member.model == DIRECT else own
        found = gathered.controlled.scored(member, FROM_TRUTH)
        np.testing.assert_array_equal(found.log_p, expected.scored(member, FROM_TRUTH).log_p)

    def curve(table: Sequences, model: str, seed: int) -> np.ndarray:
        points = [Distribution(model, seed, tau) for tau in TAUS]
        return np.array([[table.estimate(name, each).value for each in points] for name in ("entropy", "recall")])

    means = [mean_over(*difference(curve(own, TEACHER, seed), curve(kept, DIRECT, seed))) for seed in (0, 1)]
    teacher = [(TEACHER, tau) for tau in TAUS]
    over_it = advantages(gathered, teacher, sampled(gathered))["recall"].value
    assert over_it == pytest.approx(np.mean(means))
    for name in ("table.csv", "sequences.parquet"):
        (tmp_path / name).write_bytes((gathered.directory / name).read_bytes())
    assert advantages(Results(tmp_path), teacher, sampled(gathered))["recall"].value > over_it + 0.01  # over its own


def test_a_control_of_other_test_sequences_is_refused(gathered, tmp_path):
    for name in ("table.csv", "sequences.parquet", "provenance.json"):
        (tmp_path / name).write_bytes((gathered.directory / name).read_bytes())
    frame = read_sequences(gathered.directory / "control.parquet").frame
    for other in (frame.assign(log_truth=frame["log_truth"] + 1), frame[frame["seed"] == 0]):
        other.to_parquet(tmp_path / "control.parquet", index=False)
        with pytest.raises(UsageError, match=r"control\.parquet is of other seeds, temperatures or test sequences"):
            _ = Results(tmp_path).controlled


def test_a_run_that_is_not_finished_is_told(tmp_path):
    lines = within("scripts.evidence.control", "--out", str(tmp_path / "a"), *FLAGS, "--dry-run").splitlines()
    assert [line.split(" ->")[0] for line in lines] == [f"train {DIRECT} seed {k} until it is finished" for k in (0, 1)]
    line = refusal("scripts.evidence.control", "--out", str(tmp_path / "a"), *FLAGS)
    assert "run bash run_eval_perplexity.sh first" in line or "run bash run_train.sh first" in line
