"""What stage 4 makes, of models small enough to enumerate: its numbers, and that they can be made again without one."""

import json
import math

import numpy as np
import pytest
from conftest import enumerate_sequences, exact_log_probabilities, run_of, tiny_llama

from llm import pipeline
from llm.distributions import Distribution, SampleSet
from llm.intervals import crossed_estimate, mean_estimate
from llm.metrics import QUANTITIES, SHARED, cross_entropy, over_seeds
from llm.pipeline import TRUTH
from llm.results import summary
from llm.results.evaluation import evaluate
from llm.results.sequences import Sequences, read_sequences
from llm.results.table import PER_SEQUENCE, PER_TOKEN, estimates, read_table, table_of_seeds, table_over_seeds
from llm.run import Run
from llm.samplers import sample_sets
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.settings.parts import Part
from llm.store import files

MAX_LENGTH, NUM_TEST, TAU = 5, 400, 0.5
EVERYTHING = enumerate_sequences(MAX_LENGTH)
TOKENS = np.array([len(sequence) - 1 for sequence in EVERYTHING])
NAMES = ["teacher", "student_direct", "student_tau0.50"]


def experiment() -> Experiment:
    sizes = dict(num_train=NUM_TEST + 50, num_validation=4, num_test=NUM_TEST, shard_size=300, max_length=MAX_LENGTH)
    return config.load("smoke", num_seeds=2, temperatures=[TAU], teacher_epochs=1, student_epochs=1, **sizes)


def model_of(distribution: Distribution):
    """p* is one model, and each trained one another; nothing is trained."""
    seed = 1 if distribution == TRUTH else 10 + NAMES.index(distribution.model) + 5 * distribution.seed
    return tiny_llama(seed, initializer_range=0.3)


@pytest.fixture(scope="module")
def run(tmp_path_factory, language) -> Run:
    """A run whose models are there and selected, as far as its table."""
    found = run_of(experiment(), tmp_path_factory.mktemp("run"), language)
    e, paths = found.experiment, found.paths
    for each in (TRUTH, *found.evaluated()):
        directory = paths.ground_truth if each == TRUTH else paths.checkpoint(each, 1)
        model_of(each).save_pretrained(directory)
        (directory / files.SEAL).unlink(missing_ok=True)
        files.seal(directory)
    sample_sets.complete(found, [SampleSet(TRUTH, "validation", 4), found.test_set(TRUTH)], Part())
    for each in found.evaluated():
        record = {"model": each.model, "seed": each.seed, "bound": found.selection_bound(each), "best_epoch": 1}
        files.write_record(paths.selection(each), record | {"epochs": [{"epoch": 1, "perplexity": 2.5}]})
    for seed in (0, 1):
        sample_sets.complete(found, [SampleSet(Distribution("teacher", seed, TAU), "train", e.num_train)], Part())
    found.keep_settings()
    evaluate(found, [TRUTH, *pipeline.evaluated(e)])
    summary.write(found)
    return found


@pytest.fixture(scope="module")
def table(run):
    return read_table(run.paths.results / "table.csv")


@pytest.fixture(scope="module")
def sequences(run) -> Sequences:
    return read_sequences(run.paths.results / "sequences.parquet")


def exact(distribution: Distribution) -> dict[str, tuple[float, float]]:
    """{quantity: its value per token and per sequence}, by sums over every sequence."""
    log_p = exact_log_probabilities(model_of(TRUTH), EVERYTHING)
    log_q = exact_log_probabilities(model_of(distribution.at(1.0)), EVERYTHING, distribution.temperature)
    p, q = np.exp(log_p), np.exp(log_q)
    values = {
        "precision": (q, q @ log_p),
        "recall": (p, p @ log_q),
        "entropy": (q, -q @ log_q),
        "kl_to_ground_truth": (q, q @ (log_q - log_p)),
        "kl_from_ground_truth": (p, p @ (log_p - log_q)),
    }
    return {quantity: (value / (weights @ TOKENS), value) for quantity, (weights, value) in values.items()}


def own_rows(table, distribution: Distribution):
    """The rows of one distribution that are not by position, by quantity and unit."""
    seed = table["seed"].isna() if distribution.seed is None else table["seed"] == distribution.seed
    which = (table["model"] == distribution.model) & (table["temperature"] == distribution.temperature) & seed
    return table[which & table["position"].isna()].set_index(["quantity", "unit"])


