"""The list of works that an experiment consists of, stated once.

A work is one thing that a run makes: a sample set, a trained model, a selection, scores. The stages do the works of
their script, a dry run prints them, and scripts/costs prices them. Each work knows on which fields of the experiment
its result depends. So a finished run can be extended by temperatures, seeds or test sequences: the stages make what
is missing, and leave alone what is there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, Distribution, SampleSet, student_name, truth_student_name
from llm.settings.experiment import Experiment
from llm.settings.students import Student

TRUTH = Distribution(GROUND_TRUTH)
SPLITS = {"train": "num_train", "validation": "num_validation", "test": "num_test"}  # of p*, and the field of its size
SECOND = "second"  # the split of p*'s samples at tau that students of p* itself learn from; at tau = 1, another D
LAST = "_last"  # ends the name of a model at its last epoch, where another one is selected
CONTROLS = (TEACHER, DIRECT)  # also sampled at each temperature themselves, which is the control of distillation
GENERATE, TRAIN, SELECT, EVALUATE = SCRIPTS = (
    "run_generate_data.sh",
    "run_train.sh",
    "run_eval_perplexity.sh",
    "run_eval_precision_and_recall.sh",
)

# -------------------------------------------------------------------------------------------------- works

PREPARED_FROM = ("ground_truth", "vocab_size", "prompt", "chat_template", "seed")
DRAWN_WITH = (*PREPARED_FROM, "max_length", "sampling_dtype", "sampler", "shard_size")
TRAINED_WITH = ("seed", "num_train", "batch_size", "learning_rate", "adam_beta1", "adam_beta2", "weight_decay")
TRAINED_WITH += ("max_grad_norm", "warmup_fraction", "decay_fraction", "training_dtype")


@dataclass(frozen=True)
class Work:
    """One thing that a run makes with the weights of the distribution `by`, in the stage of a script.

    kind: "prepare" (keep p* as it is used), "keep" (copy a model that exists, over p*'s ids, from its source), "sample"
    (draw `data`), "train" (fit to `data`), "select" (score the checkpoints of all epochs on `data` and choose the
    best), or "score" (score `data`).
    data: None for "prepare" and "keep", and for a student that learns after prefixes of its own.  epochs: how often
    the data are gone through.  student: the definition of a student that has another loss than the likelihood.
    """

    script: str
    kind: str
    by: Distribution
    data: SampleSet | None = None
    epochs: int = 1
    student: Student | None = None
    source: str | None = None

    def __str__(self) -> str:
        if self.kind == "sample":
            return f"sample {self.data}"
        return f"{self.kind} {self.by}" + (f" on {self.data}" if self.data else "")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the experiment on which its result depends; other works that it comes from are not in it."""
        match self.kind:
            case "prepare":
                return PREPARED_FROM
            case "sample":
                return (*DRAWN_WITH, self.grows_with)
            case "train":
                own = () if self.data else ("own_prefix_steps", "max_length")
                return (self.by.role, f"{self.by.role}_epochs", *TRAINED_WITH, *own)
            case "select":
                return ("num_validation",)
        return ()

    @property
    def grows_with(self) -> str | None:
        """The field that may become larger: then a set keeps the sequences that it has, and gets more."""
        return {**SPLITS, SECOND: "num_train"}[self.data.split] if self.kind == "sample" else None

    def made_with(self, experiment: Experiment) -> dict[str, Any]:
        """Return the values of its fields, for the record of what it makes."""
        values = experiment.to_dict()
        return {field: values[field] for field in self.fields}


def models(experiment: Experiment, seed: int) -> list[Distribution]:
    """Return the trained models of a seed: the teacher, the direct student, and others for each temperature.

    These are distilled from the teacher's samples; students with another loss follow and, where the experiment has
    them, students of p* itself.
    """
    if not experiment.roles:
        return []
    names = [TEACHER, DIRECT, *map(student_name, experiment.temperatures)]
    names += [student.name for student in experiment.students]
    if experiment.students_of_truth:
        names += map(truth_student_name, experiment.temperatures)
    return [Distribution(name, seed) for name in names]


def training_set(model: Distribution, experiment: Experiment) -> SampleSet | None:
    """Return what a model is fitted to: D for the teacher and the direct student, D'_tau for a distilled one.

    None for a student that learns after prefixes of its own.
    """
    student = experiment.student_of(model.model)
    if student and student.prefixes == "student":
        return None
    if student and student.prefixes == "teacher":
        return SampleSet(Distribution(TEACHER, model.seed, student.temperature), "train", experiment.num_train)
    for temperature in experiment.temperatures:
        if model.model == truth_student_name(temperature):
            return SampleSet(TRUTH.at(temperature), SECOND, experiment.num_train)
        if model.model == student_name(temperature):
            return SampleSet(Distribution(TEACHER, model.seed, temperature), "train", experiment.num_train)
    return SampleSet(TRUTH, "train", experiment.num_train)


def works(experiment: Experiment) -> list[Work]:
    """Return everything that the four scripts do, in order."""
    e = experiment
    drawn = {split: SampleSet(TRUTH, split, getattr(e, field)) for split, field in SPLITS.items()}
    found = [Work(GENERATE, "prepare", TRUTH), *kept(e)]
    found += [Work(GENERATE, "sample", TRUTH, each) for each in drawn.values()]
    if e.students_of_truth:
        second = [SampleSet(TRUTH.at(tau), SECOND, e.num_train) for tau in e.temperatures]
        found += [Work(GENERATE, "sample", each.distribution, each) for each in second]
    for seed in range(e.num_seeds):
        for model in models(e, seed):
            script = TRAIN if model.model == TEACHER else SELECT
            epochs = e.epochs(model.role)
            if given(e, model) is None:
                found += [
                    Work(TRAIN, "train", model, training_set(model, e), epochs, e.student_of(model.model)),
                    Work(script, "select", model, drawn["validation"], epochs),
                ]
            if model.model == TEACHER:
                sets = [SampleSet(model.at(tau), "train", e.num_train) for tau in e.temperatures]
                found += [Work(TRAIN, "sample", each.distribution, each) for each in sets]
    for distribution in evaluated(e):
        found += evaluation(e, distribution)
    found.append(Work(EVALUATE, "score", TRUTH, drawn["test"]))
    return sorted(found, key=lambda work: SCRIPTS.index(work.script))


def evaluation(experiment: Experiment, distribution: Distribution) -> list[Work]:
    """Return the works that evaluate a distribution."""
    own, test = (SampleSet(each, "test", experiment.num_test) for each in (distribution, TRUTH))
    return [
        Work(EVALUATE, "sample", distribution, own),
        Work(EVALUATE, "score", distribution, own),
        Work(EVALUATE, "score", distribution, test),
        Work(EVALUATE, "score", TRUTH, own),
    ]


def at_last_epoch(model: Distribution) -> Distribution:
    """Return the name of a trained model at its last epoch."""
    return replace(model, model=model.model + LAST)


def trained_as(distribution: Distribution) -> Distribution:
    """Return a distribution of a trained model by the name that the model is trained by, which never ends in LAST."""
    return replace(distribution, model=distribution.model.removesuffix(LAST))


def kept(experiment: Experiment) -> list[Work]:
    """Return the works that keep models which exist: a teacher, what students start from, and those that are placed.

    A teacher and the students' start are the same for all seeds, and have none.
    """
    e = experiment
    roles = [Distribution(role) for role in e.roles if e.checkpoint(role) is not None]
    found = [Work(GENERATE, "keep", each, source=e.checkpoint(each.model)) for each in roles]
    return found + [Work(EVALUATE, "keep", Distribution(each.name, each.seed), source=each.model) for each in e.placed]


def given(experiment: Experiment, distribution: Distribution) -> Work | None:
    """Return the work that keeps a distribution's model, where it exists and is not trained; else None."""
    own = {(distribution.model, distribution.seed), (distribution.model, None)}
    return next((work for work in kept(experiment) if (work.by.model, work.by.seed) in own), None)


def placed(experiment: Experiment) -> list[Distribution]:
    """Return the models that exist already and are put beside the trained ones."""
    return [Distribution(each.name, each.seed) for each in experiment.placed]


def evaluated(experiment: Experiment) -> list[Distribution]:
    """Return what stage 4 evaluates: trained and placed models at temperature 1, then the controls at the others."""
    trained = [model for seed in range(experiment.num_seeds) for model in models(experiment, seed)]
    trained += placed(experiment)
    others = [tau for tau in dict.fromkeys(experiment.temperatures + experiment.control_temperatures) if tau != 1]
    sampled = (*(CONTROLS if experiment.roles else ()), experiment.baseline)
    controls = [model.at(tau) for model in trained if model.model in sampled for tau in others]
    return [*trained, *controls]


def differences(before: Experiment, now: Experiment, is_there: Callable[[Work], bool]) -> list[str]:
    """Return, in words, in what an experiment differs from an earlier one that works which are there depend on."""
    found = []
    for field in Experiment.model_fields:
        old, new = getattr(before, field), getattr(now, field)
        for work in works(before) if old != new else ():
            grows = field == work.grows_with and new > old
            if field in work.fields and not grows and is_there(work):
                found.append(f"{field}: {old!r} there, {new!r} here, which {work} depends on")
                break
    for work in kept(before):
        model = given(now, work.by)
        if model and model.source != work.source and is_there(work):
            found.append(f"{work.by.model}: {work.source!r} there, {model.source!r} here")
    return found
