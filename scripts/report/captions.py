"""What each figure shows and what it says, two sentences from the numbers of our results.

A sentence states a direction only where the interval of a difference excludes 0.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER
from llm.intervals import Estimate
from llm.results.advantage import QUANTITIES as ADVANTAGES
from scripts.analysis.advantage import Apart, distilled, over_control
from scripts.analysis.results import Results
from scripts.report.pages import Figure

# {figure: what a reader would see, without what the numbers say; the function that reads them}
FIGURES: dict[str, tuple[str, Callable[[Results], str]]] = {}


def shows(alt: str) -> Callable:
    """Return a decorator that makes a function the reading of the figure of its name, which looks as alt says."""

    def register(reading: Callable[[Results], str]) -> Callable[[Results], str]:
        FIGURES[reading.__name__] = (alt, reading)
        return reading

    return register


def figure(name: str, results: Results, directory: Path) -> Figure:
    """Return a figure of a directory with what it shows and what it says."""
    alt, reading = FIGURES[name]
    return Figure(directory / f"{name}.png", alt, reading(results))


def relation(change: Estimate) -> str:
    """Return how the first side of a difference stands to the other."""
    if change.low > 0:
        return f"higher by {change}"
    if change.high < 0:
        return f"lower by {-change}"
    return f"not separated (difference {change})"


def lowest(results: Results) -> tuple[str, float, str]:
    """Return the name of the student that is distilled at the lowest tau, that tau, and what a sentence calls it."""
    name, tau = next(iter(results.taus.items()))
    return name, tau, f"the student distilled at τ = {tau:g}"


def relations(results: Results, *quantities: str, direct_at: float = 1.0) -> tuple[list[str], str]:
    """Return how that student stands to the direct one in each quantity, and what the intervals are over.

    direct_at: the temperature at which the direct student is sampled.
    """
    name, _, _ = lowest(results)
    found = [results.difference(quantity, (name, 1.0), (DIRECT, direct_at)) for quantity in quantities]
    bases = dict.fromkeys(results.over(quantity) for quantity in quantities)
    return [relation(change) for change in found], "; ".join(bases)


def sampled(results: Results) -> dict[str, str]:
    """Return {what a sentence calls it: model} of p*, the direct student and the one of the lowest tau."""
    name, _, called = lowest(results)
    return {"p*": GROUND_TRUTH, "the direct student": DIRECT, called: name}


# ------------------------------------------------------------------------------------- one function a figure


@shows(
    "Scatter plot of precision against recall, with error bars: the teacher, the direct student, a line through the "
    "distilled students in the order of τ, and a dotted line through the direct student sampled at each τ."
)
def plane(results: Results) -> str:
    told = (
        "Each mark is a model, with 95 % intervals. The dotted line is the control that the paper lacks: the direct "
        "student itself, sampled at each τ without a teacher. "
    )
    try:
        found = over_control(results, distilled(results))
    except Apart as apart:
        return f"{told}The distilled students are not compared with it at equal self-entropy: {apart.where}."
    if found["recall"].pooled is None:
        return f"{told}At equal self-entropy it is compared with no student of a τ of 1 or less."
    precision, recall = (relation(of.pooled) for of in found.values())
    basis = "; ".join(f"{name} {results.over(name)}" for name in ADVANTAGES)
    return (
        f"{told}Against it, at equal self-entropy, the precision of the distilled students of τ ≤ 1 is on average "
        f"{precision} and their recall {recall}, in nats per token ({basis})."
    )


@shows(
    "Diagram: p* is sampled into D, from which teacher and direct student are fitted; the teacher is sampled at "
    "temperature τ into D'_τ, from which the distilled student is fitted."
)
def overview(results: Results) -> str:
    experiment = results.provenance["experiment"]
    taus = ", ".join(f"{tau:g}" for tau in sorted(experiment["temperatures"]))
    return (
        "The pipeline (the paper's figure 3): samples D of the ground truth p* train the teacher p' and the direct "
        f"student, and samples D'_τ of the teacher train the distilled ones. Here τ is {taus}, and each training set "
        f"has {experiment['num_train']:,} sequences."
    )


@shows(
    "Five panels in the plane: the ring of eight Gaussians with points, the direct student's contours, the "
    "teacher's contours, the sharpened teacher's samples, and the contours of both students."
)
def mog_panels(results: Results) -> str:
    table, settings = results.mixture["table"], results.mixture["settings"]
    (p_direct, p_distilled), (r_direct, r_distilled) = (
        [table[f"{quantity} {student}"]["as defined"]["exact"] for student in ("direct", "distilled")]
        for quantity in ("precision", "recall")
    )
    return (
        f"Section 3 of the paper on one draw: p* and its {settings['num_data']:,} points, the direct student, the "
        f"teacher, the teacher's samples at β = {settings['beta']:g}, and the student that learns from them. From the "
        f"direct student to the distilled one precision goes from {p_direct:.2f} to {p_distilled:.2f} and recall from "
        f"{r_direct:.2f} to {r_distilled:.2f} nats per sample, as the paper defines them."
    )


@shows("Four panels of curves with bands over the teacher's entropy: precision, its terms, recall, and its terms.")
def mog_tradeoff(results: Results) -> str:
    tradeoff = results.mixture["tradeoff"]
    entropy = tradeoff["teacher_entropy"]
    ends = int(np.argmax(entropy)), int(np.argmin(entropy))
    precision, recall = (" to ".join(f"{tradeoff[q]['median'][k]:.2f}" for k in ends) for q in ("precision", "recall"))
    return (
        "Precision, recall and their terms over the entropy of the sharpened teacher's weights, medians and 95 % "
        f"ranges over {tradeoff['num_seeds']:,} seeds. From the least selective teacher ({entropy[ends[0]]:.2f} nats) "
        f"to the most selective one ({entropy[ends[1]]:.2f} nats) the median precision goes from {precision} and the "
        f"median recall from {recall} nats per sample."
    )


@shows(
    "Precision against recall in the mixture of Gaussians: the curves of distilled and of shrunk direct students, "
    "and the frontier of all single Gaussians."
)
def mog_control(results: Results) -> str:
    gain = results.mixture["control"]["distilled_minus_shrunk_at_equal_entropy"]
    parts = (f"in {q} {{median:.2f}} [{{low:.2f}}, {{high:.2f}}]".format(**gain[q]) for q in ("precision", "recall"))
    return (
        "The control that the paper lacks: the direct student, shrunk without any teacher, beside the distilled one. "
        f"At equal entropy the distilled student minus the shrunk one is {' and '.join(parts)} nats per sample "
        f"(medians and 95 % ranges over seeds), above 0 in {gain['precision']['share_higher']:.1%} and "
        f"{gain['recall']['share_higher']:.1%} of the seeds."
    )


@shows(
    "Scatter plot of precision against recall, with error bars: the teacher, the direct student, and a line "
    "through the distilled students in the order of τ."
)
def precision_recall(results: Results) -> str:
    (precision, recall), basis = relations(results, "precision", "recall")
    return (
        "A point for each model, with 95 % intervals (the paper's figure 4). "
        f"Of {lowest(results)[2]}, against the direct student, precision is {precision} and recall "
        f"{recall}, in nats per token ({basis})."
    )


@shows("Chart of the terms of precision and recall for each model: entropy and the two Kullback-Leibler divergences.")
def decomposition(results: Results) -> str:
    (entropy, kl_to, kl_from), basis = relations(results, "entropy", "kl_to_ground_truth", "kl_from_ground_truth")
    return (
        "Precision is −H(p'') − KL(p'' ‖ p*) and recall −H(p*) − KL(p* ‖ p''), each term in nats per token. "
        f"Of {lowest(results)[2]}, against the direct student, H(p'') is {entropy}, KL(p'' ‖ p*) "
        f"{kl_to} and KL(p* ‖ p'') {kl_from} ({basis})."
    )


@shows("Curves of the mean log-probability over the position of the generated token, for precision and for recall.")
def positions(results: Results) -> str:
    name, _, called = lowest(results)
    parts = []
    for label, model in ((called, name), ("the direct student", DIRECT)):
        seed, curve = next(iter(results.by_position("precision", model).items()))
        first, last = curve.iloc[0], curve.iloc[-1]
        parts.append(
            f"of {label} goes from {first['value']:.3f} at the first generated token to {last['value']:.3f} at token "
            f"{last['position']}, which {last['num_sequences']:,} of its sequences reach"
        )
    return (
        "Precision and recall by position: the log-probability of the t-th generated token, its exact mean over that "
        "token, and the mean of this over the sequences that are that long. The precision "
        f"{', and that '.join(parts)} (seed {seed})."
    )


@shows(
    "Precision against recall of distilled students and, where there are any, of students of p*'s own samples, beside "
    "teacher and direct student sampled at each temperature; and, over the entropy of its samples, what each distilled "
    "student has over the direct student that is sampled to the same entropy."
)
def control(results: Results) -> str:
    _, tau, called = lowest(results)
    (precision, recall), basis = relations(results, "precision", "recall", direct_at=tau)
    return (
        "The control that the paper lacks: the teacher and the direct student sampled at τ, with no distillation. "
        f"Of {called}, against the direct student sampled at that τ, precision is {precision} and recall is {recall}, "
        f"in nats per token ({basis})."
    )


@shows("Two panels over the entropy per token of the teacher's samples: precision and recall of the students.")
def teacher_entropy(results: Results) -> str:
    *_, high = results.taus.values()
    low = lowest(results)[1]
    change = results.difference("training_set_entropy", (TEACHER, low), (TEACHER, high))
    of_low, basis = results.mean("training_set_entropy", TEACHER, low), results.over("entropy")
    return (
        "Precision and recall of the distilled students over the entropy of what they learn from, D'_τ, per token and "
        f"from the sampler's own log-probabilities. At τ = {low:g} that entropy is {of_low} nats, against "
        f"τ = {high:g} {relation(change)} ({basis})."
    )


@shows("Points in two dimensions, a panel for each student: embeddings of its samples among those of p*'s samples.")
def embeddings(results: Results) -> str:
    num = {len(each) for each in results.embeddings.values()}
    return (
        "A map in two dimensions (UMAP) of p*'s embeddings of its own samples and of the students', of seed 0, "
        f"{min(num):,} of each (the paper's figure 5). It is a picture: what it shows of distances is not to be "
        "trusted, and no verdict rests on it."
    )


@shows("Lengths at which sequences end by themselves, and how many do, for p* and each model.")
def lengths(results: Results) -> str:
    parts = []
    for label, model in sampled(results).items():
        stops, tokens = (results.mean(quantity, model).value for quantity in ("stop_rate", "mean_length"))
        parts.append(f"{stops:.1%} of {label} ({tokens:.1f} tokens on average)")
    return (
        "How many tokens are generated until a sequence ends or reaches the longest length. "
        f"Of the sequences, these shares end by themselves: {', '.join(parts)}."
    )


@shows("Repetition within sequences and across the samples, by n-grams, for p* and each model.")
def repetition(results: Results) -> str:
    parts = (f"{results.mean('repetition_4', name).value:.3f} for {label}" for label, name in sampled(results).items())
    return (
        "Rep-n is the mean share of a sequence's n-grams that repeat an earlier one (Welleck et al. 2020), distinct-n "
        f"the share of distinct n-grams in all the samples (Li et al. 2016). Rep-4 is {', '.join(parts)}."
    )
