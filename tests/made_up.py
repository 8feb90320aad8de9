"""A gallery of made-up numbers, for the tests of what is drawn and written from one."""

import json
from dataclasses import asdict

import numpy as np

from llm import config
from llm.config import REPOSITORY
from llm.likelihood import Estimate, mean_estimate
from llm.paths import DIRECT, GROUND_TRUTH, TEACHER, student_name

TAUS = (0.8, 0.875, 0.95, 1.0)
ENTROPY = 2.7  # of p*, nats per token
LENGTH = 30  # scored tokens of a sequence
QUANTITIES = ("precision", "recall", "entropy", "kl_to_ground_truth", "kl_from_ground_truth")
FIGURES = (
    *("overview", "mog_panels", "precision_recall", "embeddings", "decomposition", "positions", "lengths"),
    *("repetition", "control", "teacher_entropy", "mog_tradeoff", "mog_control"),
)


def around(value: float, half: float = 0.02) -> dict:
    return asdict(Estimate(float(value), float(value - half), float(value + half)))


def units(precision: float, recall: float, entropy: float) -> dict:
    """The five quantities in both units; the divergences are what the decomposition leaves."""
    values = (precision, recall, entropy, -precision - entropy, -recall - ENTROPY)
    return {
        "per_token": {name: around(value) for name, value in zip(QUANTITIES, values, strict=True)},
        "per_sequence": {
            name: around(LENGTH * value, LENGTH * 0.02) for name, value in zip(QUANTITIES, values, strict=True)
        },
    }


def samples(rng: np.random.Generator, precision: float) -> dict:
    lengths = np.bincount(rng.integers(3, LENGTH + 1, 200), minlength=LENGTH + 1)
    scores = precision + np.array([1.5, 1.4, 1.3, -1.3, -1.4, -1.5])
    texts = [
        "The end.",
        "The first | of two\nlines",
        "The 'quoted' <b>text</b> & *stars*",
        "The _",
        "The",
        "The \\ `x`",
    ]
    return {
        "num_sequences": 200,
        "num_scored_tokens": int(lengths @ np.arange(LENGTH + 1)),
        "stop_rate": float(rng.uniform(0.02, 0.05)),
        "sampling_gap_per_token": {"mean": 0.001, "max_abs": 0.01},
        "lengths": lengths.tolist(),
        "repetition": {str(n): float(rng.uniform(0, 0.2)) for n in (2, 3, 4)},
        "distinct": {str(n): float(rng.uniform(0.3, 0.9)) for n in (1, 2, 3)},
        "texts": [{"text": text, "precision": float(score)} for text, score in zip(texts, scores, strict=True)],
    }


def by_position(rng: np.random.Generator, mean: float) -> dict:
    value = mean + rng.normal(0, 0.1, LENGTH)
    num = [180 - 6 * t for t in range(LENGTH)]  # the last are too few to be drawn
    return {"num": num, "value": value.tolist(), "low": (value - 0.1).tolist(), "high": (value + 0.1).tolist()}


def gallery(num_seeds: int = 3, effect: float = 1.0) -> dict:
    """All that a gallery holds. Deterministic.

    effect: 1 has the paper's directions in every pair of students; 0 has none, and -1 the opposite of them.
    """
    rng = np.random.default_rng(0)
    values = config.read_yaml(config.find_profile("cpu")) | {"num_seeds": num_seeds, "temperatures": list(TAUS)}
    students = [DIRECT, *map(student_name, TAUS)]
    selectivity = {DIRECT: 0, TEACHER: 0} | {student_name(tau): 4 - k for k, tau in enumerate(TAUS)}

    models, control, entropies, manifold, perplexities = [], [], [], [], []
    for seed in range(num_seeds):
        shift = rng.normal(0, 0.1)  # of a whole chain: what pairing within a seed takes out
        for name in (TEACHER, *students):
            step, better = effect * selectivity[name], 0.3 * (name == TEACHER)
            precision, recall, entropy = np.array(
                [-5.5 + 0.25 * step + better, -4.3 - 0.08 * step + better, 4.2 - 0.2 * step - better]
            ) + rng.normal(0, 0.005, 3)
            precision += shift
            models.append(
                {"model": name, "seed": seed, "epoch": 2}
                | units(precision, recall, entropy)
                | {"by_position": {"precision": by_position(rng, precision), "recall": by_position(rng, recall)}}
                | {"samples": samples(rng, precision)}
            )
            epochs = [{"epoch": k, "perplexity": float(np.exp(-recall) + (k - 2) ** 2)} for k in (1, 2, 3)]
            perplexities.append({"model": name, "seed": seed, "best_epoch": 2, "epochs": epochs})
            if name in students:
                noise = rng.normal(0, 0.002, 4)
                likeness = dict(zip(("precision", "density", "recall", "coverage"), 0.6 + noise, strict=True))
                for metric, sign in (("precision", 1), ("density", 1), ("recall", -1), ("coverage", -1)):
                    likeness[metric] = around(likeness[metric] + sign * 0.05 * step, 0.01)
                manifold.append({"model": name, "seed": seed} | likeness)
        for name in (TEACHER, DIRECT):
            for k, tau in enumerate(TAUS):
                numbers = units(-5.3 + 0.2 * (3 - k) + shift, -4.3 - 0.1 * (3 - k), 4.2 - 0.3 * (3 - k))
                control.append(
                    {"model": name, "seed": seed, "temperature": tau} | numbers | {"samples": samples(rng, -5.0)}
                )
        for k, tau in enumerate(TAUS):
            entropy = around(4.0 - effect * 0.3 * (3 - k) + rng.normal(0, 0.005))
            entropies.append({"seed": seed, "temperature": tau, "per_token": entropy})

    means = {}
    for name in (TEACHER, *students) if num_seeds > 1 else ():
        rows = [row["per_token"] for row in models if row["model"] == name]
        means[name] = {q: asdict(mean_estimate([row[q]["value"] for row in rows])) for q in ("precision", "recall")}
    deviations = [
        ("D1", "the end is never learnt", "recall", around(-4.1), around(-4.2), around(-0.1, 0.02)),
        ("D1", "the end is never learnt", "share of samples that stop", 0.03, 0.0, -0.03),
    ]
    return {
        "result": {
            "unit": "nats",
            "experiment": config.build(values).to_dict(),
            "ground_truth": {
                "per_token": around(-ENTROPY),
                "per_sequence": around(-LENGTH * ENTROPY, LENGTH * 0.02),
                "samples": samples(rng, -ENTROPY),
            },
            "models": models,
            "over_seeds": means,
            "control": control,
            "teacher_entropy": entropies,
        },
        "perplexity": {"models": perplexities},
        "embeddings": {
            name: rng.normal(0, 1 - 0.1 * effect * selectivity.get(name, 0), (60, 8)).tolist()
            for name in (GROUND_TRUTH, *students)
        },
        "manifold": manifold,
        "ledger": {
            "rows": [
                dict(zip(("deviation", "what", "quantity", "ours", "released", "difference"), each, strict=True))
                for each in deviations
            ]
        },
        "mog": json.loads((REPOSITORY / "MoG" / "results.json").read_text()),
        "run": {
            "machine": "2 cores, no GPU",
            "seconds": 4321.0,
            "versions": {"numpy": "2.4.6", "torch": "2.13.0"},
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "hashes": {"results/precision_recall.json": "ab" * 32, "results/perplexity.json": "cd" * 32},
        },
    }
