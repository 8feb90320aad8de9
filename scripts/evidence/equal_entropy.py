"""Try the comparison at equal self-entropy where the answer is known, and write what it gave.

    python -m scripts.evidence.equal_entropy
    python -m scripts.evidence.equal_entropy --repetitions 100 --results /tmp/results

Five tries, each a part of equal_entropy.csv:

    curve       a smooth function of the race's shape, known exactly at its control's knots: the largest error between
    left out    each inner knot of the committed controls, predicted from the others: errors of twice the gap
    thinned     the race's control at capacity's three temperatures, held against its own knots between them
    itself      a family against some of its own members, which is 0: by offsets, and by chords, as a counterexample
    coverage    how often 95 % intervals hold the truth, simulated with the race's errors, of one, two and five models

A chord joins the values of a family by straight lines, and the control's too, and averages their difference over the
entropies that both reach. A quarter of an hour on 2 cores; needs no torch.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from llm.distributions import DIRECT, Distribution, student_name
from llm.machine.processes import run_entry, say
from llm.metrics import SequenceEstimate
from llm.results.advantage import QUANTITIES, OfSeed, mean_difference, of_seed, offsets, over_seeds, reached, widest_gap
from llm.results.table import markdown
from llm.settings import config
from llm.store import files
from scripts.analysis.advantage import control, distilled
from scripts.analysis.results import COMMITTED, Results

REPETITIONS, NUM_SEQUENCES = 400, 250
SEEDS = (3, 5)
OF_CAPACITY = (0.7, 0.8, 1.0)  # the temperatures of its committed control
DEGREE = 4  # of the polynomial that has the race's shape
FAMILIES = {"one": (3.4,), "two": (2.8, 4.05), "five": (2.8, 3.15, 3.5, 3.9, 4.05)}
OFFSETS = {"precision": (0.06, -0.03), "recall": (-0.2, 0.09)}  # of the simulated family: at MIDDLE, and per nat
MIDDLE = 3.425
LOSS = 0.03  # by which another family of five lies below it, at any entropy
# Standard deviations of a training: of its entropy, of its value at that, of its control's curve.
OF_TRAINING = (0.04, 0.015, 0.01)


def chord(ours: np.ndarray, others: np.ndarray) -> float:
    """Return what chords give: the mean difference of two broken lines over the entropies that both reach."""
    ours, others = (each[:, np.argsort(each[0])] for each in (ours, others))
    low, high = max(ours[0, 0], others[0, 0]), min(ours[0, -1], others[0, -1])
    at = np.unique(np.concatenate([[low, high], ours[0], others[0]]).clip(low, high))
    values = np.interp(at, *ours) - np.interp(at, *others)
    return float(values[0] if len(at) == 1 else np.trapezoid(values, at) / np.ptp(at))


# ------------------------------------------------------------------------------------------------ on real data


def curve(results: Results, quantity: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a polynomial through the control of a run, means over seeds: a noise-free curve of its shape."""
    points = np.mean([knots_of(results, quantity, seed) for seed in results.controlled.seeds(DIRECT)], axis=0)
    return np.polynomial.Polynomial.fit(*points, DEGREE)


def knots_of(results: Results, quantity: str, seed: int) -> np.ndarray:
    """Return the entropies and values of the control's knots in a seed, [2, k]."""
    members = [Distribution(model, seed, tau) for model, tau in control(results)]
    sides = ("entropy", quantity)
    return np.array([[results.controlled.estimate(side, each).value for each in members] for side in sides])


def between_knots(results: Results, quantity: str) -> list[dict]:
    """Return the largest error of the interpolation of a known curve at a run's knots, where its students lie."""
    known, rows = curve(results, quantity), []
    for seed in results.controlled.seeds(DIRECT):
        knots = knots_of(results, quantity, seed)[0]
        found = [
            results.controlled.estimate("entropy", Distribution(name, seed)).value for name, _ in distilled(results)
        ]
        inside = np.array(found)[reached(np.array(found), knots)]
        places = np.linspace(inside.min(), inside.max(), 1001)
        missed = offsets(np.stack([places, known(places)]), np.stack([knots, known(knots)]))[1]
        rows.append({"case": f"seed {seed}", "gap": widest_gap(inside, knots), "value": np.abs(missed).max()})
    return rows


def left_out(results: Results, quantity: str) -> list[dict]:
    """Return the mean error and the mean absolute one of each inner knot, predicted from the others, over seeds."""
    errors = []
    for seed in results.controlled.seeds(DIRECT):
        knots = knots_of(results, quantity, seed)
        knots = knots[:, np.argsort(knots[0])]
        for k in range(1, knots.shape[1] - 1):
            errors.append(float(offsets(knots[:, [k]], np.delete(knots, k, axis=1))[1, 0]))
    error, num = np.array(errors), len(errors)
    rows = [{"case": "mean error", "value": error.mean(), "low": error.mean() - 2 * error.std() / num**0.5}]
    rows[0]["high"] = error.mean() + 2 * error.std() / num**0.5
    return [*rows, {"case": "mean absolute error", "value": np.abs(error).mean()}]


