"""When sequences end: how long those are that end by themselves, and how many do, against p*."""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from scripts.rows import labels, rows_of
from scripts.style import COLOURS, COLUMN_INCHES, MARKERS, colours, mark, model_axis, plt


def ended(samples: list[dict], longest: int) -> np.ndarray:
    """[longest]: share of the sequences of at most 0, 1, ... longest - 1 generated tokens, the mean over the seeds.

    Not of `longest` itself, at which those end too that were cut off.
    """
    counts = [np.bincount(range(len(each["lengths"])), each["lengths"], longest + 1) for each in samples]
    return np.mean([np.cumsum(each / each.sum())[:-1] for each in counts], axis=0)


def stop_rate(samples: dict) -> dict:
    """The share of sequences that ended with EOS, and its 95 % interval (Wilson 1927)."""
    num = samples["num_sequences"]
    interval = binomtest(round(samples["stop_rate"] * num), num).proportion_ci(method="wilson")
    return {"value": samples["stop_rate"], "low": interval.low, "high": interval.high}


def draw(result: dict) -> Figure:
    """The distribution of lengths below the longest, and the stop rate, in percent of the sequences."""
    palette, names = colours(result), labels(result)
    samples = {name: [row["samples"] for row in rows_of(result, name)] for name in names}
    truth = result["ground_truth"]["samples"]
    longest = max(len(each["lengths"]) for group in [*samples.values(), [truth]] for each in group) - 1

    figure, (left, right) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 0.58 * COLUMN_INCHES))
    for name, label in names.items():
        dashes = "dashed" if name in MARKERS else "solid"
        style = dict(color=palette[name], linestyle=dashes, linewidth=1.3, label=label)
        left.step(range(longest), 100 * ended(samples[name], longest), where="post", **style)
    black = dict(color=COLOURS["ground_truth"], linewidth=1.6, label="$p^*$")
    left.step(range(longest), 100 * ended([truth], longest), where="post", **black)
    left.set(title="ended so far", xlabel="generated tokens", ylabel="% of the sequences", ylim=(0, None))

    for place, name in enumerate(names):
        rates = [{key: 100 * value for key, value in stop_rate(each).items()} for each in samples[name]]
        mark(right, place, rates, MARKERS.get(name, "o"), palette[name])
    rate = stop_rate(truth)
    right.axhline(100 * rate["value"], color=COLOURS["ground_truth"], linewidth=1)
    right.axhspan(100 * rate["low"], 100 * rate["high"], color=COLOURS["ground_truth"], alpha=0.1, linewidth=0)
    right.set(title="ended with EOS", ylabel="% of the sequences", ylim=(0, None))
    model_axis(right, list(names.values()))
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=7, fontsize=8, handlelength=1.4, columnspacing=1)
    return figure
