"""The README's tables and sentences are those of the committed results."""

from collections import Counter

import numpy as np
import pandas as pd

from llm.config import REPOSITORY
from llm.distributions import DIRECT, student_name
from llm.intervals import Estimate
from llm.table import table_over_seeds
from scripts.analysis.advantage import advantages, distilled, sampled
from scripts.analysis.claims import claims
from scripts.analysis.results import COMMITTED, Results
from scripts.evidence import factors
from scripts.evidence.length import OVERFITTED

RESULTS = Results(COMMITTED)
README, OF_SCRIPTS = ((REPOSITORY / name).read_text() for name in ("README.md", "scripts/README.md"))


def test_readme_and_its_tables_are_of_the_committed_result():
    assert table_over_seeds(RESULTS.table) in README
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


def test_the_readme_tells_the_price_of_a_second_fit():
    change = RESULTS.difference("precision", (student_name(1.0), 1.0), (DIRECT, 1.0))
    assert change.high < 0 and told(change, README)


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
    found = pd.read_csv(COMMITTED / "coverage.csv")
    five = found[found["num_seeds"] == 5].groupby("interval")["coverage"]
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
