"""Place models that exist on the plane of a p*: precision and recall of any causal language models over its ids.

    python -m llm.place MODEL [MODEL ...] --ground_truth HuggingFaceTB/SmolLM2-135M --max_length 128 --num_test 500
    python -m llm.place mine=runs/cpu/checkpoints/student_tau0.80/seed0/epoch-6 other.gguf --profile cpu --part 1/2
    python -m llm.place before=SmolLM2 after=my-adapter --ground_truth ... --prompts questions.txt --chat_template true

A MODEL is a directory, a hub id, a .gguf file, the directory of an adapter or a checkpoint of a run, and may have a
name: NAME=MODEL. p* and its test samples are made as stage 1 does, and the models are sampled and scored as stage 4
does; nothing is trained. The first model is the baseline, if --baseline names no other: it is sampled at --temperatures
too, which is the control at equal self-entropy. With --prompts, each test sequence follows a prompt of the file, which
is not scored, and no prompt has two: intervals are over prompts. Writes what stage 4 writes, in --out (default
runs/place). bash scripts/place.sh does the same in JOBS parts, and draws the figure.
"""

from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from llm import metrics, pipeline
from llm.distributions import Distribution
from llm.intervals import Estimate
from llm.machine import preflight, processes
from llm.machine.processes import say
from llm.models import given, ground_truth
from llm.pipeline import EVALUATE, TRUTH
from llm.results import evaluation
from llm.results.advantage import MOST_BETWEEN_KNOTS, QUANTITIES, of_seed, reached, widest_gap
from llm.results.sequences import Sequences, read_sequences
from llm.results.table import markdown
from llm.run import Run, open_run
from llm.samplers import sample_sets
from llm.settings import prompts
from llm.settings.parts import Part
from llm.settings.placed import Placed
from llm.store import locks

COMPARED = ("precision", "recall", "entropy")


def fields_of(args: Namespace, values: dict[str, Any]) -> dict[str, Any]:
    """Return what a command line says of an experiment: nothing is trained, these models are placed, after prompts."""
    fields = dict(teacher=None, student=None, students=[], students_of_truth=False, num_seeds=1)
    fields |= dict(placed=[each.model_dump() for each in args.models])
    fields |= dict(baseline=values["baseline"] or args.models[0].name)
    if args.prompts is not None:
        found = prompts.read(args.prompts)
        fields |= dict(prompt=found, num_test=min(values["num_test"], len(found)))
    return fields


def open_place(argv: list[str] | None = None) -> tuple[Run, Namespace]:
    """Return the run that a command line names, in which nothing is trained, and its other flags."""
    models = dict(dest="models", nargs="+", metavar="MODEL", type=Placed.of, help="a model, or NAME=MODEL")
    after = dict(type=Path, metavar="FILE", help="a prompt a line; in .jsonl {'text': ...} or {'ids': [...]}")
    placing = dict(profile="place", out="place", positional=models, fields_of=fields_of)
    return open_run(__doc__, argv, **placing, prompts=after)


def main() -> None:
    run, args = open_place()
    works = [work for work in run.works("prepare", "sample", "keep", "score") if _is_needed(work)]
    if args.dry_run:
        return say("\n".join(map(run.describe, works)))
    sample_sets.check(run, works)
    ground_truth.check(run.experiment, run.paths)
    given.check(run, EVALUATE)
    preflight.need_writable(run.paths.root)
    with run.writing():
        ground_truth.keep(run)
        given.keep(run, EVALUATE)
        _draw_test_set(run)
        evaluation.complete(run, [TRUTH, *pipeline.evaluated(run.experiment)])
    if processes.is_main() and (path := run.paths.results / "sequences.parquet").is_file():
        say(beside_baseline(run, read_sequences(path)))


def _draw_test_set(run: Run) -> None:
    """Draw p*'s test set; of parts side by side one does it, and the others wait for what they score."""
    with locks.one_at_a_time(run.paths.lock, "test") if processes.count() == 1 else nullcontext():
        sample_sets.complete(run, [run.test_set(TRUTH)], Part())


def _is_needed(work: pipeline.Work) -> bool:
    """Return whether a work is one of placing: of p*'s sets the test set alone is drawn."""
    return work.script == EVALUATE or work.kind == "prepare" or work.data.split == "test"


def beside_baseline(run: Run, sequences: Sequences) -> str:
    """Return in Markdown what each other model has over the baseline, nats per token, with 95 % intervals.

    As they are: of the same test sequences in recall, of each model's own samples in precision and entropy. And at the
    same self-entropy: over the baseline, sampled at every temperature.
    """
    placed = pipeline.placed(run.experiment)
    baselines = [each for each in placed if each.model == run.experiment.baseline]
    rows, far = [], []
    for model in placed:
        if model not in baselines:
            baseline = next((each for each in baselines if each.seed == model.seed), baselines[0])
            control = [each for each in sequences.distributions() if each.at(1.0) == baseline]
            found = {name: [{0: sequences.estimate(name, each)} for each in (model, baseline)] for name in COMPARED}
            differences = [metrics.difference(name, *both) for name, both in found.items()]
            over_control, gap = _over_control(sequences, model, control)
            if gap > MOST_BETWEEN_KNOTS:
                far.append(f"{_name(model, placed)} ({gap:.2f} nats)")
            rows.append([_name(model, placed), *differences, *over_control])
    titles = ["precision", "recall", "H(q)", *(f"{name} at equal H(q)" for name in QUANTITIES)]
    num = run.experiment.num_test
    basis = f"over {num:,} sequences" + ", each after another prompt" * (len(run.language.prompts) >= num)
    paired = ", of the same seed where there are several" * (len(baselines) > 1)
    told = f"each model q minus {run.experiment.baseline}{paired}: nats per token, {basis}"
    lines = [told, "", markdown(["model", *titles], rows)]
    if far:
        near = f"more --temperatures, {MOST_BETWEEN_KNOTS:g} nats apart at most, tell better"
        lines += ["", f"the baseline's two temperatures around some models lie far apart: {', '.join(far)}; {near}"]
    return "\n".join(lines)


def _over_control(
    sequences: Sequences, model: Distribution, control: list[Distribution]
) -> tuple[list[Estimate | str], float]:
    """Return what a model has over the control in each of QUANTITIES, and how far apart its neighbouring knots are.

    Where the control does not reach its self-entropy, say so instead; the distance is 0 then.
    """
    own, *knots = (sequences.estimate("entropy", each).value for each in (model, *control))
    own, knots = np.array([own]), np.array(knots)
    if not reached(own, knots).all():
        return ["the baseline never has its self-entropy"] * len(QUANTITIES), 0.0
    found = [of_seed(sequences, name, [[model]], control, lambda family: family[1]) for name in QUANTITIES]
    return [number.estimate for (number,) in found], widest_gap(own, knots)


def _name(model: Distribution, placed: list[Distribution]) -> str:
    """Return a model's name, with its seed where others have the same."""
    return str(model) if [each.model for each in placed].count(model.model) > 1 else model.model


if __name__ == "__main__":
    processes.run_entry(main)
