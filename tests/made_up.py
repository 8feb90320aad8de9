"""A results folder of made-up numbers, for the tests of what is drawn and written from one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from llm import config
from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, student_name
from llm.metrics import QUANTITIES, Estimate
from llm.table import COLUMNS, PER_SEQUENCE, PER_TOKEN
from scripts.analysis.results import Results

TAUS = (0.8, 0.875, 0.95, 1.0)
DISTILLED = [student_name(tau) for tau in TAUS]
STUDENTS = [DIRECT, *DISTILLED]
MODELS = [TEACHER, *STUDENTS]
SELECTIVITY = {DIRECT: 0, TEACHER: 0} | {name: 4 - k for k, name in enumerate(DISTILLED)}
ENTROPY = 2.7  # of p*, nats per token
LENGTH = 30  # scored tokens of a sequence
TEXTS = [
    "The end.",
    "The first | of two\nlines",
    "The 'quoted' <b>text</b> & *stars*",
    "The _",
    "The",
    "The \\ `x`",
]


def around(value: float, half: float = 0.02) -> Estimate:
    return Estimate(float(value), float(value - half), float(value + half))


def row(model: str, seed: int | None, quantity: str, value: float | Estimate, unit=PER_TOKEN, **others) -> dict:
    """Return a row of the table; at temperature 1 unless another is given."""
    named = dict(model=model, seed=seed, epoch=2, temperature=1.0, quantity=quantity, unit=unit, num_sequences=200)
    return named | (vars(value) if isinstance(value, Estimate) else {"value": value}) | others


def likelihoods(model: str, seed: int | None, precision: float, recall: float, entropy: float, **others) -> list[dict]:
    """Return the five quantities in both units; the divergences are what the decomposition leaves."""
    values = (precision, recall, entropy, -precision - entropy, -recall - ENTROPY)
    return [
        row(model, seed, name, around(scale * value, 0.02 * scale), unit, **others)
        for unit, scale in ((PER_TOKEN, 1), (PER_SEQUENCE, LENGTH))
        for name, value in zip(QUANTITIES, values, strict=True)
    ]


def samples(rng: np.random.Generator, model: str, seed: int | None, **others) -> list[dict]:
    """Return what samples are like."""
    lengths = np.bincount(rng.integers(3, LENGTH + 1, 200), minlength=LENGTH + 1)
    shares = {f"repetition_{n}": rng.uniform(0, 0.2) for n in (2, 3, 4)}
    shares |= {f"distinct_{n}": rng.uniform(0.3, 0.9) for n in (1, 2, 3)} | {"stop_rate": rng.uniform(0.02, 0.05)}
    return [
        *(row(model, seed, name, float(value), "share", **others) for name, value in shares.items()),
        row(model, seed, "mean_length", float(lengths @ np.arange(LENGTH + 1) / 200), "tokens", **others),
        row(model, seed, "sampling_gap_max", 0.01, **others),
        *(row(model, seed, "length", n, "sequences", position=k, **others) for k, n in enumerate(lengths)),
    ]


def positions(rng: np.random.Generator, model: str, seed: int, quantity: str, mean: float) -> list[dict]:
    """Return a curve; the last positions are of too few sequences to be drawn."""
    values = mean + rng.normal(0, 0.1, LENGTH)
    return [
        row(model, seed, quantity, around(value, 0.1), position=t + 1, num_sequences=180 - 6 * t)
        for t, value in enumerate(values)
    ]


def chain(rng: np.random.Generator, seed: int, effect: float) -> list[dict]:
    """Return the rows of one seed's teacher and students, and of the control."""
    rows = []
    shift = rng.normal(0, 0.1)  # of a whole chain: what pairing within a seed takes out
    for model in MODELS:
        step, better = effect * SELECTIVITY[model], 0.3 * (model == TEACHER)
        means = np.array([-5.5 + 0.25 * step + better, -4.3 - 0.08 * step + better, 4.2 - 0.2 * step - better])
        precision, recall, entropy = means + rng.normal(0, 0.005, 3) + [shift, 0, 0]
        rows += likelihoods(model, seed, precision, recall, entropy)
        rows += positions(rng, model, seed, "precision", precision) + positions(rng, model, seed, "recall", recall)
        rows += samples(rng, model, seed)
        for k in (1, 2, 3):
            rows.append(row(model, seed, "perplexity", float(np.exp(-recall) + (k - 2) ** 2), "per token", epoch=k))
        if model != TEACHER:
            for metric, sign in (("precision", 1), ("density", 1), ("recall", -1), ("coverage", -1)):
                value = around(0.6 + sign * 0.05 * step + rng.normal(0, 0.002), 0.01)
                rows.append(row(model, seed, f"knn_{metric}", value, "share"))
    for k, tau in enumerate(TAUS):
        entropy = around(4.0 - effect * 0.3 * (3 - k) + rng.normal(0, 0.005))
        rows.append(row(TEACHER, seed, "training_set_entropy", entropy, temperature=tau))
        for model in (TEACHER, DIRECT) if tau != 1 else ():
            numbers = (-5.3 + 0.2 * (3 - k) + shift, -4.3 - 0.1 * (3 - k), 4.2 - 0.3 * (3 - k))
            rows += likelihoods(model, seed, *numbers, temperature=tau) + samples(rng, model, seed, temperature=tau)
    return rows


