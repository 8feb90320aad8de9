"""The families of a run's models, and what one has over another at the same self-entropy (llm/advantage.py)."""

from collections.abc import Sequence

from llm.advantage import QUANTITIES, OfSeed, advantage, of_seed
from llm.distributions import DIRECT, Distribution, truth_student_name
from llm.intervals import Estimate
from llm.processes import UsageError
from scripts.analysis.results import Results

Member = tuple[str, float]  # a model, and the temperature at which it is sampled


class Apart(UsageError):
    """Two families share no self-entropy in a seed, so that there is nothing to compare at an equal one."""

    def __init__(self, seed: int | None, ours: Member, control: Member):
        self.where = f"in seed {seed} they share no self-entropy"
        fault = f"seed {seed}: {ours[0]} and {control[0]} and their kin share no self-entropy"
        super().__init__(f"{fault}: evaluate with other --control_temperatures")


def distilled(results: Results) -> list[Member]:
    """Return the students that are distilled at each tau."""
    return [(name, 1.0) for name in results.taus]


def sampled(results: Results, model: str = DIRECT) -> list[Member]:
    """Return a model, sampled at each temperature at which it was evaluated."""
    return [(model, tau) for tau in results.temperatures(model)]


def of_truth(results: Results) -> list[Member]:
    """Return the students of p*'s own samples at each tau; none where the run has none."""
    names = {distribution.model for distribution in results.sequences.distributions()}
    return [(name, 1.0) for name in map(truth_student_name, results.taus.values()) if name in names]


def by_seed(
    results: Results, quantity: str, ours: Sequence[Member], control: Sequence[Member]
) -> dict[int | None, OfSeed]:
    """Return {seed: the difference of two families}.

    UsageError where a member was not measured; `Apart` where two families share no entropy.
    """
    found = {}
    for seed in results.sequences.seeds(*ours[0]):
        try:
            families = ([Distribution(model, seed, tau) for model, tau in side] for side in (ours, control))
            found[seed] = of_seed(results.controlled, quantity, *families)
        except KeyError as error:
            missing, _ = error.args[0]
            raise UsageError(f"{results.directory} has no scores of {missing}: {results.made_by}") from None
        except ValueError:
            raise Apart(seed, ours[0], control[0]) from None
    return found


def advantages(results: Results, ours: Sequence[Member], control: Sequence[Member]) -> dict[str, Estimate]:
    """Return {quantity: `advantage`} of QUANTITIES. Raises as `by_seed`."""
    return {name: advantage(name, list(by_seed(results, name, ours, control).values())) for name in QUANTITIES}
