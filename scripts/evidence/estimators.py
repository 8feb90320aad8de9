"""How good the three estimates are where the value is known: on Markov chains that take the place of language models.

    python -m scripts.evidence.estimators
    python -m scripts.evidence.estimators --repetitions 200 --results /tmp/results

A chain has 30 ids and an end, and at most 24 steps; p*'s logits are random, and the student's are p*'s with noise.
Only the last id matters, so the mean over all 30 ** 24 sequences is a sum over steps. In one setting 3 of 4 sequences
of p* end by themselves, in the other 3 of 1,000: there most sets of 100 have none that does. Of each repetition's
sequences come the plain, the exact and the regression's estimate per token (llm/metrics.py), each with its 95 %
interval; that of the first two is of a ratio of sums. Writes estimators.csv and prints it. A minute; needs no torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from llm.machine.processes import run_entry, say
from llm.metrics import QUANTITIES, SHARED, Scored, SequenceEstimate, cross_entropy, mean_ratio
from llm.results.sequences import TERMS
from llm.settings import config
from llm.store import files
from scripts.analysis.results import COMMITTED

NUM_IDS, NUM_STEPS, END = 30, 24, 30
DEVIATION, NOISE = 1.5, 0.7  # of p*'s logits, and of what the student's are off by
ENDS = {"often": 1.2, "seldom": -5.0}  # the mean logit of the end, whose deviation is 1
SIZES = (100, 250, 1000)  # sequences
REPETITIONS, AT_ONCE = 1000, 100
ESTIMATORS = ("plain", "exact", "regression")


@dataclass(frozen=True)
class Chain:
    """A model of sequences. log_probs: [ids, ids + 1], of the next id or the end after each id; id 0 stands first."""

    log_probs: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray) -> "Chain":
        """Return the chain with some logits."""
        return cls(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))

    def draw(self, num: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the id before each step and the id at it, [num, steps] each; -1 after the end."""
        cumulative = np.exp(self.log_probs).cumsum(1)
        cumulative[:, -1] = 1.0
        stacked = (cumulative + np.arange(NUM_IDS)[:, None]).ravel()  # the row of an id is from its number to the next
        before = np.full((num, NUM_STEPS), -1)
        at = np.full((num, NUM_STEPS), -1)
        last, rows = np.zeros(num, int), np.arange(num)
        for step in range(NUM_STEPS):
            drawn = np.searchsorted(stacked, last + generator.random(len(rows)), side="right") - last * (NUM_IDS + 1)
            drawn = np.minimum(drawn, END)
            before[rows, step], at[rows, step] = last, drawn
            rows, last = rows[drawn != END], drawn[drawn != END]
        return before, at


def models(ends: str) -> tuple[Chain, Chain]:
    """Return p* and a student, the same at each call."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, DEVIATION, (NUM_IDS, NUM_IDS + 1))
    logits[:, END] = generator.normal(ENDS[ends], 1, NUM_IDS)
    return Chain.of(logits), Chain.of(logits + generator.normal(0, NOISE, logits.shape))


def expectations(q: Chain, p: Chain) -> np.ndarray:
    """Return [ids]: the mean under q of log p of what comes after each id."""
    return (np.exp(q.log_probs) * p.log_probs).sum(1)


def score(q: Chain, p: Chain, before: np.ndarray, at: np.ndarray) -> Scored:
    """Return the scores of sequences of q by itself and by p."""
    there = at >= 0

    def total(values: np.ndarray) -> np.ndarray:
        return np.where(there, values, 0).sum(1)

    log_q, log_p = total(q.log_probs[before, at]), total(p.log_probs[before, at])
    expected_q, expected_p = total(expectations(q, q)[before]), total(expectations(q, p)[before])
    ended, expected_ended = (at == END).any(1).astype(float), total(np.exp(q.log_probs[:, END])[before])
    return Scored(there.sum(1), log_q, expected_q, log_p, expected_p, ended, expected_ended)


def exact_values(q: Chain, p: Chain) -> dict[str, float]:
    """Return each term of E_q[log p] per token, by the probabilities of standing at each id at each step."""
    reached = np.zeros((NUM_STEPS, NUM_IDS))
    reached[0, 0] = 1
    for step in range(1, NUM_STEPS):
        reached[step] = reached[step - 1] @ np.exp(q.log_probs[:, :END])
    log_q, log_p = (float((reached @ expectations(q, each)).sum() / reached.sum()) for each in (q, p))
    return {"log_likelihood": log_p, "entropy": -log_q, "kl": log_q - log_p}


def estimates(scored: Scored) -> dict[tuple[str, str], SequenceEstimate]:
    """Return {(term, estimator): estimate} per token of one repetition's sequences."""
    found, regressions = {}, cross_entropy(scored)
    for term, (plain, exact) in scored.terms.items():
        found[term, "plain"] = mean_ratio(plain, scored.num_scored)
        found[term, "exact"] = mean_ratio(exact, scored.num_scored)
        found[term, "regression"] = getattr(regressions, term)
    return found


