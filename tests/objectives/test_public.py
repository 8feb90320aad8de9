"""Our losses are those of public packages, by the values that scripts/objectives/public.py recorded of them."""

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.special import entr, softmax

from llm.objectives import losses
from scripts.objectives import public

TABLE = list(csv.DictReader(public.TABLE.read_text("utf-8").splitlines()))
# In float64 gs-divergence adds 1e-12 to each probability of the mixture: as much as 2e-10 where P / M is large.
TOLERANCES = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-9, "atol": 1e-9}}
ENTROPY = "entropy of the teacher"
SYMMETRIC = ("jensen_shannon", "beta=0.5")  # in the teacher and the student


def parameters(row: dict) -> dict:
    """Of ours, by name."""
    pairs = (pair.split("=") for pair in row["our_parameters"].split(", ") if pair)
    return {name: int(value) if name == "k" else float(value) for name, value in pairs}


def close(row: dict, *, swapped: bool = False, turned: bool = False) -> bool:
    """Whether ours is theirs in a row; swapped: of the student and the teacher, turned: with 1 - beta or 1 - lambda."""
    both = public.logits(int(row["seed"]), int(row["vocab_size"]))
    teacher, student = (
        torch.from_numpy(each[[int(row["row"])]] / float(row[f"{who}_temperature"]))
        for each, who in zip(both, ("teacher", "student"), strict=True)
    )
    given = {name: 1 - value if turned else value for name, value in parameters(row).items()}
    pair = (student, teacher) if swapped else (teacher, student)
    value = float(row["factor"]) * getattr(losses, row["our_loss"])(*pair, **given).item()
    assert row["added"] in ("", ENTROPY)
    if row["added"]:
        value += entr(softmax(teacher.numpy(), -1)).sum()
    return np.isclose(value, float(row["theirs"]), **TOLERANCES[row["dtype"]])


def name(row: dict) -> str:
    return f"{row['package']} {row['function']}({row['their_parameters']})"


@pytest.mark.parametrize("package", sorted({row["package"] for row in TABLE}))
def test_ours_are_theirs(package):
    for row in TABLE:
        if row["package"] == package:
            assert close(row), name(row)


def test_none_would_be_with_the_student_in_the_place_of_the_teacher():
    """So the agreement tells the directions apart, and with them which end of beta is which KL."""
    for row in TABLE:
        if (row["our_loss"], row["our_parameters"]) != SYMMETRIC:
            assert not close(row, swapped=True), name(row)


def test_none_would_be_with_the_other_weight_of_a_mixture():
    mixed = [row for row in TABLE if row["our_parameters"].startswith(("beta=", "lambda_="))]
    for row in mixed:
        assert close(row, turned=True) == (parameters(row) in ({"beta": 0.5}, {"lambda_": 0.5})), name(row)
    assert mixed


def test_the_table_has_what_is_to_be_compared():
    """Each on every row of logits of both vocabularies; the factors of TRL's scale, and ModelOpt's tau ** 2, too."""
    found = Counter(
        (row["package"], row["function"].split(".")[0], row["our_loss"], row["our_parameters"]) for row in TABLE
    )
    a_case = public.NUM_ROWS * len(public.VOCABULARIES)
    temperatures = len(public.TEMPERATURES)
    for package, function, count in (
        ("trl", "GKDTrainer", temperatures),
        ("trl", "distillation_trainer", temperatures),
        ("ms-swift", "gkd_loss", temperatures),
        ("liger-kernel", "LigerFusedLinearJSDFunction", 1),
    ):
        for loss in ("kl_teacher_student", "kl_student_teacher"):
            assert found[package, function, loss, ""] == count * a_case
        for beta in (0.1, 0.5, 0.9):
            assert found[package, function, "jensen_shannon", f"beta={beta}"] == count * a_case
    for lambda_ in (0.1, 0.5, 0.9):
        for loss in ("skewed_kl_teacher_student", "skewed_kl_student_teacher"):
            assert found["gs-divergence", "gs_div", loss, f"lambda_={lambda_}"] == a_case
    for k in (1, 3):
        assert found["axolotl", "topk_logprob", "top_k", f"k={k}"] == temperatures * a_case
        assert found["trl", "IWOPDTrainer", "top_k_tail", f"k={k}"] == temperatures * a_case
    assert found["torchtune", "ForwardKLLoss", "kl_teacher_student", ""] == a_case
    assert found["torchtune", "ReverseKLLoss", "kl_student_teacher", ""] == a_case
    assert {float(row["factor"]) for row in TABLE if row["package"] == "nvidia-modelopt"} == {1.0, 4.0}
    assert {float(row["factor"]) for row in TABLE if row["package"] == "trl"} == {1.0, 0.1 * 0.9, 0.25, 0.9 * (1 - 0.9)}


def test_parameters_are_paired_one_to_one_and_not_all_alike():
    """TRL's beta is ours, and gs-divergence's lmd is 1 - lambda."""
    betas = {
        (row["their_parameters"].split(",")[0], row["our_parameters"])
        for row in TABLE
        if row["our_loss"] == "jensen_shannon"
    }
    assert betas == {(f"beta={beta}", f"beta={beta}") for beta in (0.1, 0.5, 0.9)}
    skewed = {
        (row["their_parameters"].split("lmd=")[1], row["our_parameters"])
        for row in TABLE
        if row["package"] == "gs-divergence"
    }
    assert skewed == {(f"{1 - lambda_:.1f}", f"lambda_={lambda_}") for lambda_ in (0.1, 0.5, 0.9)}
    assert len({row["theirs"] for row in TABLE}) > len(TABLE) / 3
