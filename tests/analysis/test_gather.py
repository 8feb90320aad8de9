"""What is gathered of a run: its files, the rows of the k-NN metrics, and the components of one seed's embeddings."""

import made_up
import numpy as np
import pytest
from made_up import STUDENTS

from llm import config, scores
from llm.distributions import GROUND_TRUTH, Distribution
from llm.processes import UsageError
from llm.randomness import derive_seed
from llm.run import Run
from llm.store.paths import Paths
from scripts.analysis import manifold
from scripts.analysis.gather import gather
from scripts.analysis.results import Results


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """Return a run that is finished, of made-up results and embeddings."""

    def embeddings(run: Run, distribution) -> np.ndarray:
        rng = np.random.default_rng(STUDENTS.index(distribution.model) if distribution.role == "student" else 99)
        x = rng.normal(distribution.seed or 0, 1, (60, 20)).astype(np.float32)
        return np.concatenate([x, x[:3]])  # sequences that were drawn twice

    monkeypatch.setattr(scores, "embeddings", embeddings)
    run = Run(config.load("cpu", num_seeds=2, temperatures=made_up.TAUS, num_bootstrap=100), Paths(tmp_path / "run"))
    results = made_up.write(run.paths.results, num_seeds=2)
    table = results.table
    made_up.table(run.paths.results, table[~table["quantity"].str.startswith("knn_")].to_dict("records"))
    (run.paths.results / "embeddings.csv").unlink()
    return run


def test_a_run_is_gathered(run, tmp_path):
    out = tmp_path / "gathered"
    names = {path.name for path in gather(run, out)}
    assert names == {"table.csv", "texts.json", "provenance.json", "released.csv", "embeddings.csv"}
    for name in ("texts.json", "provenance.json", "released.csv"):
        assert (out / name).read_bytes() == (run.paths.results / name).read_bytes()

    results, before = Results(out), (run.paths.results / "table.csv").read_text()
    assert (out / "table.csv").read_text().startswith(before)  # to the last digit
    added = results.table[len(Results(run.paths.results).table) :]
    assert added["quantity"].tolist() == [f"knn_{name}" for name in ("precision", "recall", "density", "coverage")] * 10
    assert list(dict.fromkeys(zip(added["model"], added["seed"], strict=True))) == [
        (model, seed) for seed in (0, 1) for model in STUDENTS
    ]
    assert set(added["epoch"]) == {2} and set(added["interval"]) == {"bootstrap over points"}
    assert set(added.loc[added["unit"] == "ratio", "quantity"]) == {"knn_density"}


def test_the_metrics_are_of_distinct_points_in_all_dimensions(run, tmp_path):
    gather(run, tmp_path / "gathered")
    truth = scores.embeddings(run, Distribution(GROUND_TRUTH))[:60]
    student = scores.embeddings(run, Distribution("student_tau0.80", 1))[:60]
    expected = manifold.evaluate(truth, student, 5, 100, derive_seed(0, "bootstrap"))
    results = Results(tmp_path / "gathered")
    assert {name: results.series(f"knn_{name}", "student_tau0.80")[1] for name in expected} == expected


def test_embeddings_are_on_the_components_of_the_ground_truth(run, tmp_path):
    gather(run, tmp_path / "gathered")
    found = Results(tmp_path / "gathered").embeddings
    assert list(found) == [GROUND_TRUTH, *STUDENTS]
    own = found[GROUND_TRUTH]
    assert own.shape == (63, 16) and np.abs(own.mean(0)).max() < 1e-3
    assert (np.diff(own.var(0)) <= 0).all()
    assert float(f"{own[0, 0]:.4g}") == own[0, 0]


def test_a_comparison_with_the_released_code_does_not_outlive_its_run(run, tmp_path):
    gather(run, tmp_path / "gathered")
    (run.paths.results / "released.csv").unlink()
    gather(run, tmp_path / "gathered")
    assert Results(tmp_path / "gathered").released is None


def test_a_run_that_is_not_finished_is_one_line(run, tmp_path):
    (run.paths.results / "texts.json").unlink()
    with pytest.raises(UsageError, match=r"no .*texts.json: run bash run_eval_precision_and_recall.sh first"):
        gather(run, tmp_path / "gathered")
    assert not (tmp_path / "gathered").exists()
