"""One experiment is one frozen `Experiment`: what is wrong with a value ends in one line that names the field."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm.machine.processes import UsageError
from llm.settings import placed, students
from llm.settings.placed import Placed
from llm.settings.students import Count, Student, Temperature

Text = Annotated[str, Field(min_length=1)]
ModelConfig = Annotated[dict[str, Any], Field(min_length=1)]
Ids = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, le=0.9999)]
Positive = Annotated[float, Field(gt=0)]
DType = Literal["float32", "bfloat16"]
LEAST_OF_VLLM, MOST_OF_VLLM = 0.01, 2.0  # tau: vLLM raises one below to this, and refuses one above
MOST_SHARDS = 10_000  # of a set, which are all mapped at once; Linux maps 65,530 files for a process


class Experiment(BaseModel):
    """Everything that defines an experiment. Lengths are in tokens, batch sizes in sequences.

    begins: the title of the fields from this one on, in --help.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    ground_truth: Text | ModelConfig = Field(
        description="p*: hub id, directory, .gguf file, package://PACKAGE/FILE.gguf, or a model config, which means "
        "random weights",
        json_schema_extra={"begins": "the distributions"},
    )
    vocab_size: Annotated[int, Field(ge=2)] | None = Field(
        description="keep only the first so many ids of p* (null: all)"
    )
    teacher: Text | ModelConfig | None = Field(
        description="p': a model config, a hub id or directory whose config is used, or {checkpoint: MODEL}, which is "
        "used as it is (null: no teacher and no students)"
    )
    student: Text | ModelConfig | None = Field(
        description="p'': as teacher, but {checkpoint: MODEL} is what its training starts from"
    )
    prompt: (
        Text | Ids | Annotated[tuple[Text, ...], Field(min_length=1)] | Annotated[tuple[Ids, ...], Field(min_length=1)]
    ) = Field(description="what sequences start with: text or token ids, or a list of these which they take in turn")
    chat_template: bool = Field(description="a prompt is what a user says, and p*'s chat template is put around it")
    max_length: int = Field(ge=2, description="longest sequence, prompt included")
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = Field(
        description="tau of the teacher's samples, a student each"
    )
    control_temperatures: tuple[Temperature, ...] = Field(
        description="further tau at which the teacher and the direct student are themselves sampled and evaluated"
    )

    num_train: Count = Field(
        description="training sequences, of p* and of the teacher at each tau",
        json_schema_extra={"begins": "data and seeds"},
    )
    num_validation: Count = Field(description="sequences of p* on which checkpoints are selected")
    num_test: int = Field(ge=2, description="sequences of p* for recall, and of each model for precision")
    seed: int = Field(ge=0, description="seed of every draw; 0 is a seed like any other")
    num_seeds: Count = Field(description="how many teachers are trained on one D, each with its students")

    students: tuple[Student, ...] = Field(
        description="students with another loss: a list of {loss, prefixes, temperature, ...} (settings/students.py)",
        json_schema_extra={"begins": "further students"},
    )
    students_of_truth: bool = Field(
        description="also train students on second samples of p* itself at each tau, which no teacher's error is in"
    )

    placed: tuple[Placed, ...] = Field(
        description="models that exist, which llm.place evaluates: a list of {name, model} (settings/placed.py)",
        json_schema_extra={"begins": "models that exist"},
    )
    baseline: Text | None = Field(
        description="a model that is sampled at every temperature too, for others to be compared with"
    )

    teacher_epochs: Count = Field(description="passes over D", json_schema_extra={"begins": "training"})
    student_epochs: Count = Field(description="passes over a student's training set")
    own_prefix_steps: Count = Field(
        description="optimiser steps between drawings of the prefixes of a student that learns after its own"
    )
    batch_size: Count = Field(description="global batch of an optimiser step, whatever the number of processes")
    learning_rate: Positive = Field(description="AdamW learning rate after warm-up")
    adam_beta1: Beta = Field(description="AdamW beta1")
    adam_beta2: Beta = Field(description="AdamW beta2")
    weight_decay: float = Field(ge=0, description="AdamW weight decay")
    max_grad_norm: Positive = Field(description="gradient clipping")
    warmup_fraction: Fraction = Field(description="share of the steps that warm up")
    decay_fraction: Fraction = Field(description="share of the steps that decay linearly to 0")
    training_dtype: DType = Field(description="forward passes in training; weights stay float32")

    sampling_dtype: DType = Field(
        description="sampling; bfloat16 falls back to float32 where not native",
        json_schema_extra={"begins": "sampling"},
    )
    sampler: Literal["own", "vllm"] = Field(
        description="what draws samples: llm/sampling.py, or vLLM in its own environment (llm/samplers/vllm_shards.py)"
    )

    shard_size: Count = Field(
        description="sequences in a shard of samples", json_schema_extra={"begins": "how it computes"}
    )
    save_steps: Count = Field(description="optimiser steps between states to resume a training from")
    micro_batch_size: Count = Field(description="sequences in one forward-backward pass")
    gradient_checkpointing: bool = Field(description="compute activations twice in training rather than keep them")
    torch_compile: bool = Field(description="compile the models in training (needs a C++ compiler)")
    sampling_batch_size: Count = Field(description="sequences drawn at once, or those that fit")
    scoring_batch_size: Count = Field(description="sequences scored at once")
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = Field(
        description="experiment tracker, through accelerate"
    )

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "Experiment":
        for name in ("temperatures", "control_temperatures"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice: {list(values)}")
        largest = max(self.num_train, self.num_validation, self.num_test)
        if largest > MOST_SHARDS * self.shard_size:
            raise ValueError(f"shard_size {self.shard_size} makes more than {MOST_SHARDS} shards of {largest} in a set")
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction + decay_fraction is above 1")
        if self.sampler == "vllm":
            for tau in self.temperatures + self.control_temperatures:
                if not LEAST_OF_VLLM <= tau <= MOST_OF_VLLM:
                    raise ValueError(f"sampler vllm draws at tau {LEAST_OF_VLLM} to {MOST_OF_VLLM}, and not at {tau}")
        if (self.teacher is None) != (self.student is None):
            raise ValueError("teacher and student: both are models, or both are null")
        if self.teacher is None and (self.students or self.students_of_truth):
            raise ValueError("students or students_of_truth without a teacher and a student")
        for role in self.roles:
            given = self.checkpoint(role)
            if given is not None and (getattr(self, role) != {"checkpoint": given} or not isinstance(given, str)):
                raise ValueError(f"{role} is {getattr(self, role)!r}: beside checkpoint, a model's name, it has no key")
        if self.chat_template and not isinstance(self.prompts[0], str):
            raise ValueError("chat_template is put around text, and prompt is token ids")
        if self.placed and self.teacher is not None:
            raise ValueError("placed and a teacher: models are placed where nothing is trained, by python -m llm.place")
        if wrong := placed.refusal(self.placed, self.baseline):
            raise ValueError(wrong)
        if wrong := students.refusal(self.students, self.temperatures, self.vocab_size):
            raise ValueError(wrong)
        return self

    @property
    def prompts(self) -> tuple[str, ...] | tuple[tuple[int, ...], ...]:
        """The prompts, also where there is one."""
        several = isinstance(self.prompt, tuple) and not isinstance(self.prompt[0], int)
        return self.prompt if several else (self.prompt,)

    def epochs(self, role: str) -> int:
        """Return how often a teacher or a student goes through its training set."""
        return self.teacher_epochs if role == "teacher" else self.student_epochs

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the models that it trains."""
        return () if self.teacher is None else ("teacher", "student")

    def checkpoint(self, role: str) -> str | None:
        """Return where the weights of a teacher come from that exists, or those that students start from; else None."""
        spec = getattr(self, role)
        return spec.get("checkpoint") if isinstance(spec, dict) else None

    def student_of(self, name: str) -> Student | None:
        """Return what defines a distilled student, by the name of its model; None for any other model."""
        return next((each for each in self.students if each.name == name), None)

    def with_values(self, **values: Any) -> "Experiment":
        """Return a copy with other values in some fields; UsageError where one is out of range."""
        return build(self.to_dict() | values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML and JSON values: tuples become lists."""
        return self.model_dump(mode="json")


# The JSON types that each field may have.
TYPES = {
    name: {each.get("type") for each in (schema, *schema.get("anyOf", ()))}
    for name, schema in Experiment.model_json_schema()["properties"].items()
}
LISTS = {"students": Student, "placed": Placed}  # fields that are lists of objects with keys of their own


def _told(fault: dict[str, Any]) -> str:
    """Return what pydantic says of a fault: what the value must be, or what is wrong with several together."""
    return "not empty" if "too_short" in fault["type"] else re.sub("^(Input should be|Value error,) ", "", fault["msg"])


def _one_line(error: ValidationError, values: dict[str, Any]) -> str:
    """Return the first fault of a validation as one line that names the field, its value and what it must be.

    In one of LISTS the field has its place: students[0].beta.
    """
    faults = error.errors()
    first = faults[0]
    if not first["loc"]:
        return _told(first)
    name, *place = first["loc"]
    in_list, keys = name in LISTS, LISTS.get(name, Experiment).model_fields
    label = "".join([name, *(f"[{each}]" if isinstance(each, int) else f".{each}" for each in place * in_list)])
    if first["type"] == "extra_forbidden":
        return f"unknown key {label!r}: the keys are {', '.join(field.alias or key for key, field in keys.items())}"
    if first["type"] == "missing":
        return f"{label} is not set" + ("" if in_list else ": extend a profile that has it, as in 'extends: cpu'")
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return f"{label}: {_told(first)}"
    # A union has a fault for each of its types: those that came furthest into the value are of the type that was meant.
    of_field = [first] if in_list else [fault for fault in faults if fault["loc"][0] == name]
    furthest = max(len(fault["loc"]) for fault in of_field)
    of_field = [fault for fault in of_field if len(fault["loc"]) == furthest]
    wanted = " or ".join(dict.fromkeys(map(_told, of_field)))
    value = of_field[0]["input"] if len(of_field) == 1 else values[name]
    in_quotes = "string" in TYPES[name] and isinstance(value, (bool, int, float))
    return f"{label} is {value!r}: it must be {wanted}" + (f"; as text, in quotes: {str(value)!r}" if in_quotes else "")


def build(values: dict[str, Any]) -> Experiment:
    """Return an `Experiment` from plain values; UsageError for a key unknown or missing, or a value out of range."""
    try:  # by way of JSON, in which a list is what a tuple is read from
        return Experiment.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UsageError(_one_line(error, values)) from None
