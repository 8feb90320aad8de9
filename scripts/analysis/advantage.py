"""The families of a run's models, and what they have over the control, and over each other, at the same self-entropy.

The control is the direct student, sampled at every temperature (llm/results/advantage.py). A model whose self-entropy
the control does not reach in every seed is left out in all of them, and named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llm.distributions import DIRECT, Distribution, truth_student_name
from llm.intervals import Estimate
from llm.machine.processes import UsageError
from llm.results import advantage
from llm.results.advantage import QUANTITIES, OfSeed, mean_difference, of_seed, over_seeds
from llm.settings.students import Student
from scripts.analysis.results import Results

Member = tuple[str, float]  # a model, and the temperature at which it is sampled


class Apart(UsageError):
    """The control reaches none of some models' self-entropies, or two families share none: nothing is compared."""

    def __init__(self, where: str):
        self.where = where
        super().__init__(f"{where}: evaluate with other --control_temperatures")


def distilled(results: Results) -> list[Member]:
    """Return the students that are distilled at each tau."""
    return [(name, 1.0) for name in results.taus]


def sampled(results: Results, model: str = DIRECT) -> list[Member]:
    """Return a model, sampled at each temperature at which it was evaluated."""
    return [(model, tau) for tau in results.temperatures(model)]


def control(results: Results) -> list[Member]:
    """Return the direct student at each temperature at which the control was evaluated."""
    taus = {each.temperature for each in results.controlled.distributions() if each.model == DIRECT}
    return [(DIRECT, tau) for tau in sorted(taus)]


def control_curve(results: Results) -> list[list[float]]:
    """Return [recall, precision] of the control at each temperature, in their order: means over seeds."""
    place = ("recall", "precision")
    if not results.control_epochs:  # the run's own direct student, of which the table alone is enough
        return [[results.mean(quantity, *each).value for quantity in place] for each in sampled(results)]
    found = [[results.controlled.by_seed(quantity, *each) for quantity in place] for each in control(results)]
    return [[float(np.mean([seed.value for seed in by_seed.values()])) for by_seed in each] for each in found]


def of_truth(results: Results) -> list[Member]:
    """Return the students of p*'s own samples at each tau; none where the run has none."""
    names = {distribution.model for distribution in results.sequences.distributions()}
    return [(name, 1.0) for name in map(truth_student_name, results.taus.values()) if name in names]


def teacher_tau(results: Results, member: Member) -> float:
    """Return the temperature at which the teacher of a model was sampled, or p* was; else the model's own."""
    taus = {name: tau for student, tau in results.taus.items() for name in (student, truth_student_name(tau))}
    for values in results.provenance["experiment"].get("students", []):
        taus[Student.model_validate(values).name] = values["temperature"]
    return taus.get(member[0], member[1])


@dataclass(frozen=True)
class OverControl:
    """What models have over the control in one quantity, nats per token.

    members: {model: its offset}, in their order.  pooled: the mean offset of those whose teacher was sampled at
    tau <= 1, None where no such model is left.  left_out: the models whose entropy the control does not reach.
    gap: the widest distance, in nats, of two neighbouring knots with a model between them, of all seeds.
    """

    members: dict[Member, Estimate]
    pooled: Estimate | None
    left_out: tuple[Member, ...]
    gap: float


@dataclass(frozen=True)
class Between:
    """What one family has over another in one quantity, on average at entropies of members from low to high."""

    estimate: Estimate
    low: float
    high: float


def _seeds(results: Results, members: Sequence[Member]) -> list[int | None]:
    return results.controlled.seeds(*members[0])


def _distributions(members: Sequence[Member], seed: int | None) -> list[Distribution]:
    return [Distribution(model, seed, tau) for model, tau in members]


def _entropies(results: Results, members: Sequence[Member], seed: int | None) -> np.ndarray:
    return np.array([results.controlled.estimate("entropy", each).value for each in _distributions(members, seed)])


def _measured(results: Results, function: Callable, *args):
    """Return what a function makes of a run's scores; UsageError naming a member that was not measured."""
    try:
        return function(results, *args)
    except KeyError as error:
        missing, _ = error.args[0]
        raise UsageError(f"{results.directory} has no scores of {missing}: {results.made_by}") from None


def _inside(results: Results, members: Sequence[Member]) -> np.ndarray:
    """Return [m] whether the control reaches each model's entropy in every seed."""
    knots = control(results)
    found = [
        advantage.reached(_entropies(results, members, seed), _entropies(results, knots, seed))
        for seed in _seeds(results, members)
    ]
    return np.all(found, axis=0)


