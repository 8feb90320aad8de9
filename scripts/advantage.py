"""What distillation gains over sampling the direct student at a lower temperature, at the same self-entropy.

Both make a student sharper. Over tau, each traces precision and recall as functions of its self-entropy H: on one side
the distilled students, on the other q_tau = softmax(logits / tau) of the direct student ("control" of a result).
"""

import numpy as np

from llm.config import UsageError
from llm.likelihood import Estimate, mean_estimate
from llm.paths import DIRECT
from scripts.rows import rows_of, taus

QUANTITIES = ("precision", "recall")


def curve(rows: list[dict]) -> dict[str, np.ndarray]:
    """{"entropy", "precision", "recall"} of rows [k], nats per token, in ascending order of entropy."""
    rows = sorted(rows, key=lambda row: row["per_token"]["entropy"]["value"])
    return {name: np.array([row["per_token"][name]["value"] for row in rows]) for name in ("entropy", *QUANTITIES)}


def differences(result: dict) -> dict[int, dict[str, np.ndarray]]:
    """{seed: {"entropy", "precision", "recall"}}: distilled minus directly sampled where both curves have values.

    Arrays [k], nats per token, at every entropy at which either curve has a point, and at the ends of their overlap:
    between these the difference is linear, as both curves are. UsageError where two curves do not overlap.
    """
    distilled = [row for name in taus(result) for row in rows_of(result, name)]
    sampled = [row for row in result["control"] if row["model"] == DIRECT]
    found = {}
    for seed in sorted({row["seed"] for row in distilled}):
        ours, control = (curve([row for row in rows if row["seed"] == seed]) for rows in (distilled, sampled))
        if not len(control["entropy"]):
            raise KeyError(f"control of seed {seed}")
        low = max(ours["entropy"][0], control["entropy"][0])
        high = min(ours["entropy"][-1], control["entropy"][-1])
        if low >= high:
            told = f"seed {seed}: the distilled students and the sampled one share no self-entropy"
            raise UsageError(f"{told}: evaluate with more --temperatures")
        knots = np.unique(np.concatenate([[low, high], ours["entropy"], control["entropy"]]).clip(low, high))
        found[seed] = {"entropy": knots} | {
            name: np.interp(knots, ours["entropy"], ours[name]) - np.interp(knots, control["entropy"], control[name])
            for name in QUANTITIES
        }
    return found


def advantage(result: dict) -> dict[str, Estimate]:
    """{"precision", "recall"}: the mean of `differences` over the overlap (its area / its width), nats per token.

    Over several seeds, the mean of theirs with a t interval; of one seed there is no interval, and its ends are nan.
    """
    found = {}
    for name in QUANTITIES:
        means = [
            np.trapezoid(each[name], each["entropy"]) / np.ptp(each["entropy"]) for each in differences(result).values()
        ]
        found[name] = mean_estimate(means) if len(means) > 1 else Estimate(float(means[0]), np.nan, np.nan)
    return found