def table(directory: Path, rows: list[dict]) -> Results:
    """Write table.csv, and return the results of the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS).to_csv(directory / "table.csv", index=False)
    return Results(directory)


def write(directory: Path, num_seeds: int = 3, effect: float = 1.0) -> Results:
    """Write all files of a results folder, the same at each call, and return the results.

    effect: 1 has the paper's directions in every pair of students; 0 has none, and -1 the opposite of them.
    """
    rng = np.random.default_rng(0)
    rows = [
        *(
            each
            for each in likelihoods(GROUND_TRUTH, None, -ENTROPY, -ENTROPY, ENTROPY)
            if "kl" not in each["quantity"]
        ),
        *samples(rng, GROUND_TRUTH, None),
        *(each for seed in range(num_seeds) for each in chain(rng, seed, effect)),
    ]
    results = table(directory, rows)
    points = {
        name: rng.normal(0, 1 - 0.1 * effect * SELECTIVITY.get(name, 0), (60, 8)) for name in (GROUND_TRUTH, *STUDENTS)
    }
    frames = [pd.DataFrame(each).rename(columns="c{}".format).assign(model=name) for name, each in points.items()]
    pd.concat(frames).to_csv(directory / "embeddings.csv", index=False)
    deviations = [
        ("D1", "the end is never learnt", "recall", (around(-4.1), around(-4.2), around(-0.1, 0.02))),
        ("D1", "the end is never learnt", "share of samples that stop", (0.03, 0.0, -0.03)),
    ]
    released = [
        dict(deviation=name, what=what, quantity=quantity, side=side)
        | (vars(value) if isinstance(value, Estimate) else dict(value=value, low=None, high=None))
        for name, what, quantity, values in deviations
        for side, value in zip(("ours", "released", "difference"), values, strict=True)
    ]
    pd.DataFrame(released).to_csv(directory / "released.csv", index=False)
    named = [(GROUND_TRUTH, None), *((model, seed) for seed in range(num_seeds) for model in MODELS)]
    texts = [{"text": text, "precision": -5.0 - k} for k, text in enumerate(TEXTS)]
    (directory / "texts.json").write_text(json.dumps([dict(model=m, seed=s, texts=texts) for m, s in named]))
    provenance = {
        "experiment": config.load("cpu", num_seeds=num_seeds, temperatures=TAUS).to_dict(),
        "machine": "2 cores, no GPU",
        "seconds": 4321.0,
        "versions": {"numpy": "2.4.6", "torch": "2.13.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "hashes": {"results/table.csv": "ab" * 32},
    }
    (directory / "provenance.json").write_text(json.dumps(provenance))
    return results
