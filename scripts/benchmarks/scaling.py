"""How the cost of sampling, scoring and training grows: with the number of sequences, their length, the vocabulary.

    python -m scripts.benchmarks.scaling

Each is varied over a decade around the cpu profile's teacher (random weights; a cost does not depend on them), the
others kept. Time is the median of some runs in turn; memory is of a process of its own, above the weights. Draws
figs/scaling.png and .pdf, and writes the numbers beside them.
"""

import statistics
from pathlib import Path

import numpy as np

from llm import likelihood
from llm.distributions import Samples, Stream
from llm.machine import progress
from llm.machine.processes import UsageError, run_entry
from llm.sampling import sample
from llm.settings import config
from llm.settings.config import REPOSITORY
from llm.store import files
from scripts.benchmarks.common import cpu_experiment, language_of, peak_memory, random_teacher, timed, train_once

CENTRE = {"num_sequences": 256, "max_length": 64, "vocab_size": 8192}
VARIED = {
    "num_sequences": (256, 800, 2560),
    "max_length": (32, 100, 320),
    "vocab_size": (4096, 12800, 40960),
}
STAGES = ("sampling", "scoring", "training")


def prepare(stage: str, num_sequences: int, max_length: int, vocab_size: int):
    """Return the work of one stage at one size, ready to run."""
    experiment = cpu_experiment(max_length, vocab_size=vocab_size, num_train=num_sequences)
    language, model = language_of(experiment), random_teacher(experiment)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(vocab_size, size=max_length) for _ in range(num_sequences)]
    samples = Samples.of(sequences, 1, np.zeros(num_sequences))

    def sampling() -> None:
        arguments = dict(temperature=1.0, max_length=max_length, batch_size=experiment.sampling_batch_size)
        sample(model.eval(), language, range(num_sequences), stream=Stream.of("benchmark"), **arguments)

    def scoring() -> None:
        likelihood.log_likelihood(model.eval(), samples, experiment.scoring_batch_size)

    def training() -> None:
        train_once(experiment, model, samples)

    return {"sampling": sampling, "scoring": scoring, "training": training}[stage]


def measure(num_runs: int) -> dict:
    """Return {what varies: {stage: {"size": [...], "seconds": [...], "megabytes": [...]}}}."""
    result = {name: {stage: {"size": [], "seconds": [], "megabytes": []} for stage in STAGES} for name in VARIED}
    points = [(name, size, stage) for name, sizes in VARIED.items() for size in sizes for stage in STAGES]
    with progress.bar("sizes", len(points), unit="size") as shown:
        for name, size, stage in points:
            sizes, row = CENTRE | {name: size}, result[name][stage]
            work = prepare(stage, **sizes)
            work()
            row["size"].append(size)
            row["seconds"].append(round(statistics.median(timed(work)[0] for _ in range(num_runs)), 3))
            row["megabytes"].append(round(peak_memory(prepare, stage, *sizes.values()) / 1e6, 1))
            shown.update()
    return result


def draw(result: dict):
    """Return the figure: time above, memory below; a column for each quantity that varies."""
    from matplotlib.ticker import NullFormatter, NullLocator

    from scripts.analysis.style import COLOURS, COLUMN_INCHES, plt

    colours = dict(zip(STAGES, (COLOURS["student"], COLOURS["student_direct"], COLOURS["teacher"]), strict=True))
    titles = {"num_sequences": "sequences", "max_length": "tokens a sequence", "vocab_size": "ids"}
    figure, axes = plt.subplots(2, 3, figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES), sharey="row", sharex="col")
    for column, name in zip(axes.T, result, strict=True):
        for axis, quantity in zip(column, ("seconds", "megabytes"), strict=True):
            for stage in STAGES:
                row = result[name][stage]
                axis.loglog(row["size"], row[quantity], "o-", color=colours[stage], markersize=3, label=stage)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xticks(row["size"], [f"{size:,}" for size in row["size"]], rotation=45, ha="right")
        column[1].set_xlabel(titles[name])
    for row, ticks in zip(axes, ((0.3, 1, 3, 10), (50, 100, 200, 400)), strict=True):
        row[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        row[0].yaxis.set_minor_locator(NullLocator())
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("MB above the weights")
    figure.align_xlabels()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--num_runs", type=int, default=3)
    command.add_argument("--figures", type=Path, default=REPOSITORY / "figs")
    command.add_argument("--redraw", action="store_true", help="draw figs/scaling.json again, measure nothing")
    args = command.parse_args()
    from scripts.analysis.style import save

    result = files.read_json(args.figures / "scaling.json") if args.redraw else measure(args.num_runs)
    if result is None:
        raise UsageError(f"{args.figures / 'scaling.json'} is not there: run without --redraw")
    files.write_json(args.figures / "scaling.json", result)
    save(draw(result), args.figures, "scaling")
    for name, stages in result.items():
        for stage, row in stages.items():
            low, high = (row["seconds"][k] / row["size"][k] for k in (0, -1))
            print(f"{stage} over {name}: the cost of one at 10 times as many is {high / low:.2f} of the first's")


if __name__ == "__main__":
    run_entry(main)
