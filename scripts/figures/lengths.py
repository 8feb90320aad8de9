"""When sequences end: how long those are that end by themselves, and how many do, against p*."""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from llm.distributions import GROUND_TRUTH
from llm.intervals import Estimate
from scripts.analysis.results import Results, Series
from scripts.analysis.style import COLOURS, MARKERS, lines, mark, model_axis, panels


def ended(results: Results, model: str, longest: int) -> np.ndarray:
    """Return [longest]: percent of the sequences of at most 0, 1, ... longest - 1 tokens, the mean over the seeds.

    Not of `longest` itself, at which those end too that were cut off.
    """
    shares = []
    for rows in results.by_position("length", model).values():
        counts = np.bincount(rows["position"].astype(int), rows["value"], longest + 1)
        shares.append(np.cumsum(counts / counts.sum())[:-1])
    return 100 * np.mean(shares, axis=0)


def stop_rates(results: Results, model: str) -> Series:
    """Return the percent of each seed's sequences that ended with EOS, and its 95 % interval (Wilson 1927)."""
    rows = results.rows("stop_rate", model)
    found, rates = {}, results.series("stop_rate", model).by_seed
    for (seed, rate), num in zip(rates.items(), rows["num_sequences"], strict=True):
        interval = binomtest(round(rate.value * num), num).proportion_ci(method="wilson")
        found[seed] = Estimate(100 * rate.value, 100 * interval.low, 100 * interval.high)
    return Series.of(found)


def draw(results: Results) -> Figure:
    """Return the distribution of lengths below the longest, and the stop rate, in percent of the sequences."""
    longest = int(results.table.loc[results.table["quantity"] == "length", "position"].max())
    figure, (left, right) = panels(0.58)
    black = dict(color=COLOURS[GROUND_TRUTH], linewidth=1.6, label="$p^*$")
    for name, style in (lines(results) | {GROUND_TRUTH: black}).items():
        left.step(range(longest), ended(results, name, longest), where="post", **style)
    left.set(title="ended so far", xlabel="generated tokens", ylabel="% of the sequences", ylim=(0, None))

    for place, (name, style) in enumerate(lines(results).items()):
        mark(right, place, stop_rates(results, name), MARKERS.get(name, "o"), style["color"])
    rate = stop_rates(results, GROUND_TRUTH).mean
    right.axhline(rate.value, color=COLOURS[GROUND_TRUTH], linewidth=1)
    right.axhspan(rate.low, rate.high, color=COLOURS[GROUND_TRUTH], alpha=0.1, linewidth=0)
    right.set(title="ended with EOS", ylabel="% of the sequences", ylim=(0, None))
    model_axis(right, results)
    style = dict(ncols=7, fontsize=8, handlelength=1.4, columnspacing=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", **style)
    return figure