def test_every_number_is_within_its_error_of_the_enumerated_one(run, table):
    """Of the teachers and students of two seeds, and of the controls; within five standard errors.

    And what ratios and regressions are off by, which is of order 1 / n: of so few ids it is as large as an error.
    """
    for each in pipeline.evaluated(run.experiment):
        rows = own_rows(table, each)
        for quantity, values in exact(each).items():
            for unit, value in zip((PER_TOKEN, PER_SEQUENCE), values, strict=True):
                row = rows.loc[(quantity, unit)]
                assert 0 < row["error"] < (0.1 if unit == PER_TOKEN else 0.3)
                assert abs(row["value"] - value) < 5 * row["error"] + 2 / NUM_TEST, (each, quantity, unit)
                assert row["low"] < row["value"] < row["high"]
                assert row["freedom"] in (NUM_TEST - 4, NUM_TEST - 1)  # of the regression, and of the exact estimate
                assert abs(row["plain"] - value) < (0.5 if unit == PER_TOKEN else 1.5) and row["plain"] != row["value"]
                assert row["num_sequences"] == NUM_TEST
                assert row["interval"] == f"over {NUM_TEST} sequences, of this training"


def test_the_truth_on_itself_has_no_divergence(table):
    rows, values = own_rows(table, TRUTH), exact(TRUTH)
    for quantity in ("precision", "recall", "entropy"):
        row = rows.loc[(quantity, PER_TOKEN)]
        assert abs(row["value"] - values[quantity][0]) < 5 * row["error"]
        assert row["freedom"] == NUM_TEST - 3  # log p and log q are one martingale
    assert not {"kl_to_ground_truth", "kl_from_ground_truth"} & set(rows.index.get_level_values(0))


def test_terms_add_up(run, table, sequences):
    for each in pipeline.evaluated(run.experiment):
        rows = own_rows(table, each)["value"]
        for unit in (PER_TOKEN, PER_SEQUENCE):
            precision, recall, entropy, to, from_ = (rows[quantity, unit] for quantity in QUANTITIES)
            assert precision == pytest.approx(-entropy - to, abs=1e-9)
            own = cross_entropy(sequences.scored(each, "ground_truth"), unit == PER_TOKEN).entropy.value
            assert recall == pytest.approx(-own - from_, abs=1e-9)


def test_the_table_is_made_again_from_the_sequences_alone(run, table, sequences):
    """To the last bit: what each row is within a seed, and over both."""
    assert sequences.distributions() == [TRUTH, *pipeline.evaluated(run.experiment)]
    for each in pipeline.evaluated(run.experiment):
        rows = own_rows(table, each)
        for quantity in QUANTITIES:
            for unit in (PER_TOKEN, PER_SEQUENCE):
                found, row = sequences.estimate(quantity, each, unit == PER_TOKEN), rows.loc[(quantity, unit)]
                wanted = {**vars(found.estimate), "plain": found.plain}
                assert {name: row[name] for name in wanted} == wanted
        whole = own_rows(table, Distribution(each.model, None, each.temperature))
        for quantity in QUANTITIES:
            by_seed = list(sequences.by_seed(quantity, each.model, each.temperature).values())
            row, wanted = whole.loc[(quantity, PER_TOKEN)], over_seeds(quantity, by_seed)
            assert {name: row[name] for name in vars(wanted)} == vars(wanted)
            values = [found.value for found in by_seed]
            alone = crossed_estimate(values, np.stack([found.residuals for found in by_seed]))
            assert wanted == (alone if quantity in SHARED else mean_estimate(values))
            assert row["plain"] == pytest.approx(np.mean([found.plain for found in by_seed]))
            shared = f" and the {NUM_TEST} test sequences that they share" if quantity in SHARED else ""
            assert row["interval"] == f"over 2 seeds{shared}"


def test_the_scores_of_every_sequence_are_exact(run, sequences):
    """log p of each sequence by the model and by p*, whether it ended, and the probability that it would."""
    by_sequence = {sequence: k for k, sequence in enumerate(EVERYTHING)}
    for each in (Distribution("student_direct", 1), Distribution("teacher", 0, TAU)):
        for drawn_from, owner in (("model", each), ("ground_truth", TRUTH)):
            rows = sequences.frame
            rows = rows[(rows["model"] == each.model) & (rows["temperature"] == each.temperature)]
            rows = rows[(rows["seed"] == each.seed) & (rows["drawn_from"] == drawn_from)]
            samples = run.samples(run.test_set(owner))
            at = [by_sequence[tuple(samples[i].tolist())] for i in range(NUM_TEST)]
            log_model = exact_log_probabilities(model_of(each.at(1.0)), EVERYTHING, each.temperature)
            log_truth = exact_log_probabilities(model_of(TRUTH), EVERYTHING)
            np.testing.assert_allclose(rows["log_model"], log_model[at], atol=1e-4)
            np.testing.assert_allclose(rows["log_truth"], log_truth[at], atol=1e-4)
            assert rows["num_scored"].tolist() == TOKENS[at].tolist()
            assert rows["ended"].tolist() == [EVERYTHING[k][-1] == 2 for k in at]
            # At every step short of the last, so that to go on was as probable as the rest of its probabilities.
            source = model_of(owner.at(1.0))
            ends = {x: math.exp(v) for x, v in zip(EVERYTHING, exact_ends(source, owner.temperature), strict=True)}
            np.testing.assert_allclose(rows["expected_ended"], [math.log(ends[EVERYTHING[k]]) for k in at], atol=1e-4)


