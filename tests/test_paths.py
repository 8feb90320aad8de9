"""Names of models and artefacts, and the guard of an experiment's directory."""

import dataclasses

import pytest

from llm import paths
from llm.config import UsageError
from llm.paths import Paths, Source


@pytest.mark.parametrize(("tau", "name"), [(0.8, "tau0.80"), (0.875, "tau0.875"), (1.0, "tau1.00"), (2.0, "tau2.00")])
def test_tau_name(tau, name):
    assert paths.tau_name(tau) == name


def test_the_layout(tmp_path):
    where = Paths(tmp_path)
    assert where.samples(Source("ground_truth"), "train") == tmp_path / "samples/ground_truth/tau1.00/train"
    assert where.samples(Source("teacher", 0, 0.8), "train") == tmp_path / "samples/teacher/tau0.80/seed0/train"
    assert where.checkpoint("student_tau0.80", 1, 2) == tmp_path / "checkpoints/student_tau0.80/seed1/epoch-2"


def test_each_model_learns_from_its_own_source(smoke):
    assert paths.training_source("teacher", 1, smoke) == Source("ground_truth")
    assert paths.training_source("student_direct", 1, smoke) == Source("ground_truth")
    assert paths.training_source("student_tau0.875", 1, smoke) == Source("teacher", 1, 0.875)


def test_a_directory_made_with_other_settings_is_refused(tmp_path, smoke):
    where = Paths(tmp_path)
    paths.keep_config(where, smoke)
    paths.check_config(where, dataclasses.replace(smoke, scoring_batch_size=7))
    with pytest.raises(UsageError, match=r"learning_rate: 0\.005 there, 0\.1 here"):
        paths.check_config(where, dataclasses.replace(smoke, learning_rate=0.1))