def thinned(results: Results, quantity: str, taus: tuple[float, ...]) -> list[dict]:
    """Return the mean error over seeds of a control of few temperatures, at each knot that lies between two of them."""
    members = [tau for _, tau in control(results)]
    kept, between = ([members.index(tau) for tau in members if (tau in taus) == few] for few in (True, False))
    inside = [k for k in between if min(taus) < members[k] < max(taus)]
    errors = []
    for seed in results.controlled.seeds(DIRECT):
        knots = knots_of(results, quantity, seed)
        errors.append(offsets(knots[:, inside], knots[:, kept])[1])
    means = np.mean(errors, axis=0)
    return [{"case": f"τ = {members[k]:g}", "value": mean} for k, mean in zip(inside, means, strict=True)]


def of_itself(results: Results, quantity: str) -> list[dict]:
    """Return what the control's and the distilled students' families have over some of their own members."""
    of_control, ends = [(DIRECT, 0.8), (DIRECT, 1.0)], [(student_name(0.8), 1.0), (student_name(1.0), 1.0)]
    whole = [each for each in distilled(results) if results.taus[each[0]] <= 1]
    return [
        *_itself(results, quantity, "the control at τ = 0.8 and 1, over the control", of_control, None),
        *_itself(results, quantity, "students of τ = 0.8 and 1, over those of all τ up to 1", ends, whole),
    ]


def _itself(results: Results, quantity: str, case: str, some: list, of: list | None) -> list[dict]:
    """Return a row by offsets and one by chords. of: the family that some belong to, None of the control."""
    found: dict[str, list[OfSeed]] = {"offsets": [], "chord": []}
    for seed in results.controlled.seeds(DIRECT):
        families = [[Distribution(model, seed, tau) for model, tau in each] for each in (some, of or control(results))]
        knots = [Distribution(model, seed, tau) for model, tau in control(results)]
        by_offsets = (lambda ours, _: [ours[1].mean()]) if of is None else (lambda *both: [mean_difference(*both)])
        found["offsets"] += of_seed(results.controlled, quantity, families, knots, by_offsets)
        found["chord"] += of_seed(results.controlled, quantity, families, [], lambda *both: [chord(*both)])
    estimates = {method: over_seeds(quantity, seeds) for method, seeds in found.items()}
    return [
        {"case": case, "method": method, "value": each.value, "low": each.low, "high": each.high}
        for method, each in estimates.items()
    ]


# -------------------------------------------------------------------------------------------------- simulated


@dataclass
class Simulated:
    """The estimates of one seed's models, by `estimate`, as `of_seed` reads them from sequences."""

    found: dict[tuple[str, Distribution], SequenceEstimate]

    def estimate(self, quantity: str, distribution: Distribution) -> SequenceEstimate:
        """Return the estimate of a quantity; KeyError where there is none."""
        return self.found[quantity, distribution]


@dataclass(frozen=True)
class World:
    """What the simulation takes from the race: its curve, its mean knots, and how its sequences scatter.

    own: [2, 2], the covariance of a sequence's contribution to a model's entropy and to its value, of its own samples
    (recall's is of the shared ones: 0 here).  shared, left_over: standard deviations of a test sequence's contribution
    to recall, of what all models share of it and of what is a model's own; 0 for precision.
    """

    quantity: str
    known: Callable[[np.ndarray], np.ndarray]
    knots: np.ndarray
    own: np.ndarray
    shared: float
    left_over: float

    @classmethod
    def of(cls, results: Results, quantity: str) -> "World":
        members = [Distribution(model, 0, tau) for model, tau in control(results)]
        entropies = [results.controlled.estimate("entropy", each).residuals for each in members]
        values = np.array([results.controlled.estimate(quantity, each).residuals for each in members])
        knots = np.mean([knots_of(results, quantity, seed)[0] for seed in results.controlled.seeds(DIRECT)], axis=0)
        both = [np.cov(*each) for each in zip(entropies, values, strict=True)]
        own, shared, left_over = np.mean(both, axis=0), 0.0, 0.0
        if quantity == "recall":
            own[0, 1] = own[1, 0] = own[1, 1] = 0
            shared = float(values.mean(0).std())
            left_over = float((values - values.mean(0)).std())
        return cls(quantity, curve(results, quantity), np.sort(knots), own, shared, left_over)

    def draw(self, family: tuple[float, ...], num_seeds: int, rng: np.random.Generator) -> list[Simulated]:
        """Return the estimates of a family, "ours" at temperatures 0, 1, ..., and of "control", of each seed."""
        of_test = self.shared * rng.normal(size=NUM_SEQUENCES)
        return [self._seed(family, of_test, rng) for _ in range(num_seeds)]

    def _seed(self, family: tuple[float, ...], of_test: np.ndarray, rng: np.random.Generator) -> Simulated:
        of_entropy, of_value, of_control = OF_TRAINING
        at, slope = OFFSETS[self.quantity]
        members = np.array(family) + of_entropy * rng.normal(size=len(family))
        values = self.known(members) + at + slope * (members - MIDDLE) + of_value * rng.normal(size=len(family))
        knots = self.knots + of_entropy * rng.normal()
        controls = self.known(knots) + of_control * rng.normal()
        found = {}
        others = np.array(FAMILIES["five"]) + of_entropy * rng.normal(size=len(FAMILIES["five"]))
        worse = self.known(others) + at - LOSS + slope * (others - MIDDLE) + of_value * rng.normal(size=len(others))
        for model, entropies, true in (
            ("ours", members, values),
            ("others", others, worse),
            ("control", knots, controls),
        ):
            for k, place in enumerate(zip(entropies, true, strict=True)):
                found |= self._measured(Distribution(model, 0, float(k)), place, of_test, rng)
        return Simulated(found)

    def _measured(self, model: Distribution, place: tuple, of_test: np.ndarray, rng: np.random.Generator) -> dict:
        entropy, value = rng.multivariate_normal([0, 0], self.own, NUM_SEQUENCES).T
        if self.quantity == "recall":
            value = of_test + self.left_over * rng.normal(size=NUM_SEQUENCES)
        found = {}
        for name, true, noise in (("entropy", place[0], entropy), (self.quantity, place[1], value)):
            measured = float(true + noise.mean())
            found[name, model] = SequenceEstimate(measured, measured, measured, noise - noise.mean(), 0)
        return found


