"""A results folder of made-up numbers, for the tests of what is drawn and written from one.

Every sequence's scores are made up around known means, and what the table has of likelihoods is estimated from them by
the functions that a run's is, so that sequences.parquet and table.csv agree.
"""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd

from llm import pipeline
from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, Distribution, student_name, truth_student_name
from llm.intervals import Estimate, mean_estimate
from llm.metrics import QUANTITIES, mean_ratio, over, over_seeds
from llm.results.sequences import FROM_MODEL, FROM_TRUTH, Sequences, as_bytes, read_sequences
from llm.results.table import COLUMNS, PER_SEQUENCE, PER_TOKEN
from llm.settings import config
from llm.settings.experiment import Experiment
from scripts.analysis.predictions import question
from scripts.analysis.results import Results

TAUS = (0.8, 0.875, 0.95, 1.0)
DISTILLED = [student_name(tau) for tau in TAUS]
OF_TRUTH = [truth_student_name(tau) for tau in TAUS]
STUDENTS = [DIRECT, *DISTILLED]
MODELS = [TEACHER, *STUDENTS]
SELECTIVITY = {DIRECT: 0, TEACHER: 0} | {name: 4 - k for names in (DISTILLED, OF_TRUTH) for k, name in enumerate(names)}
BETTER = {TEACHER: 0.3} | dict.fromkeys(OF_TRUTH, 0.1)  # nats per token in precision, and in recall
ENTROPY = 2.7  # of p*, nats per token
LENGTH = 30  # scored tokens of the longest sequence
NUM = 60  # sequences of a distribution
SPREAD = 0.5  # nats a sequence: of its expected score, and of its score around that
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


# ---------------------------------------------------------------------------------------------- sequences


