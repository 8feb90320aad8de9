"""What an experiment costs, before it is paid for: work, GPU hours, memory and disk of every stage.

    python -m scripts.costs.plan --profile paper --gpu h100 --num_gpus 8 --price 2.50
    python -m scripts.costs.plan --profile cpu --calibrate             # seconds here, from half a minute of work
    python -m scripts.costs.plan --profile cpu --calibrate --compare   # beside what the run in runs/cpu took

Needs no network, and of the models only their sizes. Lengths are max_length unless they were measured: by a sample
set that is there, or by --calibrate. The formulas and their sources are in scripts/costs/cost.py. Hours are the larger
of arithmetic at the stated utilisation and of memory bandwidth; sampling takes as much longer as it does by published
rates of vLLM. Scoring is float32, as everywhere here. Which models stage 4 evaluates at their last epoch too, because
another one is selected, is known after training: their samples and scores are in no plan, nor in what a run took.
"""

import json
import math
import os
import subprocess
import tempfile
from argparse import Namespace

import pandas as pd

from llm.distributions import ROLES, Distribution
from llm.machine.processes import UsageError, run_entry
from llm.pipeline import EVALUATE, LAST, SCRIPTS, TRAIN, TRUTH, Work, works
from llm.run import Run
from llm.samplers import vllm_process
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.store import files
from llm.store.paths import Paths
from scripts.costs.cost import (
    GPUS,
    UTILISATION,
    checkpoint_bytes,
    cost,
    published,
    sample_bytes,
    transient_bytes,
)
from scripts.costs.geometry import geometry

NUM_STARTS = 8  # of programs, by the four scripts
# Until vLLM's first answer, of a Llama of 3.4 GiB that was compiled before: github.com/vllm-project/vllm/issues/20264.
START_OF_VLLM_S = 59
PRICED_AS = {"sample": "sample", "train": "train", "select": "score", "score": "score"}  # the other kinds cost nothing


def longest(experiment: Experiment) -> float:
    """Return the generated tokens of a sequence that nothing ends, on average; a prompt given as text counts as one."""
    lengths = [1 if isinstance(prompt, str) else len(prompt) for prompt in experiment.prompts]
    return experiment.max_length - sum(lengths) / len(lengths)


def mean_length(run: Run, work: Work) -> float | None:
    """Return the generated tokens a sequence of the set that a work draws; None where there is none yet."""
    drawn = files.read_record(run.path(work) / "manifest.json") if work.kind == "sample" else None
    return drawn["num_scored_tokens"] / drawn["num_sequences"] if drawn else None


def priced(experiment: Experiment, paths: Paths, length: float | None = None) -> pd.DataFrame:
    """Return a row for each work that costs something: sequences, tokens, bytes on disk as planned and as taken.

    length: generated tokens of every sequence; None for the mean of the set that is there, or else of the longest.
    """
    rows, run = [], Run(experiment, paths)
    for work in works(experiment):
        if work.kind not in PRICED_AS:
            continue
        kind, role = PRICED_AS[work.kind], work.by.role
        number = work.epochs * (work.data.num_sequences if work.data else experiment.num_train)
        model, mean = geometry(role, experiment, paths), length or mean_length(run, work) or longest(experiment)
        row = {"script": work.script, "kind": kind, "role": role, "sequences": number, "length": mean}
        # Of p*'s pass, or of a training, which is what the run's timings name.
        row["within"] = work.kind == "score" and work.by != TRUTH
        # What a sampler is started for: all sets of a model, but in stage 4 each set.
        row["started"] = str(work.data if work.script == EVALUATE else work.by.at(1.0)) if kind == "sample" else ""
        row |= {
            "tokens": number * mean,
            "disk": 0,
            "disk_taken": 0 if kind == "score" else files.size(run.path(work)),
        }
        if kind == "train":
            row["disk"] = checkpoint_bytes(model, work.epochs)
        if kind == "sample":
            row["disk"] = sample_bytes(number, mean, model.vocab_size)
        rows.append(row)
        none = {"disk": 0, "disk_taken": 0, "within": True, "started": ""}
        if work.student:  # its teacher's forward passes
            rows.append(row | none | {"kind": "score", "role": "teacher"})
        if kind == "train" and not work.data:  # its own prefixes
            rows.append(row | none | {"kind": "sample"})
    return pd.DataFrame(rows)


