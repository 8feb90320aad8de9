"""The names of distributions and sample sets, their places on disk, and samples in memory."""

import numpy as np
import pytest

from llm.distributions import Distribution, Samples, SampleSet, student_name, tau_name
from llm.pipeline import TRUTH
from llm.store.paths import Paths

SEQUENCES = [[0, 5, 7, 2], [0, 0, 2], [0, 9, 9]]
SAMPLES = Samples.of(SEQUENCES, [1, 2, 1], [-1.0, -2.0, -3.0])


@pytest.mark.parametrize(("tau", "name"), [(0.8, "tau0.80"), (0.875, "tau0.875"), (1.0, "tau1.00"), (2.0, "tau2.00")])
def test_tau_name(tau, name):
    assert tau_name(tau) == name
    assert student_name(tau) == f"student_{name}"


def test_the_layout(tmp_path):
    paths, teacher, student = Paths(tmp_path), Distribution("teacher", 0, 0.8), Distribution("student_tau0.80", 1)
    assert paths.samples(SampleSet(TRUTH, "train", 9)) == tmp_path / "samples/ground_truth/tau1.00/train"
    assert paths.samples(SampleSet(teacher, "train", 9)) == tmp_path / "samples/teacher/tau0.80/seed0/train"
    assert paths.checkpoint(student, 2) == tmp_path / "checkpoints/student_tau0.80/seed1/epoch-2"
    test = SampleSet(student, "test", 9)
    assert paths.scores(test, TRUTH) == tmp_path / "scores/student_tau0.80/tau1.00/seed1/test/by_ground_truth"
    assert paths.scores(test, teacher).name == "by_teacher_seed0_tau0.80"


def test_roles_and_temperatures():
    student = Distribution("student_tau0.80", 3)
    assert [each.role for each in (TRUTH, Distribution("teacher", 0), student)] == [
        "ground_truth",
        "teacher",
        "student",
    ]
    assert student.at(0.5) == Distribution("student_tau0.80", 3, 0.5)
    assert [str(each) for each in (TRUTH, student.at(0.5))] == ["ground_truth", "student_tau0.80 seed 3 at tau 0.5"]


def test_samples_in_memory():
    assert [SAMPLES[i].tolist() for i in range(3)] == SEQUENCES
    assert SAMPLES.lengths.tolist() == [4, 3, 3] and SAMPLES.num_scored.tolist() == [3, 1, 2]
    assert SAMPLES.stopped((2,)).tolist() == [True, True, False]


@pytest.mark.parametrize("rows", [[2, 0], [], [1, 1]])
def test_rows_of_samples_in_their_order(rows):
    taken = SAMPLES.take(np.array(rows, int))
    assert [taken[i].tolist() for i in range(len(taken))] == [SEQUENCES[row] for row in rows]
    assert taken.num_prompt.tolist() == [[1, 2, 1][row] for row in rows]
    assert taken.log_prob.tolist() == [[-1.0, -2.0, -3.0][row] for row in rows]


def test_parts_joined_are_the_whole():
    parts = [SAMPLES.take(np.array(rows, int)) for rows in ([0], [], [1, 2])]
    whole = Samples.joined(parts)
    for name in ("ids", "offsets", "num_prompt", "log_prob"):
        assert getattr(whole, name).tolist() == getattr(SAMPLES, name).tolist()