def scores(rng: np.random.Generator, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a score and its exact expectation for each sequence; the difference of the two has mean 0.

    The expectations add up to the means, so that an estimate is nearer to these than its interval is wide.
    """
    noise = rng.normal(0, SPREAD, len(means))
    expected = means + noise - noise.mean()
    return expected + rng.normal(0, SPREAD, len(means)), expected


def scored(rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    """Return how long sequences are and whether they end by themselves; their other columns are scores."""
    expected = rng.uniform(0.3, 0.7, num)  # enough that end, and that do not, for a regression on it
    ended = rng.random(num) < expected
    return {"num_scored": rng.integers(3, LENGTH + 1, num), "ended": ended, "expected_ended": expected}


def own_sequences(rng: np.random.Generator, precision: float, entropy: float, num: int = NUM) -> pd.DataFrame:
    """Return a model's own sequences, of this precision and entropy per token."""
    columns = scored(rng, num)
    for who, per_token in (("model", -entropy), ("truth", precision)):
        columns[f"log_{who}"], columns[f"expected_log_{who}"] = scores(rng, per_token * columns["num_scored"])
    return pd.DataFrame(columns).assign(drawn_from=FROM_MODEL)


def shared_sequences(rng: np.random.Generator, num: int = NUM) -> pd.DataFrame:
    """Return p*'s test sequences with its own scores, which all models' rows share."""
    columns = scored(rng, num)
    columns["log_truth"], columns["expected_log_truth"] = scores(rng, -ENTROPY * columns["num_scored"])
    columns |= {f"{name}log_model": columns[f"{name}log_truth"] for name in ("", "expected_")}
    return pd.DataFrame(columns).assign(drawn_from=FROM_TRUTH)


def by_model(rng: np.random.Generator, test: pd.DataFrame, recall: float) -> pd.DataFrame:
    """Return p*'s test sequences scored by a model of this recall per token.

    What makes a sequence improbable to p* does so to every model.
    """
    same = {name: test[name] + ENTROPY * test["num_scored"] for name in ("log_truth", "expected_log_truth")}
    plain, expected = scores(rng, recall * test["num_scored"].to_numpy())
    changed = {"log_model": plain + same["log_truth"], "expected_log_model": expected + same["expected_log_truth"]}
    return test.assign(**changed)


def rows_of(distribution: Distribution, *parts: pd.DataFrame) -> pd.DataFrame:
    """Return sequences with the columns that say which distribution was measured on them."""
    named = {name: getattr(distribution, name) for name in ("model", "seed", "temperature")}
    return pd.concat(parts).assign(**named)


def model_sequences(rng: np.random.Generator, test: pd.DataFrame, seed: int, effect: float, truth: bool):
    """Yield the sequences of each distribution of one seed. truth: with students of p*'s own samples."""
    shift = rng.normal(0, 0.1, 3) * [1, 0.2, 0.2]  # of a whole chain: what pairing within a seed takes out
    for model in MODELS + OF_TRUTH * truth:
        step, better = effect * SELECTIVITY[model], BETTER.get(model, 0.0)
        means = np.array([-5.5 + 0.25 * step + better, -4.3 - 0.08 * step + better, 4.2 - 0.2 * step - better])
        precision, recall, entropy = means + rng.normal(0, 0.002, 3) + shift
        own = own_sequences(rng, precision, entropy)
        yield rows_of(Distribution(model, seed), own, by_model(rng, test, recall))
    for k, tau in enumerate(TAUS):
        for model in (TEACHER, DIRECT) if tau != 1 else ():
            better, gain = np.array([1, 1, -1]) * BETTER.get(model, 0.0), (3 - k) * np.array([0.25, -0.1, -0.3])
            precision, recall, entropy = np.array([-5.5, -4.3, 4.2]) + better + gain + shift
            own = own_sequences(rng, precision, entropy)
            yield rows_of(Distribution(model, seed, tau), own, by_model(rng, test, recall))


def write_sequences(directory: Path, *parts: pd.DataFrame) -> Sequences:
    """Write sequences.parquet, and return what is read from it."""
    content = as_bytes(pd.concat(parts))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sequences.parquet").write_bytes(content)
    return read_sequences(io.BytesIO(content))


# -------------------------------------------------------------------------------------------------- table


def row(model: str, seed: int | None, quantity: str, value: float | Estimate, unit=PER_TOKEN, **others) -> dict:
    """Return a row of the table; at temperature 1 unless another is given."""
    named = dict(model=model, seed=seed, epoch=2, temperature=1.0, quantity=quantity, unit=unit, num_sequences=NUM)
    return named | (vars(value) if isinstance(value, Estimate) else {"value": value}) | others


def likelihoods(sequences: Sequences) -> list[dict]:
    """Return the five quantities of every distribution in both units, and of several seeds their means."""
    rows, models = [], {}
    for each in sequences.distributions():
        models.setdefault((each.model, each.temperature), []).append(each.seed)
        for unit, per_token in ((PER_TOKEN, True), (PER_SEQUENCE, False)):
            for name in QUANTITIES:
                if each.model == GROUND_TRUTH and name.startswith("kl"):
                    continue
                found = sequences.estimate(name, each, per_token)
                others = dict(temperature=each.temperature, plain=found.plain, interval=over(name, 1, NUM))
                rows.append(row(each.model, each.seed, name, found.estimate, unit, **others))
    for (model, tau), seeds in models.items():
        for name in QUANTITIES if len(seeds) > 1 else ():
            found = list(sequences.by_seed(name, model, tau).values())
            others = dict(temperature=tau, epoch=None, plain=float(np.mean([each.plain for each in found])))
            others["interval"] = over(name, len(found), NUM)
            rows.append(row(model, None, name, over_seeds(name, found), **others))
    return rows


def training_set_entropies(rng: np.random.Generator, num_seeds: int, effect: float, taus=TAUS) -> list[dict]:
    """Return the entropies of the teachers' samples at each tau, and of several seeds their means."""
    rows = []
    for k, tau in enumerate(taus):
        for seed in range(num_seeds):
            num_scored = rng.integers(3, LENGTH + 1, NUM)
            draws, _ = scores(rng, -(4.0 - effect * 0.3 * (3 - k) + rng.normal(0, 0.002)) * num_scored)
            others = dict(temperature=tau, interval=over("entropy", 1, NUM))
            rows.append(row(TEACHER, seed, "training_set_entropy", mean_ratio(-draws, num_scored).estimate, **others))
        if num_seeds > 1:
            values = [each["value"] for each in rows[-num_seeds:]]
            others = dict(temperature=tau, epoch=None, interval=over("entropy", num_seeds, NUM))
            rows.append(row(TEACHER, None, "training_set_entropy", mean_estimate(values), **others))
    return rows


def samples(rng: np.random.Generator, own: pd.DataFrame, distribution: Distribution) -> list[dict]:
    """Return what a distribution's own samples are like."""
    lengths = np.bincount(own["num_scored"], minlength=LENGTH + 1)
    shares = {f"repetition_{n}": rng.uniform(0, 0.2) for n in (2, 3, 4)}
    shares |= {f"distinct_{n}": rng.uniform(0.3, 0.9) for n in (1, 2, 3)} | {"stop_rate": own["ended"].mean()}
    who, others = (distribution.model, distribution.seed), dict(temperature=distribution.temperature)
    return [
        *(row(*who, name, float(value), "share", **others) for name, value in shares.items()),
        row(*who, "mean_length", float(own["num_scored"].mean()), "tokens", **others),
        row(*who, "sampling_gap_max", 0.01, **others),
        *(row(*who, "length", n, "sequences", position=k, **others) for k, n in enumerate(lengths)),
    ]


def positions(rng: np.random.Generator, model: str, seed: int, quantity: str, mean: float) -> list[dict]:
    """Return a curve; the last positions are of too few sequences to be drawn."""
    values = mean + rng.normal(0, 0.1, LENGTH)
    return [
        row(model, seed, quantity, around(value, 0.1), position=t + 1, num_sequences=NUM - 2 * t)
        for t, value in enumerate(values)
    ]


def other_rows(rng: np.random.Generator, sequences: Sequences) -> list[dict]:
    """Return the rows that are not of likelihoods: samples, positions and perplexities."""
    rows = []
    for each in sequences.distributions():
        frame = sequences.frame[(sequences.frame["model"] == each.model)]
        if each.model != GROUND_TRUTH:
            frame = frame[(frame["seed"] == each.seed) & (frame["drawn_from"] == FROM_MODEL)]
        rows += samples(rng, frame[frame["temperature"] == each.temperature], each)
        if each.model == GROUND_TRUTH or each.temperature != 1:
            continue
        for name in ("precision", "recall"):
            rows += positions(rng, each.model, each.seed, name, sequences.estimate(name, each).value)
        best = float(np.exp(-sequences.estimate("recall", each).value))
        for k in (1, 2, 3):
            rows.append(row(each.model, each.seed, "perplexity", best + (k - 2) ** 2, "per token", epoch=k))
    return rows


def table(directory: Path, rows: list[dict]) -> Results:
    """Write table.csv, and return the results of the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS).to_csv(directory / "table.csv", index=False)
    return Results(directory)


# -------------------------------------------------------------------------------------------- all of it


def write(directory: Path, num_seeds: int = 3, effect: float = 1.0, students_of_truth: bool = False) -> Results:
    """Write all files of a results folder, the same at each call, and return the results.

    effect: 1 has the paper's directions in every pair of students; 0 has none, and -1 the opposite of them.
    """
    rng = np.random.default_rng(0)
    test = shared_sequences(rng)
    parts = [rows_of(Distribution(GROUND_TRUTH), test)]
    for seed in range(num_seeds):
        parts += model_sequences(rng, test, seed, effect, students_of_truth)
    sequences = write_sequences(directory, *parts)
    entropies = training_set_entropies(rng, num_seeds, effect)
    results = table(directory, [*likelihoods(sequences), *entropies, *other_rows(rng, sequences)])
    write_others(directory, rng, effect)
    trained = MODELS + OF_TRUTH * students_of_truth
    named = [(GROUND_TRUTH, None), *((model, seed) for seed in range(num_seeds) for model in trained)]
    texts = [{"text": text, "precision": -5.0 - k} for k, text in enumerate(TEXTS)]
    (directory / "texts.json").write_text(json.dumps([dict(model=m, seed=s, texts=texts) for m, s in named]))
    fields = dict(num_seeds=num_seeds, temperatures=TAUS, num_test=NUM, students_of_truth=students_of_truth)
    provenance = {
        "experiment": config.load("cpu", **fields).to_dict(),
        "machine": "2 cores, no GPU",
        "seconds": 4321.0,
        "versions": {"numpy": "2.4.6", "torch": "2.13.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "hashes": {"results/table.csv": "ab" * 32},
    }
    (directory / "provenance.json").write_text(json.dumps(provenance))
    return results


def write_others(directory: Path, rng: np.random.Generator, effect: float) -> None:
    """Write the embeddings of the students and of p*, and what deviations from the released code are worth."""
    points = {
        name: rng.normal(0, 1 - 0.1 * effect * SELECTIVITY.get(name, 0), (60, 8)) for name in (GROUND_TRUTH, *STUDENTS)
    }
    frames = [pd.DataFrame(each).rename(columns="c{}".format).assign(model=name) for name, each in points.items()]
    pd.concat(frames).to_csv(directory / "embeddings.csv", index=False)
    deviations = [
        ("D1", "the end is never learnt", "recall", (around(-4.1), around(-4.2), around(-0.1, 0.02))),
        ("D1", "the end is never learnt", "share of samples that stop", (0.03, 0.0, -0.03)),
    ]
    released = []
    for name, what, quantity, values in deviations:
        for side, value in zip(("ours", "released", "difference"), values, strict=True):
            ends = (value.value, value.low, value.high) if isinstance(value, Estimate) else (value, None, None)
            named = dict(deviation=name, what=what, quantity=quantity, side=side)
            released.append(named | dict(zip(("value", "low", "high"), ends, strict=True)))
    pd.DataFrame(released).to_csv(directory / "released.csv", index=False)


# ------------------------------------------------------------------------------------------------- experiments


def write_experiment(directory: Path, name: str, num_seeds: int = 2) -> Results:
    """Write the results of race, sparsity or capacity below a folder, and return the folder's results.

    A student is as sharp as the direct one sampled at its tau, and 0.1 nats per token below it in both. Capacity has
    one seed, whatever num_seeds is, as the real one: its runs are subtracted from each other, which several cannot be.
    """
    num_seeds = 1 if name == "capacity" else num_seeds
    for run in dict.fromkeys(cell.run for cell in question(name).cells):
        num_train = {"num_train": 6000} if run.endswith("less") else {}
        profile = str(config.REPOSITORY / "scripts" / "objectives" / f"{name}.yaml")
        write_run(directory / name / run, config.load(profile, num_seeds=num_seeds, num_test=NUM, **num_train))
    return Results(directory)


def write_run(folder: Path, experiment: Experiment) -> None:
    """Write the results of a run with all of its models."""
    rng, num_seeds = np.random.default_rng(0), experiment.num_seeds
    test, parts = shared_sequences(rng), []
    for each in pipeline.evaluated(experiment):
        student = experiment.student_of(each.model)
        by_samples = {student_name(tau): tau for tau in experiment.temperatures}
        distilled = student is not None or each.model in by_samples
        tau = student.temperature if student else by_samples.get(each.model, each.temperature)
        means = (
            np.array([-5.5, -4.3, 4.2]) + (1 - tau) * np.array([6, -2, -7.5]) - 0.1 * distilled * np.array([1, 1, 0])
        )
        precision, recall, entropy = means + rng.normal(0, 0.002, 3)
        parts.append(rows_of(each, own_sequences(rng, precision, entropy), by_model(rng, test, recall)))
    sequences = write_sequences(folder, rows_of(Distribution(GROUND_TRUTH), test), *parts)
    entropies = training_set_entropies(rng, num_seeds, 1.0, sorted(experiment.temperatures))
    table(folder, [*likelihoods(sequences), *entropies, *other_rows(rng, sequences)])
    (folder / "provenance.json").write_text(json.dumps({"experiment": experiment.to_dict(), "seconds": 4321.0}))
