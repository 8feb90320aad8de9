"""Stage 1: sample p*, and the teacher at every temperature once there is one.

    python -m llm.generate_data --profile cpu
    python -m llm.generate_data --profile cpu --part 2/4      # a quarter of the shards, beside the other parts

p* gives the training, validation and test sequences. A teacher whose checkpoint has been selected gives a training
set D'_tau at each temperature. Complete sets are verified and left alone; a missing or damaged shard is made again,
to the same bytes.

run_generate_data.sh calls this first, and run_train.sh calls it again after the teacher.
"""

from itertools import groupby

from llm.distributions import SampleSet
from llm.machine import preflight
from llm.machine.processes import run_entry, say
from llm.models import given, ground_truth
from llm.models.language import load_tokenizer
from llm.pipeline import EVALUATE, GENERATE, TRUTH
from llm.run import Run, open_run
from llm.samplers import sample_sets
from llm.settings import config

NUM_SHOWN = 3


def show(run: Run, sample_set: SampleSet) -> None:
    """Print a few sequences as text, for people; nothing is ever tokenised back from it."""
    stored = run.sample_files(sample_set)
    if not stored.path(0).is_file():  # another part's
        return
    tokenizer, samples = load_tokenizer(run.paths.ground_truth), stored.read_shard(0)
    for i in range(min(NUM_SHOWN, len(samples))):
        say(f"  {tokenizer.decode(samples[i])!r}" if tokenizer else f"  {samples[i].tolist()}")


def complete(run: Run, sets: list[SampleSet]) -> None:
    """Keep p* and models that exist where they are not kept yet; draw what is missing of some sets, model by model."""
    ground_truth.keep(run)
    given.keep(run, GENERATE)
    for model, group in groupby(sets, key=lambda each: each.distribution.at(1.0)):
        of_model = list(group)
        if run.find_weights(model) is None:
            say(f"the teacher of seed {model.seed} is not there yet: run_train.sh trains it and then makes its samples")
            continue
        fresh = model == TRUTH and run.sample_files(of_model[0]).manifest() is None
        sample_sets.complete(run, of_model, run.part)
        if fresh:
            show(run, of_model[0])


def main() -> None:
    run, args = open_run(__doc__)
    works = [work for work in run.works("prepare", "keep", "sample") if work.script != EVALUATE]
    if args.dry_run:
        say(config.render(run.experiment))
        return say("\n".join(map(run.describe, works)))
    sample_sets.check(run, works)
    ground_truth.check(run.experiment, run.paths)
    given.check(run, GENERATE)
    preflight.need_writable(run.paths.root)
    with run.writing():
        complete(run, [work.data for work in works if work.data])


if __name__ == "__main__":
    run_entry(main)
