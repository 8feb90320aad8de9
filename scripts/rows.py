"""The rows of a result, as `llm.eval_precision_and_recall` writes it: one a model and seed, in the order of figures."""

from llm import likelihood
from llm.likelihood import Estimate
from llm.paths import DIRECT, TEACHER, student_name


def taus(result: dict) -> dict[str, float]:
    """{distilled student: its tau}, from the most selective teacher to the least."""
    return {student_name(tau): tau for tau in sorted(result["experiment"]["temperatures"])}


def labels(result: dict) -> dict[str, str]:
    """{model: its short name}, in the order of the figures: the teacher, the direct student, the distilled ones."""
    return {TEACHER: "teacher", DIRECT: "direct"} | {name: rf"$\tau={tau:g}$" for name, tau in taus(result).items()}


def rows_of(result: dict, model: str) -> list[dict]:
    """The rows of one model, one a seed; KeyError where there is none."""
    rows = [row for row in result["models"] if row["model"] == model]
    if not rows:
        raise KeyError(model)
    return rows


def per_token(rows: list[dict], quantity: str) -> list[dict]:
    """A quantity's estimate for each row, nats per token."""
    return [row["per_token"][quantity] for row in rows]


def over_seeds(estimates: list[dict]) -> Estimate:
    """`llm.likelihood.over_seeds` of a quantity's estimates as a file has them."""
    return likelihood.over_seeds([Estimate(**each) for each in estimates])
