"""The README's tables and sentences are those of the committed results."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm.config import REPOSITORY
from llm.distributions import DIRECT, TEACHER, student_name
from llm.intervals import Estimate, adjusted
from llm.table import markdown, table_over_seeds
from scripts.analysis.advantage import advantages, distilled, of_truth, sampled
from scripts.analysis.claims import claims, language_claims
from scripts.analysis.objectives import described, over_control
from scripts.analysis.predictions import AS_PREDICTED, AS_THEY_ARE, CONTRADICTED, EQUAL_ENTROPY, found, question, tally
from scripts.analysis.results import COMMITTED, Results
from scripts.evidence import factors, larger, length
from scripts.evidence.length import OVERFITTED
from scripts.figures.capacity import SIZES

RESULTS = Results(COMMITTED)
ERROR = "teacher's error"
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


def test_the_readme_tells_the_advantage_over_the_control():
    for quantity, estimate in advantages(RESULTS, distilled(RESULTS), sampled(RESULTS)).items():
        assert told(estimate, README), f"{quantity} {estimate}"


def test_the_readme_tells_what_is_selectivity_and_what_the_teachers_error():
    ours, truths, control = distilled(RESULTS), of_truth(RESULTS), sampled(RESULTS)
    for quantity, estimate in advantages(RESULTS, truths, control).items():
        assert told(estimate, README), f"{quantity} {estimate}"
    whole, error = (advantages(RESULTS, ours, other)["recall"] for other in (control, truths))
    assert error.high < 0 and error.value / whole.value > 0.5  # mostly


def test_the_readme_tells_what_objectives_buy():
    cells = {(each.cell.what, each.cell.quantity): each for each in found(question("race"), RESULTS)}
    samples = "the teacher's samples, minus the control"
    distributions = "forward KL after p*'s prefixes, minus the control"
    divergences = "reverse minus forward KL, after the teacher's prefixes"
    signs = {(samples, "precision"): "0", (samples, "recall"): "-"}
    signs |= {(distributions, "precision"): "0", (distributions, "recall"): "+", (divergences, "recall"): "-"}
    for key, sign in signs.items():
        assert cells[key].sign == sign and told(cells[key].estimate, README), key
    race = RESULTS.experiment("race")
    assert len([each for each in described(race) if each.tau is not None]) == 19 and race.num_seeds == 3
    assert race.provenance["experiment"]["num_train"] == 12000


def test_the_scripts_readme_tells_how_the_rivals_of_the_race_fared():
    asked, words = question("race"), " ".join(OF_SCRIPTS.replace("*", "").split())
    race, cells = RESULTS.experiment("race"), found(asked, RESULTS)
    counts = {rival: tally(rival, cells) for rival in asked.rivals}
    num = {rival: sum(each.values()) for rival, each in counts.items()}
    wrong, right = ({rival: each[how] for rival, each in counts.items()} for how in (CONTRADICTED, AS_PREDICTED))
    assert f"is contradicted in {wrong['sharpness']} of {num['sharpness']}, the teacher's error" in words
    assert f"in {wrong[ERROR]} of {num[ERROR]}, information" in words
    assert wrong["information"] == 0 and f"in none of {num['information']} and right in {right['information']}" in words
    assert f"right in {right['mode seeking']} of {num['mode seeking']}, exposure" in words
    assert right["exposure"] == 0 and f"in none of {num['exposure']}." in words
    both = RESULTS.experiment("sparsity").provenance["seconds"]  # of the directory that they share
    assert f"({both / 3600:.1f} hours of work" in words
    verdicts = [[claim.verdict for claim in language_claims(each)] for each in (race, RESULTS)]
    assert verdicts[0] == verdicts[1] and "verdicts here that they have with 6,000 sequences" in words


def test_the_scripts_readme_tells_which_models_of_the_race_are_finished():
    frame = pd.read_csv(COMMITTED / "race" / "length.csv")
    at = frame.set_index(["epochs", "model"])
    forward = "student_kl_teacher_student_on_ground_truth_tau1.00"
    finished = {TEACHER: True, DIRECT: False, student_name(0.8): True, forward: True}
    assert at.loc[6, "finished"].to_dict() == finished
    control = pd.read_csv(COMMITTED / "race" / "control.csv")
    by_epochs = control.pivot(index="seed", columns="epochs", values="nats")
    assert control[control["taken"]]["epochs"].tolist() == [9, 9, 9] and by_epochs.columns.tolist() == [6, 9, 14]
    assert at["nats"][9, DIRECT] == pytest.approx(by_epochs[9][0])  # two machines, the same training
    first, second = (by_epochs[6] - by_epochs[9]).mean(), (by_epochs[14] - by_epochs[9]).abs().max()
    change = f"lower its validation nats by {first:.3f} on average; fourteen change them by at most {second:.3f} ("
    assert f"a direct student of nine epochs, which {change}" in " ".join(OF_SCRIPTS.split())
    for name in ("control.csv", "control.parquet"):
        assert (COMMITTED / "race" / name).read_bytes() == (COMMITTED / "sparsity" / name).read_bytes()


def test_the_scripts_readme_tells_what_sparsity_costs():
    sparsity, asked = RESULTS.experiment("sparsity"), question("sparsity")
    whole, *others = [each for each in described(sparsity) if each.after == "D" and each.tau is not None]
    recall = {each.objective: over_control(sparsity, each)["recall"] for each in (whole, *others)}
    rows = [[whole.objective, "", "", recall[whole.objective]]]
    for each in others:
        apart = [sparsity.difference(name, (each.model, 1.0), (whole.model, 1.0)) for name in ("precision", "recall")]
        rows.append([each.objective, *apart, recall[each.objective]])
    assert markdown(["objective", "precision", "recall", "recall over the control"], rows) in OF_SCRIPTS
    assert recall["drawn ids, m = 1"].high < 0 and recall["drawn ids, m = 16"].value > 0.5 * recall["forward KL"].value
    alone, with_tail = ([recall[f"top k{tail}, k = {k}"] for k in (8, 64)] for tail in ("", " and tail"))
    assert all(each.high < 0 for each in (*alone, *with_tail))
    assert recall["drawn ids, m = 4"].low < 0 < recall["drawn ids, m = 4"].high
    cells = found(asked, RESULTS)
    counts = {rival: tally(rival, cells) for rival in asked.rivals}
    num = {rival: sum(each.values()) for rival, each in counts.items()}
    wrong, right = ({rival: each[how] for rival, each in counts.items()} for how in (CONTRADICTED, AS_PREDICTED))
    words = " ".join(OF_SCRIPTS.replace("*", "").split())
    assert f"is contradicted in {wrong['one optimum']} of {num['one optimum']}, variance" in words
    assert f"in {wrong['variance']} of {num['variance']} and right in {right['variance']}, bias" in words
    assert f"right in {right['bias']} of {num['bias']}, and free tail" in words
    assert f"contradicted in {wrong['free tail']} of {num['free tail']}: precision is gained" in words
    gained = [each.sign for each in cells if "free tail" in each.cell.predicted and each.cell.quantity == "precision"]
    assert gained == ["+", "+"]


def test_the_scripts_readme_tells_what_capacity_does():
    asked, cells = question("capacity"), found(question("capacity"), RESULTS)
    runs = {run: RESULTS.experiment("capacity", run) for run in dict.fromkeys(c.cell.run for c in cells)}
    rows = []
    for run, results in runs.items():
        experiment, (epochs,) = results.provenance["experiment"], results.control_epochs
        size = f"{experiment['student']['hidden_size']} x {experiment['student']['num_hidden_layers']}"
        of_run = [each.estimate for each in cells if each.cell.run == run]
        rows.append([size, f"{experiment['num_train']:,}", str(epochs), *of_run])
        assert experiment["num_seeds"] == 1 and experiment["student_epochs"] == 6
    header = ["width x layers", "sequences", "epochs of the control", "precision over the control", "recall over it"]
    assert markdown([*header, "precision over the direct one", "recall over that"], rows) in OF_SCRIPTS
    words = " ".join(OF_SCRIPTS.replace("*", "").split())
    hours = sum(results.provenance["seconds"] for results in runs.values()) / 3600
    assert f"one seed, {hours:.1f} hours of work" in words and "students have six epochs, and whether" in words
    assert [each.sign for each in cells] == 24 * ["-"] and "All 24 differences are below 0, after Holm" in words
    counts = {rival: tally(rival, cells) for rival in asked.rivals}
    for rival, told_of in (("capacity", "is contradicted in"), ("data", "is right in")):
        wrong = told_of.endswith("contradicted in")
        number = counts[rival][CONTRADICTED if wrong else AS_PREDICTED]
        assert f"{rival} {told_of} {number} of {sum(counts[rival].values())}" in words
    contradicted = {(c.cell.run, c.cell.quantity) for c in cells if c.verdict("capacity") == CONTRADICTED}
    assert contradicted == {("small-less", "precision"), ("small-more", "precision")}
    estimates = {(each.cell.run, each.cell.at, each.cell.quantity): each.estimate.value for each in cells}
    for at in (EQUAL_ENTROPY, AS_THEY_ARE):
        less, more = ([estimates[f"{size}-{d}", at, "recall"] for size in SIZES] for d in ("less", "more"))
        assert all(a < b for a, b in zip(less, more, strict=True))  # less is lost with more data
        for of_sizes in (less, more):
            assert (of_sizes == sorted(of_sizes, reverse=True)) == (at == AS_THEY_ARE)  # and by smaller students
    assert "above its direct student, finished or not" in " ".join(README.split())


def without_its_control(experiment: str, run: str, folder: Path) -> Results:
    """The results of a run beside its own direct student, in a folder of results."""
    results = Results(folder).experiment(experiment, run)
    results.directory.mkdir(parents=True)
    for name in ("table.csv", "sequences.parquet", "provenance.json"):
        shutil.copy(COMMITTED / experiment / run / name, results.directory)
    return results


def test_the_scripts_readme_tells_what_a_finished_control_changes_in_the_race(tmp_path):
    samples = [each for each in question("race").cells if each.what == "the teacher's samples, minus the control"]
    own, finished = (
        {each.quantity: f"{each.measured(results).value:.3f}" for each in samples}
        for results in (without_its_control("race", "", tmp_path), RESULTS.experiment("race"))
    )
    recall, precision = (f"from {own[name]} to {finished[name]} in {name}" for name in ("recall", "precision"))
    assert f"takes the samples' students {recall} and {precision}" in " ".join(OF_SCRIPTS.split())


def test_the_scripts_readme_tells_what_a_finished_control_changes_in_capacity(tmp_path):
    asked = question("capacity")
    for run in {cell.run for cell in asked.cells}:
        without_its_control("capacity", run, tmp_path)
    both = [found(asked, results) for results in (Results(tmp_path), RESULTS)]
    signs = Counter(each.sign for each in both[0])
    (open_cell,) = (each.cell for each in both[0] if each.sign == "0")
    assert (open_cell.run, open_cell.at, open_cell.quantity) == ("small-less", EQUAL_ENTROPY, "precision")
    words = " ".join(OF_SCRIPTS.replace("*", "").split())
    assert f"{signs['-']} were below 0 and {signs['0']}, in the precision of the smallest, not separated" in words
    told_of = {"recall": {}, "precision": {}}
    for own, finished in zip(*both, strict=True):
        if own.cell.at == EQUAL_ENTROPY:
            told_of[own.cell.quantity][own.cell.run] = own.estimate.value, finished.estimate.value
    moved = {run: f"from {a:.3f} to {b:.3f}" for run, (a, b) in told_of["recall"].items() if abs(a - b) > 1e-6}
    assert moved.keys() == {"small-less", "small-more", "medium-less"}
    smallest = f"the smallest students {moved['small-less']} and {moved['small-more']} in recall"
    most = max(abs(a - b) for a, b in told_of["precision"].values())
    of_precision = f"and none by more than {most:.3f} in precision"
    assert f"{smallest}, the middle one of 6,000 sequences {moved['medium-less']}, {of_precision}" in words


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


def test_the_scripts_readme_shows_other_lengths_and_says_what_the_rule_finds():
    frame = pd.read_csv(COMMITTED / "length.csv")
    assert length.shown(frame) in OF_SCRIPTS
    judged = frame[frame["finished"].notna()].set_index(["epochs", "model"])["finished"].astype(bool)
    assert len(judged[6]) == 10 and judged[6].all()
    assert judged[4].to_dict() == {TEACHER: False, DIRECT: False, student_name(0.8): True}
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
    crossed = 100 * five.min()["crossed"], 100 * five.max()["crossed"]
    assert f"crossed interval in {crossed[0]:.0f} to {crossed[1]:.0f} %" in words


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
