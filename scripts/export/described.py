"""What a card says of a run, in words: p*, its language, what a model learned from, and with which objective."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from llm.distributions import GROUND_TRUTH, TEACHER, Distribution
from llm.models.sources import HUB_ID
from llm.pipeline import SECOND, Work
from llm.run import Run
from scripts.analysis.objectives import LOSSES, SYMBOLS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_PROMPTS = 10  # that a card lists
FORMULAS = {
    "kl_teacher_student": "KL(P ‖ Q)",
    "kl_student_teacher": "KL(Q ‖ P)",
    "jensen_shannon": "(β KL(P ‖ M) + (1 − β) KL(Q ‖ M)) / (β (1 − β)) with the mixture M = β P + (1 − β) Q",
    "skewed_kl_teacher_student": "KL(P ‖ λ P + (1 − λ) Q)",
    "skewed_kl_student_teacher": "KL(Q ‖ (1 − λ) P + λ Q)",
    "top_k": "KL(P' ‖ Q), P' being P over its k largest ids, made to sum to 1",
    "top_k_tail": "the KL of P over its k largest ids and, as one more, all others together, from Q over the same",
    "sampled": "the mean of −log Q over m ids that are drawn from P",
}


def code(text: str) -> str:
    """Return text as code in Markdown, whatever it holds; on one line."""
    fence = "`"
    while fence in text:
        fence += "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.splitlines())}{pad}{fence}"


def hub_id(spec: str | dict) -> str | None:
    """Return the hub id that a model's name is; None for a mapping, a directory, a file or a package's file."""
    if isinstance(spec, dict) or spec.endswith(".gguf") or Path(spec).expanduser().is_dir():
        return None
    return spec if HUB_ID.fullmatch(spec) else None


def source(spec: str | dict) -> str:
    """Return where a model comes from; of a local file or directory its name alone, since a card is for others."""
    if isinstance(spec, dict):
        return f"{code(spec['model_type'])} with random weights"
    if spec.startswith("package://"):
        package, _, name = spec.removeprefix("package://").partition("/")
        return f"{code(name)} of the Python package {code(package)}"
    if found := hub_id(spec):
        return code(found)
    return f"a local copy named {code(Path(spec).name)}"


def distribution(each: Distribution) -> str:
    """Return a distribution's name for people, with its temperature."""
    tau = f" at temperature {each.temperature:g}"
    if each.model == GROUND_TRUTH:
        return f"p*{tau}"
    name = "the teacher" if each.model == TEACHER else code(each.model)
    return f"{name} of seed {each.seed}{tau}"


def vocabulary(run: Run) -> str:
    """Return what the ids are."""
    num = run.language.vocab_size
    if run.experiment.vocab_size is None:
        return f"all {num:,} ids of p*"
    return f"the first {num:,} ids of p* alone (0 to {num - 1}); p* is renormalised over them"


def prompts(run: Run, tokenizer: "PreTrainedTokenizerBase | None") -> str:
    """Return the prompts as ids and, where there is a tokenizer, as text; the first of many."""
    shown = []
    for ids in run.language.prompts[:MOST_PROMPTS]:
        text = f" ({code(json.dumps(tokenizer.decode(ids), ensure_ascii=False))})" if tokenizer else ""
        shown.append(f"ids {code(str(list(ids)))}{text}")
    if (more := len(run.language.prompts) - MOST_PROMPTS) > 0:
        shown.append(f"and {more:,} others")
    often = "" if len(run.language.prompts) == 1 else "in turn one of these: "
    return often + "; ".join(shown)


def ends(run: Run) -> str:
    """Return how a sequence ends."""
    limit = f"{run.experiment.max_length:,} ids, prompt included"
    ids = " or ".join(map(str, run.language.eos_token_ids))
    return f"with id {ids}, or else at {limit}" if ids else f"at {limit}; no id ends one"


def data(run: Run, work: Work) -> str:
    """Return what a model learned from."""
    e, num = run.experiment, f"{run.experiment.num_train:,} sequences"
    if work.data is None:
        return f"{num} an epoch that it drew itself, at temperature 1, anew every {e.own_prefix_steps} optimiser steps"
    drawn_from = work.data.distribution
    name = {TEACHER: "D'_τ", GROUND_TRUTH: "D"}[drawn_from.model]
    if work.data.split == SECOND:
        name = "second samples of p*, other ones than D"
    return f"{name}: {num}, drawn from {distribution(drawn_from)}"


def objective(work: Work) -> str:
    """Return what a model minimised."""
    if work.student is None:
        return "maximum likelihood: the mean of −log p(id) over the drawn ids of these sequences, ends included"
    student = work.student
    terms = [FORMULAS[student.loss]]
    terms += [f"{SYMBOLS[name]} = {value:g}" for name, value in student.parameters.items()]
    if student.hard_weight:
        terms.append(f"mixed with −log Q of the id that follows (weight {student.hard_weight:g})")
    return (
        f"{LOSSES[student.loss]}: the mean, over the prefixes of these sequences, of {', '.join(terms)}. P is the "
        f"next-token distribution of the teacher of seed {work.by.seed} at temperature {student.temperature:g}, Q the "
        "student's"
    )


def start(run: Run, work: Work) -> str:
    """Return what weights a training began with."""
    checkpoint = run.experiment.checkpoint(work.by.role)
    return "random weights" if checkpoint is None else source(checkpoint)


def length(run: Run, work: Work) -> str:
    """Return how long a model was trained, and which of its checkpoints is the one that is used."""
    epochs = "1 epoch" if work.epochs == 1 else f"{work.epochs} epochs"
    selected = run.selected_epoch(work.by)
    return f"{epochs}; the checkpoint after epoch {selected} was selected, by perplexity on validation samples of p*"


def role(model: Distribution) -> str:
    """Return what a trained model is in the experiment."""
    return "the teacher p'" if model.model == TEACHER else "a student p''"
