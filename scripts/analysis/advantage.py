"""What distillation gains over sampling the direct student at a lower temperature, at the same self-entropy.

Both make a student sharper. Over tau, each traces precision and recall as functions of its self-entropy H: on one side
the distilled students, on the other the direct student sampled at tau, q_tau = softmax(logits / tau).
"""

import numpy as np

from llm.distributions import DIRECT
from llm.metrics import Estimate, mean_estimate
from llm.processes import UsageError
from scripts.analysis.results import Results

QUANTITIES = ("precision", "recall")
Curve = dict[str, np.ndarray]


def curve(results: Results, members: list[tuple[str, float]], seed: int) -> Curve:
    """Return {"entropy", "precision", "recall"} of k members (model, temperature): arrays [k], nats per token.

    In ascending order of entropy. UsageError where a member was not evaluated in this seed.
    """
    found = {}
    for name in ("entropy", *QUANTITIES):
        series = [results.series(name, *member) for member in members]
        if missing := [model for (model, _), each in zip(members, series, strict=True) if seed not in each]:
            raise UsageError(f"{results.directory} has no {name} of {missing[0]} in seed {seed}: {results.made_by}")
        found[name] = np.array([each[seed].value for each in series])
    order = np.argsort(found["entropy"], kind="stable")
    return {name: values[order] for name, values in found.items()}


def differences(results: Results) -> dict[int, Curve]:
    """Return, for each seed, distilled minus directly sampled where both curves have values.

    Arrays [k] "entropy", "precision" and "recall", nats per token, at every entropy at which either curve has a point,
    and at the ends of their overlap: between these the difference is linear, as both curves are. UsageError where two
    curves do not overlap.
    """
    found = {}
    for seed in results.series("entropy", next(iter(results.taus))):
        ours = curve(results, [(name, 1.0) for name in results.taus], seed)
        control = curve(results, [(DIRECT, tau) for tau in results.taus.values()], seed)
        low = max(ours["entropy"][0], control["entropy"][0])
        high = min(ours["entropy"][-1], control["entropy"][-1])
        if low >= high:
            fault = f"seed {seed}: the distilled students and the sampled one share no self-entropy"
            raise UsageError(f"{fault}: evaluate with more --temperatures")
        knots = np.unique(np.concatenate([[low, high], ours["entropy"], control["entropy"]]).clip(low, high))
        found[seed] = {"entropy": knots} | {
            name: np.interp(knots, ours["entropy"], ours[name]) - np.interp(knots, control["entropy"], control[name])
            for name in QUANTITIES
        }
    return found


def advantage(by_seed: dict[int, Curve]) -> dict[str, Estimate]:
    """Return {"precision", "recall"}: the mean of `differences` over the overlap (its area / its width), per token.

    Over several seeds, the mean of theirs with a t interval; of one seed there is no interval, and its ends are nan.
    """
    found = {}
    for name in QUANTITIES:
        means = [np.trapezoid(each[name], each["entropy"]) / np.ptp(each["entropy"]) for each in by_seed.values()]
        found[name] = mean_estimate(means) if len(means) > 1 else Estimate(float(means[0]), np.nan, np.nan)
    return found