def table(head: str, rows: list[list[str]]) -> str:
    """Return a Markdown table. head: titles, with a comma between two."""
    titles = head.split(", ")
    return "\n".join("| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows])


def num_starts(rows: pd.DataFrame) -> int:
    """Return how often each process starts the sampler; but parts side by side divide those of stage 4."""
    return rows[rows["started"] != ""].groupby("script")["started"].nunique().sum()


def sampling(experiment: Experiment, utilisation: float) -> str:
    """Return what the hours of sampling rest on, in a line."""
    shares = published(utilisation)
    listed = ", ".join(f"{share:.2f} of {model}'s" for model, share in shares.items())
    of_ours = "; no rate of ours on a GPU is known" if experiment.sampler == "own" else ""
    least = f"sampling by {experiment.sampler} at {min(shares.values()):.2f} of the formula's rate"
    return f"{least}: vLLM's published rates are {listed}{of_ours}"


def plan(experiment: Experiment, paths: Paths, args: Namespace) -> str:
    """Return a line for each kind of work with each model in each script (or in args.script), and the sums."""
    models = {role: geometry(role, experiment, paths) for role in ROLES}
    rows = priced(experiment, paths)
    rows = rows[rows["script"] == args.script].reset_index(drop=True) if args.script else rows
    prefixes = experiment.with_values(sampler="own", sampling_dtype="float32")
    costs, gpu = [], GPUS[args.gpu]
    for row in rows.itertuples():
        how = prefixes if row.kind == "sample" and not row.started else experiment
        costs.append(cost(row.kind, row.sequences, row.length, models[row.role], how, gpu, args.utilisation))
    rows = rows.join(pd.DataFrame(costs))
    groups = rows.groupby(["script", "kind", "role"], sort=False)
    sums = groups.sum(numeric_only=True).assign(memory=groups["memory"].max())
    lines = []
    for row in sums.reset_index().itertuples():
        line = [row.script, f"{row.kind} {row.role}", f"{row.sequences:,}", f"{row.tokens:,.0f}"]
        line += [f"{row.flops / 1e15:,.4g}", f"{row.arithmetic / 3600:,.3g}", f"{row.bandwidth / 3600:,.3g}"]
        line += [f"{row.seconds / 3600:,.3g}", f"{row.memory / 1e9:,.3g}", f"{row.disk / 1e9:,.3g}"]
        lines.append(line)
    head = "script, work, sequences, tokens, PFLOP, hours of arithmetic, of bandwidth, in all, GB a GPU, GB on disk"
    starts, waits, beside = num_starts(rows), 0.0, []
    if starts:
        beside.append(sampling(experiment, args.utilisation))
    if starts and experiment.sampler == "vllm":
        waits = starts * args.num_gpus * START_OF_VLLM_S / 3600
        beside.append(f"{waits:,.3g} of the GPU hours, at most, for {starts} starts of vLLM on each GPU")
    hours, disk = sums["seconds"].sum() / 3600 + waits, sums["disk"].sum() / 1e9
    transient = max(transient_bytes(models[role]) for role in ("teacher", "student")) / 1e9
    bill = f", {hours * args.price:,.0f} at {args.price:g} a GPU hour" if args.price else ""
    trains = args.script in (None, TRAIN)
    states = f", and up to {transient:,.3g} GB of states while a model trains" if trains else ""
    evenly = f"{hours / args.num_gpus:,.3g} hours where {args.num_gpus} GPUs divide them evenly"
    return "\n".join(
        [
            *(f"{role}: {model.parameters / 1e6:,.1f}M parameters" for role, model in models.items()),
            f"{args.num_gpus} x {args.gpu}, {args.utilisation:.0%} of its peak arithmetic\n",
            table(head, lines),
            f"\n{hours:,.4g} GPU hours, {evenly}{bill}",
            *beside,
            f"{disk:,.3g} GB on disk{states}",
        ]
    )


def calibrate(experiment: Experiment) -> dict:
    """Return what scripts/costs/calibrate.py measures, started as the stages are; UsageError where it fails."""
    if experiment.sampler == "vllm":
        vllm_process.interpreter()  # or there is none, which is told
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yaml") as profile:
        profile.write(config.render(experiment))
        profile.flush()
        command = ["bash", "-c", "source scripts/launch.sh; stage scripts.costs.calibrate"]
        environment = {**os.environ, "PROFILE": profile.name, "NPROC": "1", "JOBS": "1", "OUT": ""}
        done = subprocess.run(command, cwd=config.REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UsageError("the calibration failed: its own error is above")
    return json.loads(done.stdout.splitlines()[-1])


def timings(paths: Paths) -> pd.DataFrame:
    """Return the tokens and seconds that a run took for each kind of planned work with each role's models."""
    lines = paths.timings.read_text("utf-8").splitlines() if paths.timings.is_file() else []
    rows = pd.DataFrame(map(json.loads, lines), columns=["kind", "model", "what", "tokens", "seconds"])
    rows = rows[~rows["what"].astype(str).str.split("/").str[0].str.endswith(LAST)]
    rows["role"] = [Distribution(model).role for model in rows["model"]]
    return rows.groupby(["kind", "role"])[["tokens", "seconds"]].sum().add_suffix("_taken")


def compare(experiment: Experiment, paths: Paths, measured: dict | None) -> str:
    """Return planned beside measured for each kind of work with each role's models: tokens, bytes, seconds.

    Scores of test sets by the other models are made in p*'s pass, which is planned and measured as one; what a
    student's loss takes beyond its data's likelihood is measured with its training, and planned in operations alone.
    measured: what `calibrate` returns; None leaves the planned seconds out.
    """
    rows = priced(experiment, paths, measured["mean_length"] if measured else longest(experiment))
    rows = rows[~rows["within"]]
    sums = rows.groupby(["kind", "role"], sort=False)[["tokens", "disk", "disk_taken"]].sum()
    sums = sums.join(timings(paths)).fillna(0).reset_index()
    titles = sums["kind"] + " " + sums["role"]
    sums["seconds"] = sums["tokens"] / titles.map(measured["rates"]) if measured else math.nan
    lines = []
    for title, row in zip(titles, sums.itertuples(), strict=True):
        line = [title, f"{row.tokens:,.0f}", f"{row.tokens_taken:,.0f}", f"{row.disk:,}", f"{row.disk_taken:,}"]
        lines.append([*line, f"{row.seconds:,.1f}", f"{row.seconds_taken:,.1f}"])
    in_all = [f"{sums[name].sum(skipna=False):,.1f}" for name in ("seconds", "seconds_taken")]
    head = "work, tokens planned, measured, bytes planned, measured, seconds planned, measured"
    shown = table(head, [*lines, ["all", "", "", "", "", *in_all]])
    if measured:
        beside = f"{NUM_STARTS} starts of {measured['start_s']:.1f} s and {measured['prepare_s']:.1f} s to prepare p*; "
        beside += f"in each process {num_starts(rows)} starts of the sampler of {measured['sampler_s']:.1f} s"
        shown += f"\n\nplanned besides: {beside}"
    return shown


def main() -> None:
    options = {
        "gpu": dict(choices=GPUS, default="h100", help="(default: h100)"),
        "num_gpus": dict(type=int, default=1, help="(default: 1)"),
        "utilisation": dict(type=float, default=UTILISATION, help="share of the peak (default: %(default)s)"),
        "script": dict(choices=SCRIPTS, help="what this one alone costs (default: all four)"),
        "price": dict(type=float, help="of a GPU hour, in your currency"),
        "calibrate": dict(action="store_true", help="time half a minute of the work on this machine"),
        "compare": dict(action="store_true", help="beside what a run took; from runs/PROFILE, or --out"),
        "part": dict(metavar="K/N", help="as the stages take it; the plan is of all parts"),
    }
    experiment, root, args = config.parse(__doc__, **options)
    if args.num_gpus < 1 or not 0 < args.utilisation <= 1 or (args.price is not None and args.price < 0):
        raise UsageError("num_gpus must be at least 1, utilisation above 0 and at most 1, price at least 0")
    paths = Paths(root)
    if args.calibrate or args.compare:
        return print(compare(experiment, paths, calibrate(experiment) if args.calibrate else None))
    print(plan(experiment, paths, args))


if __name__ == "__main__":
    run_entry(main)
