"""What is gathered of a run: its files as they are, and the components of one seed's embeddings."""

import made_up
import numpy as np
import pytest
from made_up import STUDENTS

from llm.distributions import GROUND_TRUTH
from llm.machine.processes import UsageError
from llm.results import scores
from llm.run import Run
from llm.settings import config
from llm.store.paths import Paths
from scripts.analysis.gather import OPTIONAL, gather
from scripts.analysis.results import Results

COPIED = ("table.csv", "sequences.parquet", "texts.json", "provenance.json")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """Return a run that is finished, of made-up results and embeddings."""

    def embeddings(run: Run, distribution) -> np.ndarray:
        rng = np.random.default_rng(STUDENTS.index(distribution.model) if distribution.role == "student" else 99)
        x = rng.normal(distribution.seed or 0, 1, (60, 20)).astype(np.float32)
        return np.concatenate([x, x[:3]])  # sequences that were drawn twice

    monkeypatch.setattr(scores, "embeddings", embeddings)
    experiment = config.load("cpu", num_seeds=2, temperatures=made_up.TAUS, students_of_truth=True)
    run = Run(experiment, Paths(tmp_path / "run"))
    made_up.write(run.paths.results, num_seeds=2, students_of_truth=True)
    (run.paths.results / "embeddings.csv").unlink()
    for name in set(OPTIONAL) - {"released.csv"}:
        (run.paths.results / name).write_text("a,b\n1,2\n")
    return run


def test_a_run_is_gathered(run, tmp_path):
    """To the byte; what it was compared with otherwise comes along."""
    out = tmp_path / "gathered"
    names = {path.name for path in gather(run, out)}
    assert names == {*COPIED, *OPTIONAL, "embeddings.csv"} == {path.name for path in out.iterdir()}
    for name in (*COPIED, *OPTIONAL):
        assert (out / name).read_bytes() == (run.paths.results / name).read_bytes()
    results = Results(out)
    assert results.sequences.frame.equals(Results(run.paths.results).sequences.frame)


def test_embeddings_are_on_the_components_of_the_ground_truth(run, tmp_path):
    """Of the students that the map shows, which are not those of p* itself."""
    gather(run, tmp_path / "gathered")
    found = Results(tmp_path / "gathered").embeddings
    assert list(found) == [GROUND_TRUTH, *STUDENTS]
    own = found[GROUND_TRUTH]
    assert own.shape == (63, 16) and np.abs(own.mean(0)).max() < 1e-3
    assert (np.diff(own.var(0)) <= 0).all()
    assert float(f"{own[0, 0]:.4g}") == own[0, 0]


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_comparison_with_another_way_does_not_outlive_its_run(name, run, tmp_path):
    gather(run, tmp_path / "gathered")
    (run.paths.results / name).unlink()
    gather(run, tmp_path / "gathered")
    assert not (tmp_path / "gathered" / name).exists()


@pytest.mark.parametrize("name", COPIED)
def test_a_run_that_is_not_finished_is_one_line(name, run, tmp_path):
    (run.paths.results / name).unlink()
    with pytest.raises(UsageError, match=rf"no .*{name}: run bash run_eval_precision_and_recall.sh first"):
        gather(run, tmp_path / "gathered")
    assert not (tmp_path / "gathered").exists()