def _by_seed(
    results: Results, quantity: str, families: Sequence[Sequence[Member]], numbers: Callable
) -> list[list[OfSeed]]:
    """Return, for each number, its values of the seeds."""
    seeds = _seeds(results, families[0])
    found = []
    for seed in seeds:
        of_families = [_distributions(family, seed) for family in families]
        found.append(
            of_seed(results.controlled, quantity, of_families, _distributions(control(results), seed), numbers)
        )
    return [list(each) for each in zip(*found, strict=True)]


def over_control(results: Results, members: Sequence[Member]) -> dict[str, OverControl]:
    """Return {quantity: what models have over the control} of QUANTITIES.

    `Apart` where the control reaches none of them; UsageError where one was not measured.
    """
    return {quantity: _measured(results, _over_control, quantity, members) for quantity in QUANTITIES}


def pooled_over_control(results: Results, members: Sequence[Member]) -> dict[str, Estimate]:
    """Return {quantity: the pooled number of `over_control`} of QUANTITIES; `Apart` too where there is none."""
    found = {quantity: of.pooled for quantity, of in over_control(results, members).items()}
    if None in found.values():
        raise Apart("the direct student never has the self-entropy of those with a teacher at τ of 1 or less")
    return found


def _kept(results: Results, members: Sequence[Member]) -> tuple[list[Member], list[Member]]:
    """Return the models whose entropy the control reaches in every seed, and the others. `Apart` where it is none."""
    inside = _inside(results, members)
    kept, left_out = ([m for m, is_in in zip(members, inside, strict=True) if is_in == want] for want in (True, False))
    if not kept:
        raise Apart("the direct student never has their self-entropy, in one seed or more")
    return kept, left_out


def _over_control(results: Results, quantity: str, members: Sequence[Member]) -> OverControl:
    kept, left_out = _kept(results, members)
    pooled = [k for k, member in enumerate(kept) if teacher_tau(results, member) <= 1]

    def numbers(family: np.ndarray) -> list[float]:
        return [*family[1], *([family[1, pooled].mean()] if pooled else [])]

    found = [over_seeds(quantity, seeds) for seeds in _by_seed(results, quantity, [kept], numbers)]
    knots = control(results)
    gaps = [
        advantage.widest_gap(_entropies(results, kept, seed), _entropies(results, knots, seed))
        for seed in _seeds(results, kept)
    ]
    of_members = dict(zip(kept, found, strict=False))
    return OverControl(of_members, found[-1] if pooled else None, tuple(left_out), max(gaps))


def between(results: Results, ours: Sequence[Member], others: Sequence[Member]) -> dict[str, Between]:
    """Return {quantity: what one family has over another at equal self-entropy} of QUANTITIES.

    `Apart` where they share no entropy, or the control reaches none of a family; UsageError where a model was not
    measured.
    """
    return {quantity: _measured(results, _between, quantity, ours, others) for quantity in QUANTITIES}


def _between(results: Results, quantity: str, ours: Sequence[Member], others: Sequence[Member]) -> Between:
    families = [_kept(results, each)[0] for each in (ours, others)]
    try:
        (found,) = _by_seed(results, quantity, families, lambda *both: [mean_difference(*both)])
    except advantage.Apart as apart:
        raise Apart(f"{apart}, in one seed or more") from None
    reach = [[_entropies(results, each, seed) for each in families] for seed in _seeds(results, ours)]
    low = np.mean([max(each.min() for each in seed) for seed in reach])
    high = np.mean([min(each.max() for each in seed) for seed in reach])
    return Between(over_seeds(quantity, found), float(low), float(high))


def lost_between(ours: Results, others: Results, members: Sequence[Member]) -> dict[str, Estimate]:
    """Return {quantity: what models have over their run's control, less the same in another run} of QUANTITIES.

    The mean offset of the members that the control reaches in both. Of one seed each, whose test sequences are the same
    and all else is its own; ValueError where a run has several seeds. `Apart` where no member is left.
    """
    kept = [member for member in _kept(ours, members)[0] if member in _kept(others, members)[0]]
    if not kept:
        raise Apart("the direct student never has their self-entropy, in one of the runs")
    found = {}
    for quantity in QUANTITIES:
        sides = [_by_seed(each, quantity, [kept], lambda family: [family[1].mean()])[0] for each in (ours, others)]
        ((first,), (second,)) = sides
        found[quantity] = (first - second).estimate
    return found
