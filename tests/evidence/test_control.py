"""The direct student is trained until it is finished, and that one is what others are compared with."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FINISHED, chain_within, refusal, within
from transformers import AutoModelForCausalLM

from llm.distributions import DIRECT, TEACHER, Distribution
from llm.intervals import upper_bound
from llm.machine.processes import UsageError
from llm.pipeline import TRUTH
from llm.results.advantage import offsets
from llm.results.sequences import FROM_TRUTH, Sequences, read_sequences
from llm.run import Run, open_run
from llm.store import files
from scripts.analysis.advantage import control as knots
from scripts.analysis.advantage import over_control
from scripts.analysis.results import Results
from scripts.evidence import control

FLAGS = [*FINISHED, "--control_temperatures", "0.5", "2.0"]
MARGIN = 0.055  # nats
TAUS = (0.5, 0.8, 1.0, 2.0)
MEMBERS = [Distribution(DIRECT, seed, tau) for tau in TAUS for seed in (0, 1)]


def perplexities(root, seed: int) -> list[float]:
    selection = files.read_json(root / f"checkpoints/{DIRECT}/seed{seed}/selection.json")
    return [each["perplexity"] for each in selection["epochs"]]


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory) -> Run:
    """A small run with its control, made in two parts, where a gain of 0.055 nats is one that counts."""
    root = Path(shutil.copytree(finished[0], tmp_path_factory.mktemp("control") / "run"))
    chain_within("--out", str(root), *FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "FINISHED", MARGIN)
        told = [
            within("scripts.evidence.control", "--out", str(root), *FLAGS, *part)
            for part in (["--part", "2/2"], ["--part", "1/2"], [])
        ]
    assert "other parts' students are not trained for as long yet: run this again" in told[0]
    return open_run("", ["--out", str(root), *FLAGS])[0]


@pytest.fixture(scope="module")
def gathered(run) -> Results:
    folder = run.paths.root.parent / "gathered"
    within("scripts.analysis.gather", "--out", str(run.paths.root), *FLAGS, "--results", str(folder), "--numbers")
    return Results(folder)


def test_the_gain_of_a_longer_training_is_judged_over_seeds():
    """By hand: a mean of 0.02 with a standard error of 0.01, and t(0.95, 1) = 6.3138; of one seed, its own."""
    assert upper_bound([0.01, 0.03]) == pytest.approx(0.02 + 6.3138 * 0.01, abs=1e-5)
    assert upper_bound([-0.02, -0.02, -0.02]) == pytest.approx(-0.02) and upper_bound([0.004]) == 0.004


def test_each_length_is_half_as_long_again_and_the_first_that_is_finished_is_taken(run, gathered):
    frame = pd.read_csv(gathered.directory / "control.csv")
    lengths = [2, 3, 4, 6, 9, 14, 21, 32, 48][: frame["epochs"].nunique()]
    assert len(lengths) > 2  # so that some length was not finished
    nats = frame.pivot(index="seed", columns="epochs", values="nats")
    assert nats.index.tolist() == [0, 1] and nats.columns.tolist() == lengths  # all seeds have the same
    for seed, rows in frame.groupby("seed"):
        roots = [run.paths.root, *(run.paths.root / f"length/student-epochs-{k}" for k in lengths[1:])]
        assert rows["nats"].tolist() == pytest.approx([np.log(min(perplexities(root, seed))) for root in roots])
        assert rows["taken"].tolist() == [k == len(rows) - 2 for k in range(len(rows))]
    most = [upper_bound((nats[own] - nats[longer]).tolist()) for own, longer in pairwise(lengths)]
    assert all(each >= MARGIN for each in most[:-1]) and most[-1] < MARGIN


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
        root = run.paths.root / f"length/student-epochs-{epochs}" if epochs != 2 else run.paths.root
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

    teacher = [(TEACHER, 1.0)]
    means = [
        offsets(curve(own, TEACHER, seed)[:, [TAUS.index(1.0)]], curve(kept, DIRECT, seed))[1].item() for seed in (0, 1)
    ]
    over_it = over_control(gathered, teacher)["recall"].pooled.value
    assert over_it == pytest.approx(np.mean(means))
    for name in ("table.csv", "sequences.parquet", "provenance.json"):
        (tmp_path / name).write_bytes((gathered.directory / name).read_bytes())
    assert over_control(Results(tmp_path), teacher)["recall"].pooled.value > over_it + 0.01  # over its own
    frame = read_sequences(gathered.directory / "control.parquet").frame
    more = pd.concat([frame, frame[frame["temperature"] == 1].assign(temperature=1.5)])
    more.to_parquet(tmp_path / "control.parquet", index=False)  # the control may have more temperatures than the run
    assert knots(Results(tmp_path)) == [(DIRECT, tau) for tau in (0.5, 0.8, 1.0, 1.5, 2.0)]


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
