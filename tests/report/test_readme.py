"""The README's tables and sentences are those of the committed results."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from llm.distributions import DIRECT, TEACHER, Distribution, student_name
from llm.intervals import Estimate, adjusted, upper_bound
from llm.results.advantage import MOST_BETWEEN_KNOTS, of_seed
from llm.results.table import markdown, table_over_seeds
from llm.settings.config import REPOSITORY
from scripts.analysis.advantage import between, control, distilled, of_truth, over_control
from scripts.analysis.claims import claims, language_claims
from scripts.analysis.objectives import beside_control, described
from scripts.analysis.predictions import AS_PREDICTED, CONTRADICTED, EPOCHS, deciding, found, question, tally
from scripts.analysis.results import COMMITTED, Results
from scripts.evidence import factors, larger, length
from scripts.evidence.control import FINISHED
from scripts.evidence.length import OVERFITTED

RESULTS = Results(COMMITTED)
README, OF_SCRIPTS = ((REPOSITORY / name).read_text() for name in ("README.md", "scripts/README.md"))


def test_readme_and_its_tables_are_of_the_committed_result():
    of_truth_itself = RESULTS.table["model"].isin([name for name, _ in of_truth(RESULTS)])
    assert table_over_seeds(RESULTS.table[~of_truth_itself]) in README
    assert all(f"| {claim.title} | {claim.verdict} |" in README for claim in claims(RESULTS))
    assert all((REPOSITORY / "figs" / name).is_file() for name in ("precision_recall.png", "overview.png"))


def told(estimate: Estimate, text: str) -> bool:
    """Whether a text has an estimate with its interval, to two decimals: as it is, or how much less it is."""
    words = " ".join(text.replace("*", "").split())
    return any(f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" in words for e in (estimate, -estimate))


def test_an_estimate_is_told_as_it_is_or_as_how_much_less():
    estimate = Estimate(-0.081, -0.119, -0.042)
    assert told(estimate, "it is -0.08 [-0.12, -0.04]") and told(estimate, "has 0.08\n[0.04, 0.12] *less*")
    assert not told(estimate, "0.08 [0.04, 0.13]") and not told(Estimate(0.1, 0.05, 0.15), "0.10 [0.05, 0.16]")


def test_the_readme_tells_what_distilled_students_have_over_the_control():
    precision, recall = over_control(RESULTS, distilled(RESULTS)).values()
    ends = [recall.members[member] for member in (next(iter(recall.members)), list(recall.members)[-1])]
    for estimate in (precision.pooled, recall.pooled, *ends):
        assert estimate.high < 0 and told(estimate, README), estimate
    assert not recall.left_out and recall.gap <= MOST_BETWEEN_KNOTS
    (epochs,) = RESULTS.control_epochs
    assert f"until it was finished, for {epochs} epochs." in " ".join(README.split())
    early = [name for (name, _), epoch in RESULTS.evaluated.items() if name in RESULTS.taus and epoch < 6]
    assert f"{len(early)} of the {RESULTS.num_seeds * len(RESULTS.taus)} distilled students" in " ".join(README.split())


def test_the_readme_tells_what_is_selectivity_and_what_the_teachers_error():
    for quantity, of in over_control(RESULTS, of_truth(RESULTS)).items():
        assert told(of.pooled, README), f"{quantity} {of.pooled}"
    whole = over_control(RESULTS, distilled(RESULTS))["recall"].pooled
    error = between(RESULTS, distilled(RESULTS), of_truth(RESULTS))["recall"].estimate
    assert error.high < 0 and error.value / whole.value > 0.5  # most of it


def test_the_readme_tells_what_objectives_buy():
    cells = {(each.cell.what, each.cell.quantity): each for each in found(question("race"), RESULTS)}
    samples = "the teacher's samples, minus the control"
    distributions = "forward KL after p*'s prefixes, minus the control"
    divergences = "reverse minus forward KL, after the teacher's prefixes"
    signs = {(samples, "recall"): "-", (divergences, "recall"): "-"}
    for key, sign in signs.items():
        assert cells[key].value == sign and told(cells[key].estimate, README), key
    assert told(cells[samples, "precision"].estimate, README)
    precision = cells[distributions, "precision"]
    assert told(precision.estimate, README) and precision.estimate.low > 0
    words, undecided = " ".join(README.split()), "Holm's adjustment does not separate"
    assert (precision.value == "+") != (f"which {undecided} either" in words)
    assert (cells[samples, "precision"].value == "-") != (f"({undecided} the latter)" in words)
    race = RESULTS.experiment("race")
    on_data = [each.model for each in described(race) if each.loss == "kl_teacher_student" and each.after == "D"]
    for member, estimate in over_control(race, [(name, 1.0) for name in on_data])["recall"].members.items():
        assert estimate.low > 0 and told(estimate, README), member
    assert len([each for each in described(race) if each.tau is not None]) == 19 and race.num_seeds == 3
    assert race.provenance["experiment"]["num_train"] == 12000


def fared(counts: dict[str, int]) -> str:
    return f"right in {counts[AS_PREDICTED]} and contradicted in {counts[CONTRADICTED]} of {sum(counts.values())}"


def test_the_scripts_readme_tells_how_the_rivals_of_the_race_fared():
    asked, words = question("race"), " ".join(OF_SCRIPTS.replace("*", "").split())
    race, cells = RESULTS.experiment("race"), found(asked, RESULTS)
    part = words[words.index("Race. A cell is") : words.index("Sparsity. Students")]
    for rival in asked.rivals:
        name = part.lower().index(rival)
        assert fared(tally(rival, cells)) in part[name : name + 160], rival
    reverse = next(each for each in cells if each.cell.what.startswith("reverse") and each.cell.quantity == "precision")
    assert reverse.value == "0" and reverse.estimate.p_beyond(0.0195) > 0.05 > reverse.estimate.p_beyond(0.0196)
    assert "holds for a margin of 0.0196 and more" in words
    both = RESULTS.experiment("sparsity").provenance["seconds"]  # of the directory that they share
    assert f"({both / 3600:.1f} hours of work" in words
    verdicts = [[claim.verdict for claim in language_claims(each)] for each in (race, RESULTS)]
    assert (verdicts[0] == verdicts[1]) == ("verdicts here that they have with 6,000 sequences" in words)


@pytest.mark.parametrize("name", ["race", ""])
def test_the_scripts_readme_tells_how_long_a_control_is_trained_and_what_more_would_gain(name):
    results = RESULTS.experiment(name) if name else RESULTS
    gains, (epochs,) = results.control_gains, results.control_epochs
    most = f"at most {upper_bound(gains):.3f} by a one-sided 95 % interval"
    told_of = f"half as many again gain {np.mean(gains):.3f} validation nats on average over seeds, {most}"
    assert f"direct student of {epochs} epochs: {told_of}" in " ".join(OF_SCRIPTS.split())
    assert upper_bound(gains) < FINISHED == 0.01 and len(gains) == results.num_seeds
    for file in ("control.csv", "control.parquet"):
        assert (COMMITTED / "race" / file).read_bytes() == (COMMITTED / "sparsity" / file).read_bytes()


def test_the_scripts_readme_tells_what_sparsity_costs():
    sparsity, asked = RESULTS.experiment("sparsity"), question("sparsity")
    whole, *others = [each for each in described(sparsity) if each.after == "D" and each.tau is not None]
    recall = {each.objective: beside_control(sparsity, each)["recall"] for each in (whole, *others)}
    epochs = {each: [sparsity.evaluated[each.model, seed] for seed in range(3)] for each in (whole, *others)}
    rows = [[whole.objective, ", ".join(map(str, epochs[whole])), "", "", recall[whole.objective]]]
    for each in others:
        apart = [sparsity.difference(name, (each.model, 1.0), (whole.model, 1.0)) for name in ("precision", "recall")]
        rows.append([each.objective, ", ".join(map(str, epochs[each])), *apart, recall[each.objective]])
    header = ["objective", "selected epochs", "precision", "recall", "recall over the control"]
    assert markdown(header, rows) in OF_SCRIPTS
    cells = found(asked, RESULTS)
    of_epochs = {each.cell.ours[0] for each in cells if each.value == EPOCHS}
    assert of_epochs == {each.model for each, found_at in epochs.items() if set(found_at) != {6}}
    assert {each.objective for each, of in epochs.items() if set(of) != {6}} == {"top k, k = 8", "top k, k = 64"}
    words = " ".join(OF_SCRIPTS.replace("*", "").split())
    for name in ("drawn ids, m = 1", "drawn ids, m = 4", "drawn ids, m = 16", "top k and tail, k = 64"):
        assert str(recall[name]) in words
    for rival in ("one optimum", "variance", "free tail"):
        assert fared(tally(rival, cells)) in words[words.index(f"{rival} (") :][:150], rival
    gained = [each.value for each in cells if "free tail" in each.cell.predicted and each.cell.quantity == "precision"]
    assert gained == ["+", "+"]


def test_the_scripts_readme_tells_what_capacity_does():
    asked, cells = question("capacity"), found(question("capacity"), RESULTS)
    runs = {run: RESULTS.experiment("capacity", run) for run in dict.fromkeys(c.run for c in asked.cells)}
    own = [each for each in cells if not each.cell.than_run]
    rows = []
    for run, results in runs.items():
        experiment, (epochs,) = results.provenance["experiment"], results.control_epochs
        size = f"{experiment['student']['hidden_size']} x {experiment['student']['num_hidden_layers']}"
        of_run = [each.estimate for each in own if each.cell.run == run]
        rows.append([size, f"{experiment['num_train']:,}", str(epochs), *of_run])
        assert experiment["num_seeds"] == 1 and experiment["student_epochs"] == 6
        left_out = over_control(results, distilled(results))["recall"].left_out
        assert left_out == ((student_name(1.0), 1.0),)  # so that the mean is of the student of 0.8 alone
        assert all(gain < 0.02 for gain in results.control_gains)
    header = ["width x layers", "sequences", "epochs of the control", "precision over the control", "recall over it"]
    assert markdown([*header, "precision over the direct one", "recall over that"], rows) in OF_SCRIPTS
    words = " ".join(OF_SCRIPTS.replace("*", "").split())
    hours = sum(results.provenance["seconds"] for results in runs.values()) / 3600
    assert f"one seed, {hours:.1f} hours of work" in words and "students have six epochs, and whether" in words
    below = sum(each.value == "-" for each in own)
    assert len(own) == 24 and f"Of the 24 differences {below} are below 0 after Holm, and none above" in words
    assert not any(each.value == "+" for each in own)
    for rival in asked.rivals:
        assert fared(tally(rival, cells)) in words, rival
    more = {(c.cell.run, c.cell.quantity): c for c in cells if c.cell.than_run}
    assert {key for key, each in more.items() if each.value == "+"} == {
        ("small-more", "recall"),
        ("medium-more", "recall"),
    }
    assert all(str(each.estimate) in words for (_, quantity), each in more.items() if quantity == "recall")
    decided = deciding("capacity", cells)
    wrong = tally("capacity", decided)[CONTRADICTED]
    assert f"of the {len(decided)} in which data predicts something else it is contradicted in {wrong}" in words
    assert "above its direct student" in " ".join(README.split())


def test_the_scripts_readme_tells_how_the_comparison_at_equal_entropy_was_tried():
    frame, words = pd.read_csv(COMMITTED / "equal_entropy.csv"), " ".join(OF_SCRIPTS.split())
    parts = {part: rows for part, rows in frame.groupby("part")}
    assert parts["curve"]["value"].max() <= 0.003 and parts["curve"]["gap"].max() <= MOST_BETWEEN_KNOTS
    assert f"is met within {parts['curve']['value'].max():.4f} nats" in words
    left_out = {case: rows["value"].abs() for case, rows in parts["left out"].groupby("case")}
    mean, single = left_out["mean error"], left_out["mean absolute error"]
    assert f"with a mean error of {mean.min():.4f} to {mean.max():.4f} nats" in words
    assert f"miss by {single.min():.3f} to {single.max():.3f}" in words
    itself, coverage = parts["itself"], parts["coverage"]
    assert (itself.loc[itself["method"] == "offsets", "value"].abs() < 1e-9).all()
    held = coverage.loc[coverage["method"] != "chord", "value"]
    assert f"hold the truth in {100 * held.min():.1f} to {100 * held.max():.1f} % (" in words
    assert held.between(0.92, 0.98).all()
    chords = itself[(itself["method"] == "chord") & (itself["run"] == "race") & itself["case"].str.startswith("the c")]
    lost = -chords.set_index("quantity")["value"]
    assert f"lost {lost['precision']:.3f} of precision and {lost['recall']:.3f} of recall to itself" in words
    two = coverage[(coverage["method"] == "chord") & (coverage["quantity"] == "recall")]
    three, five = two.loc[two["case"].str.contains("two"), "value"]
    assert f"{100 * three:.0f} % of experiments of three seeds and {100 * five:.0f} % of five" in words
    thinned = parts["thinned"].groupby("quantity")["value"].apply(lambda values: values.abs().max())
    assert f"up to {thinned['precision']:.3f} nats in precision and {thinned['recall']:.3f} in recall" in words


def test_the_scripts_readme_tells_what_another_training_set_gives():
    member, words = (student_name(0.8), 1.0), " ".join(OF_SCRIPTS.split())
    other = over_control(RESULTS.experiment("capacity", "medium-less"), [member])
    knots = [Distribution(model, 0, tau) for model, tau in control(RESULTS)]
    for quantity, found_there in other.items():
        family = [[Distribution(member[0], 0)]]
        (own,) = of_seed(RESULTS.controlled, quantity, family, knots, lambda offsets: offsets[1])
        assert str(found_there.members[member]) in words and str(own.estimate) in words


def test_the_scripts_readme_tells_how_often_the_crossed_interval_holds():
    frame, words = pd.read_csv(COMMITTED / "coverage.csv"), " ".join(OF_SCRIPTS.split())
    crossed = frame.loc[frame["interval"] == "crossed", "coverage"]
    held = f"{100 * crossed.min():.0f} to {100 * crossed.max():.0f} %"
    assert f"the crossed interval in {held}, from two seeds up" in words
    assert frame["num_seeds"].min() == 2


def test_the_scripts_readme_tells_whether_vllm_draws_what_is_enumerated():
    frame = pd.read_csv(REPOSITORY / "scripts" / "vllm" / "exact.csv")
    adjusted_p = adjusted(frame["p_value"].tolist())
    assert frame["draws_from_them"].tolist() == [p >= 0.05 for p in adjusted_p] == [True] * 3
    taus = " and ".join(", ".join(f"{value:g}" for value in frame["tau"]).rsplit(", ", 1))
    values = ", ".join(f"{value:.2f}" for value in frame["p_value"])
    assert f"({frame['sequences'].min():,} sequences at τ = {taus}: p = {values} by" in " ".join(OF_SCRIPTS.split())


def test_the_scripts_readme_tells_how_vllm_and_our_sampler_compare():
    same, speed = (pd.read_csv(REPOSITORY / "scripts" / "vllm" / f"{name}.csv") for name in ("same", "speed"))
    ends, tokens, log_p = (
        f"{row['difference']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        for digits, row in zip((3, 2, 1), same.to_dict("records"), strict=True)
    )
    assert ((same["low"] < 0) & (same["high"] > 0)).all() and set(same["sequences"]) == {5000}
    words, ratio = " ".join(OF_SCRIPTS.split()), speed["ratio"]
    assert f"5,000 sequences of each differ by {ends} in the share that ends, by {tokens} in drawn tokens" in words
    assert f"by {log_p} nats in log p" in words and len(ratio) == 5
    assert f"draws {ratio.median():.2f} ({ratio.min():.2f} to {ratio.max():.2f}) of our tokens a second" in words


def test_the_scripts_readme_tells_what_was_measured_on_a_gpu():
    (row,) = pd.read_csv(REPOSITORY / "scripts" / "costs" / "gpu.csv").to_dict("records")
    assert (row["work"], row["device"], row["compiled"]) == ("train teacher", "NVIDIA H200", False)
    words, times = " ".join(OF_SCRIPTS.split()), row["planned"] / row["tokens_per_second"]
    assert f"at {row['tokens_per_second']:,.0f} tokens a second, {row['share']:.2f} of the peak" in words
    assert f"may be {times:.1f} times as many" in words


def test_the_scripts_readme_shows_other_lengths_and_says_what_they_change():
    frame, words = pd.read_csv(COMMITTED / "length.csv"), " ".join(OF_SCRIPTS.split())
    assert length.shown(frame) in OF_SCRIPTS
    changes = frame.set_index(["model", "epochs"])["longer_changes_nats_by"]
    direct, teacher, coldest = (changes[name, 6] for name in (DIRECT, TEACHER, student_name(0.8)))
    assert direct < 0 < teacher and coldest < 0
    assert f"lowers the direct student's validation nats by {-direct:.3f}, raises the teacher's by" in words
    assert f"{teacher:.3f}, and changes those of the student of τ = 0.8 by {coldest:.3f}" in words
    of_epochs = frame[frame["precision"].notna()].sort_values("epochs").groupby("model")
    assert of_epochs["precision"].apply(lambda x: x.is_monotonic_increasing).all()
    assert of_epochs["entropy"].apply(lambda x: x.is_monotonic_decreasing).all()
    recall = frame.set_index(["model", "epochs"])["recall"].dropna().unstack()
    assert (recall[6] > recall[4]).all() and (recall[9] < recall[6]).to_dict() == {
        TEACHER: True,
        DIRECT: False,
        student_name(0.8): False,
    }


def test_the_scripts_readme_shows_a_larger_training_set_and_what_it_changes():
    frame = pd.read_csv(COMMITTED / "larger.csv")
    assert larger.shown(frame) in OF_SCRIPTS
    values = frame.set_index(["quantity", "num_train", "model"])["value"].unstack()
    assert (values.diff().loc[[("precision", 24000), ("recall", 24000)]] > 0).all(axis=None)
    lead = values.loc["recall", TEACHER] - values.loc["recall", DIRECT]
    gain = values[student_name(0.8)] - values[DIRECT]
    words = " ".join(OF_SCRIPTS.split())
    assert f"in recall goes from {lead[6000]:.2f} to {lead[24000]:.2f}" in words
    pays = [f"{gain['precision', num]:.2f}{{}} for {-gain['recall', num]:.2f}{{}} with" for num in (6000, 24000)]
    assert f"{pays[0].format(' of it', ' of recall')} 6,000 sequences, {pays[1].format('', '')} 24,000" in words


def test_the_scripts_readme_tells_by_what_factor_variances_fall():
    assert factors.table(factors.factors(RESULTS.sequences)) in OF_SCRIPTS


def test_the_scripts_readme_tells_how_often_intervals_hold_the_truth():
    words = " ".join(OF_SCRIPTS.split())
    estimates = pd.read_csv(COMMITTED / "estimators.csv")
    ours = estimates[estimates["estimator"] == "regression"]
    assert f"variance is {ours['ratio'].min():.2f} to {ours['ratio'].max():.2f} of the plain one's" in words
    of_100, larger = (
        100 * ours.loc[which, "coverage"] for which in (ours["num_sequences"] == 100, ours["num_sequences"] > 100)
    )
    assert (
        f"{of_100.min():.1f} to {of_100.max():.1f} % of the sets of 100 sequences, in {larger.min():.0f} to " in words
    )
    assert f"{larger.max():.0f} % of larger ones" in words
    covered = pd.read_csv(COMMITTED / "coverage.csv")
    five = covered[covered["num_seeds"] == 5].groupby("interval")["coverage"]
    assert f"as few as {100 * five.min()['t over seeds']:.0f} % of simulated experiments of five seeds" in words


def test_the_scripts_readme_tells_which_models_were_better_before_their_schedule_ended():
    behind = Counter()
    for name, seed in RESULTS.evaluated:
        rows = RESULTS.rows("perplexity", name)
        nats = np.log(rows[rows["seed"] == seed].sort_values("epoch")["value"].to_numpy())
        behind[name] += nats[-1] - nats.min() > OVERFITTED
    assert {name: num for name, num in behind.items() if num} == {student_name(0.8): 4, student_name(0.875): 3}
    words = " ".join(OF_SCRIPTS.split())
    assert (
        r"at $\tau = 0.8$ in four of five seeds and at $0.875$ in three the last epoch is more than 0.01 nats" in words
    )


def test_the_readme_says_what_each_deviation_from_the_released_code_is_worth():
    readme, rows = (
        " ".join(OF_SCRIPTS.split()),
        RESULTS.released.set_index(["deviation", "quantity", "side"]).sort_index(),
    )
    recall = rows.loc["released initialisation", "recall", "difference"]
    padding = rows["value"]["padding scored in perplexity", "perplexity on validation"]
    again = "end of sequence dropped, text tokenised again", "share of D whose ids change, EOS aside"
    stop = rows["value"]["end of sequence dropped", "stop rate"]
    assert f"costs {-recall['value']:.3f} [{-recall['high']:.3f}, {-recall['low']:.3f}] of recall" in readme
    assert f"perplexity {padding['released']:.1f} instead of {padding['ours']:.1f}" in readme
    assert f"{rows['value'][*again, 'released']:.1%}".replace("%", " %") in readme
    assert stop["released"] == 0 and f"no sample stops ({stop['ours']:.1%} do)".replace("%", " %") in readme
    estimated = rows[rows["low"].notna()].xs("difference", level="side")
    apart = estimated[(estimated["low"] > 0) | (estimated["high"] < 0)]
    assert apart.index.tolist() == [("released initialisation", "recall")]