def exact_ends(model, temperature: float) -> list[float]:
    """The sum of the probabilities to end, over the steps of each sequence."""
    pairs = [(sequence[:t], (*sequence[:t], 2)) for sequence in EVERYTHING for t in range(1, len(sequence))]
    both = list(dict.fromkeys(each for pair in pairs for each in pair))
    log_p = dict(zip(both, exact_log_probabilities(model, both, temperature), strict=True))
    return [sum(math.exp(log_p[(*x[:t], 2)] - log_p[x[:t]]) for t in range(1, len(x))) for x in EVERYTHING]


def test_values_by_position_are_exact_expectations_and_make_up_their_mean(run, table, sequences):
    for each in run.evaluated():
        for quantity in ("precision", "recall"):
            which = (table["model"] == each.model) & (table["seed"] == each.seed) & (table["quantity"] == quantity)
            rows = table[which & (table["temperature"] == 1) & table["position"].notna()]
            assert rows["position"].tolist() == list(range(1, MAX_LENGTH))
            counts = rows["num_sequences"].astype(int)
            assert counts.iloc[0] == NUM_TEST and counts.is_monotonic_decreasing
            mean = np.average(rows["value"], weights=counts)
            assert mean == pytest.approx(sequences.estimate(quantity, each).exact, rel=1e-6)
            assert set(rows["interval"]) == {"over the sequences that reach this position"}


def test_the_entropy_of_the_teachers_samples_is_that_of_its_draws(run, table):
    """Of the first num_test sequences of D'_tau; over both seeds, Student's t."""
    found = {}
    for seed in (0, 1):
        teacher = Distribution("teacher", seed, TAU)
        drawn = run.samples(SampleSet(teacher, "train", NUM_TEST + 50))
        first = -drawn.log_prob[:NUM_TEST].sum() / drawn.num_scored[:NUM_TEST].sum()
        row = own_rows(table, teacher).loc[("training_set_entropy", PER_TOKEN)]
        found[seed] = row["value"]
        assert row["value"] == pytest.approx(first) and row["interval"] == "over 400 sequences, of this training"
        assert abs(row["value"] - exact(teacher)["entropy"][0]) < 5 * row["error"]
    whole = own_rows(table, Distribution("teacher", None, TAU)).loc[("training_set_entropy", PER_TOKEN)]
    wanted = mean_estimate(list(found.values()))
    assert [whole[name] for name in vars(wanted)] == pytest.approx(list(vars(wanted).values()))
    assert whole["interval"] == "over 2 seeds"


def test_the_files_name_what_they_are_made_from(run):
    provenance = json.loads((run.paths.results / "provenance.json").read_text())
    for name in ("results/sequences.parquet", "results/table.csv"):
        assert provenance["hashes"][name] == files.sha256(run.paths.root / name)
    assert provenance["experiment"] == run.experiment.to_dict()
    texts = json.loads((run.paths.results / "texts.json").read_text())
    assert [(each["model"], each["seed"]) for each in texts] == [
        ("ground_truth", None),
        *((name, seed) for seed in (0, 1) for name in NAMES),
    ]


def test_results_that_are_made_again_are_the_same_bytes(run):
    names = ("sequences.parquet", "table.csv", "texts.json")
    before = [(run.paths.results / name).read_bytes() for name in names]
    evaluate(run, [TRUTH, *pipeline.evaluated(run.experiment)])
    summary.write(run)
    assert [(run.paths.results / name).read_bytes() for name in names] == before


def test_what_stage_4_prints_has_both_tables_and_says_what_intervals_are_over(run, table):
    told = summary.report(run)
    assert table_of_seeds(table) in told and table_over_seeds(table) in told
    assert "95 % intervals over 400 sequences, of this training, of one D" in told
    assert "over 2 seeds and the 400 test sequences that they share" in told
    precision = estimates(table, "precision")["student_direct", 1.0]
    assert list(precision) == [0, 1, None]
    assert all(f"{each}" in told for each in precision.values())


def test_of_one_seed_nothing_is_over_seeds(run):
    """The same directory, read as a run of one seed."""
    alone = Run(run.experiment.with_values(num_seeds=1), run.paths)
    _, table, texts = summary.summarise(alone)
    assert table["seed"].isna().sum() == (table["model"] == "ground_truth").sum() and len(texts) == 1 + len(NAMES)