def coverage(world: World, name: str, num_seeds: int, repetitions: int) -> list[dict]:
    """Return how often intervals of the mean offset of a family hold it, by offsets and by chords, and their width."""
    family, rng = FAMILIES[name], np.random.default_rng([list(FAMILIES).index(name), num_seeds])
    at, slope = OFFSETS[world.quantity]
    truth = at + slope * (np.mean(family) - MIDDLE)
    over_range = at + slope * (np.mean([min(family), max(family)]) - MIDDLE)
    sizes = {"ours": len(family), "others": len(FAMILIES["five"]), "control": len(world.knots)}
    ours, others, knots = ([Distribution(model, 0, float(k)) for k in range(num)] for model, num in sizes.items())
    # What is estimated: its families, its control, the number, and the truth.
    ways = {
        "offsets": ([ours], knots, lambda family: [family[1].mean()], truth),
        "chord": ([ours, knots], [], lambda *both: [chord(*both)], over_range),
        "offsets, of two families": ([ours, others], knots, lambda *both: [mean_difference(*both)], LOSS),
    }
    held: dict[str, list] = {method: [] for method in ways}
    for _ in range(repetitions):
        drawn = world.draw(family, num_seeds, rng)
        for method, (families, of, number, true) in ways.items():
            seeds = [of_seed(each, world.quantity, families, of, number)[0] for each in drawn]
            found = over_seeds(world.quantity, seeds)
            half_width = (found.high - found.low) / 2
            held[method].append((found.low <= true <= found.high, found.value - true, half_width))
    rows = []
    for method, all_of in held.items():
        share, bias, width = np.mean(all_of, axis=0)
        case = f"a family of {name}, {num_seeds} seeds"
        rows.append({"case": case, "method": method, "value": share, "bias": bias, "half_width": width})
    return rows


def study(results: Results, repetitions: int) -> pd.DataFrame:
    """Return the rows of equal_entropy.csv."""
    race, rows = results.experiment("race"), []

    def add(part: str, run: str, quantity: str, found: list[dict]) -> None:
        rows.extend({"part": part, "run": run, "quantity": quantity} | each for each in found)

    for quantity in QUANTITIES:
        for run, of in (("evidence", results), ("race", race)):
            add("curve", run, quantity, between_knots(of, quantity))
            add("left out", run, quantity, left_out(of, quantity))
            add("itself", run, quantity, of_itself(of, quantity))
        add("thinned", "race", quantity, thinned(race, quantity, OF_CAPACITY))
    tried = list(product([World.of(race, quantity) for quantity in QUANTITIES], FAMILIES, SEEDS, [repetitions]))
    with ProcessPoolExecutor() as pool:
        for (world, *_), found in zip(tried, pool.map(coverage, *zip(*tried, strict=True)), strict=True):
            add("coverage", "race", world.quantity, found)
    return pd.DataFrame(rows).assign(repetitions=repetitions)


def table(found: pd.DataFrame) -> str:
    """Return the coverage in Markdown: a row for each family, number of seeds and quantity."""
    rows = []
    for (case, quantity), of in found[found["part"] == "coverage"].groupby(["case", "quantity"], sort=False):
        shares = of.set_index("method")["value"]
        rows.append([case, quantity, *(f"{100 * share:.1f} %" for share in shares)])
    return markdown(["", "", *of["method"]], rows)


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--results", type=Path, default=COMMITTED, help="the folder to write (default: figs/results)")
    command.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"draws (default: {REPETITIONS})")
    args = command.parse_args()
    found = study(Results(COMMITTED), args.repetitions)
    text = found.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write_bytes(args.results / "equal_entropy.csv", text.encode())
    of_data = found[found["part"] != "coverage"].drop(columns=["repetitions", "bias", "half_width"])
    say(f"{of_data.to_string(index=False, na_rep='')}\n\n{table(found)}")


if __name__ == "__main__":
    run_entry(main)
