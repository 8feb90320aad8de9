"""The students of an experiment by what they minimise: their names for people, and each one beside the control."""

from dataclasses import dataclass

from llm.distributions import DIRECT
from llm.intervals import Estimate
from llm.settings.students import Student
from scripts.analysis.advantage import Apart, over_control
from scripts.analysis.results import Results

LOSSES = {
    "hard": "likelihood",
    "kl_teacher_student": "forward KL",
    "kl_student_teacher": "reverse KL",
    "jensen_shannon": "Jensen-Shannon",
    "skewed_kl_teacher_student": "skewed forward KL",
    "skewed_kl_student_teacher": "skewed reverse KL",
    "top_k": "top k",
    "top_k_tail": "top k and tail",
    "sampled": "drawn ids",
}
SYMBOLS = {"beta": "β", "lambda": "λ", "k": "k", "m": "m"}
PREFIXES = {"ground_truth": "D", "teacher": "D'_τ", "student": "its own"}


@dataclass(frozen=True)
class Described:
    """A student: the name of its model, its loss, whose prefixes it learned after, and tau, None of the direct one."""

    model: str
    loss: str
    prefixes: str
    tau: float | None
    parameters: str = ""

    @property
    def objective(self) -> str:
        """Return the loss in words, with its parameter."""
        return f"{LOSSES[self.loss]}{', ' if self.parameters else ''}{self.parameters}"

    @property
    def after(self) -> str:
        """Return whose sequences it learned after, in words."""
        return PREFIXES[self.prefixes]

    @property
    def label(self) -> str:
        """Return all of it, on a line."""
        tau = "" if self.tau is None else f", τ = {self.tau:g}"
        return f"{self.objective} on {self.after}{tau}"


def described(results: Results) -> list[Described]:
    """Return the direct student, those of the teacher's samples, and those with another loss, in the run's order."""
    found = [Described(DIRECT, "hard", "ground_truth", None)]
    found += [Described(name, "hard", "teacher", tau) for name, tau in results.taus.items()]
    for values in results.provenance["experiment"]["students"]:
        student = Student.model_validate(values)
        parameters = ", ".join(f"{SYMBOLS[name]} = {value:g}" for name, value in student.parameters.items())
        if student.hard_weight:
            parameters += f", with {student.hard_weight:g} of likelihood"
        found.append(Described(student.name, student.loss, student.prefixes, student.temperature, parameters))
    return found


def beside_control(results: Results, student: Described) -> dict[str, Estimate] | str:
    """Return {quantity: what a student has over the direct student that is sampled to the same self-entropy}.

    Where the direct student does not reach its self-entropy in every seed, say so instead.
    """
    member = (student.model, 1.0)
    try:
        return {quantity: found.members[member] for quantity, found in over_control(results, [member]).items()}
    except Apart as apart:
        return apart.where
