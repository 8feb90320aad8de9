"""A distilled student by what defines it: its loss, after whose prefixes it is taken, and the teacher's temperature."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator

from llm.distributions import tau_name


def _holds_logits(tau: float) -> float:
    """Return tau; ValueError where float32 could not hold logits / tau, up to logits of 10 ** 8."""
    if tau < 1e-30:
        raise ValueError("at least 1e-30, below which float32 cannot hold logits / tau")
    return tau


Temperature = Annotated[float, AfterValidator(_holds_logits)]
Between = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Loss = Literal[
    "hard",
    "kl_teacher_student",
    "kl_student_teacher",
    "jensen_shannon",
    "skewed_kl_teacher_student",
    "skewed_kl_student_teacher",
    "top_k",
    "top_k_tail",
    "sampled",
]
PARAMETERS = {  # of the losses that have one
    "jensen_shannon": "beta",
    "skewed_kl_teacher_student": "lambda",
    "skewed_kl_student_teacher": "lambda",
    "top_k": "k",
    "top_k_tail": "k",
    "sampled": "m",
}


class Student(BaseModel):
    """A student that learns from the teacher's next-token distribution. Its losses: llm/objectives/losses.py."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    loss: Loss = Field(description="a function of llm/objectives/losses.py")
    prefixes: Literal["ground_truth", "teacher", "student"] = Field(
        description="whose sequences: D, the teacher's at the temperature (D'_tau), or the student's own as it learns"
    )
    temperature: Temperature = Field(description="tau that the teacher's logits are divided by")
    beta: Between | None = Field(None, description="of jensen_shannon: the teacher's weight in the mixture")
    lambda_: Between | None = Field(None, alias="lambda", description="of the skewed ones: their DistiLLM lambda")
    k: Count | None = Field(None, description="of top_k and top_k_tail: how many ids of the teacher are seen")
    m: Count | None = Field(None, description="of sampled: how many ids are drawn from the teacher at each prefix")
    hard_weight: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the loss that is -log Q of the id that follows in the sequence"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Student":
        if self.loss == "hard":
            raise ValueError(
                "hard is not to be listed: the direct student has it on D, a student at each of temperatures on the "
                "teacher's samples, and on a student's own prefixes -log Q of ids drawn from Q has no mean gradient"
            )
        wanted = PARAMETERS.get(self.loss)
        for name in sorted(set(PARAMETERS.values())):
            given = self.parameters.get(name)
            if (given is None) == (name == wanted):
                raise ValueError(f"{self.loss} {'needs' if name == wanted else 'has no'} {name}")
        if self.hard_weight and self.prefixes == "student":
            raise ValueError("hard_weight on a student's own prefixes: -log Q of ids drawn from Q has no mean gradient")
        return self

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """What a profile says: the parameters of other losses are not there."""
        of_all = {"loss": self.loss, "prefixes": self.prefixes, "temperature": self.temperature}
        return of_all | self.parameters | ({"hard_weight": self.hard_weight} if self.hard_weight else {})

    @property
    def parameters(self) -> dict[str, float | int]:
        """The parameter of its loss by name, if it has one."""
        found = {"beta": self.beta, "lambda": self.lambda_, "k": self.k, "m": self.m}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def name(self) -> str:
        """student_jensen_shannon_beta0.5_on_teacher_tau0.80: the name of its model."""
        parts = ["student", self.loss, *(f"{name}{value}" for name, value in self.parameters.items())]
        if self.hard_weight:
            parts.append(f"hard{self.hard_weight}")
        return "_".join([*parts, "on", self.prefixes, tau_name(self.temperature)])


def refusal(students: Sequence[Student], temperatures: Sequence[float], vocab_size: int | None) -> str | None:
    """Return what is wrong with a list of students in an experiment; None where nothing is. vocab_size: if known."""
    names = [student.name for student in students]
    for i, student in enumerate(students):
        if student.name in names[:i]:
            return f"students has {student.name} twice"
        if vocab_size is not None and (student.k or 0) > vocab_size:
            return f"students[{i}].k is {student.k}: it must be at most the vocabulary's {vocab_size} ids"
        if student.prefixes == "teacher" and student.temperature not in temperatures:
            told = "the teacher's samples are at those in temperatures"
            return f"students[{i}].temperature is {student.temperature}: {told}"
    return None