def repeat(q: Chain, p: Chain, num: int, repetitions: int, generator: np.random.Generator) -> dict[tuple, np.ndarray]:
    """Return {(term, estimator): [repetitions, 3]}: the value, and the ends of its interval, of num sequences each."""
    found: dict[tuple, list] = {}
    for start in range(0, repetitions, AT_ONCE):
        now = min(AT_ONCE, repetitions - start)
        before, at = q.draw(now * num, generator)
        for rows in np.split(np.arange(now * num), now):
            for key, each in estimates(score(q, p, before[rows], at[rows])).items():
                estimate = each.estimate
                found.setdefault(key, []).append((estimate.value, estimate.low, estimate.high))
    return {key: np.array(each) for key, each in found.items()}


def study(ends: str, num: int, repetitions: int) -> list[dict]:
    """Return a row for each quantity and estimator, of sets of num sequences."""
    truth, student = models(ends)
    generator = np.random.default_rng([list(ENDS).index(ends), num])
    sides = {side: pair for side, pair in (("own", (student, truth)), ("shared", (truth, student)))}
    found = {side: repeat(*pair, num, repetitions, generator) for side, pair in sides.items()}
    rows = []
    for quantity in QUANTITIES:
        term, side = TERMS[quantity], "shared" if quantity in SHARED else "own"
        exact = exact_values(*sides[side])[term]
        plain = found[side][term, "plain"][:, 0].var(ddof=1)
        for estimator in ESTIMATORS:
            value, low, high = found[side][term, estimator].T
            row = {"ends": ends, "num_sequences": num, "quantity": quantity, "estimator": estimator, "exact": exact}
            row |= {"bias": value.mean() - exact, "bias_error": value.std(ddof=1) / repetitions**0.5}
            row |= {"variance": value.var(ddof=1), "ratio": value.var(ddof=1) / plain}
            rows.append(row | {"coverage": ((low <= exact) & (exact <= high)).mean(), "repetitions": repetitions})
    return rows


def table(found: pd.DataFrame) -> str:
    """Return the rows in Markdown."""
    header = ["p* ends", "sequences", "quantity", "estimate", "value", "bias", "variance", "of the plain one's"]
    lines = [f"| {' | '.join([*header, 'intervals that hold it'])} |", f"|{'---|' * (len(header) + 1)}"]
    for row in found.itertuples():
        cells = [row.ends, f"{row.num_sequences:,}", QUANTITIES[row.quantity], row.estimator, f"{row.exact:.3f}"]
        cells += [f"{row.bias:.5f} ± {row.bias_error:.5f}", f"{row.variance:.2e}", f"{row.ratio:.3f}"]
        lines.append(f"| {' | '.join([*cells, f'{100 * row.coverage:.1f} %'])} |")
    return "\n".join(lines)


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--results", type=Path, default=COMMITTED, help="the folder to write (default: figs/results)")
    command.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"sets (default: {REPETITIONS})")
    args = command.parse_args()
    rows = [row for ends in ENDS for num in SIZES for row in study(ends, num, args.repetitions)]
    found = pd.DataFrame(rows)
    text = found.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write_bytes(args.results / "estimators.csv", text.encode())
    say(table(found))


if __name__ == "__main__":
    run_entry(main)
