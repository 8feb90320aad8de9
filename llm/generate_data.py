"""Stage 1: sample p*, and the teacher at every temperature once there is one.

    python -m llm.generate_data --profile cpu

p* gives the training, validation and test sequences. A teacher whose checkpoint has been selected gives a training
set D'_tau at each temperature. Complete sets are verified and left alone; a missing or damaged shard is made again,
to the same bytes. With --share any number of runs, on any hosts, draw the shards of the same sets between them; one
that dies is made good by the others.

run_generate_data.sh calls this first, and run_train.sh calls it again after the teacher.
"""

from pathlib import Path

from llm import config, locks, models, paths, preflight, processes, shards
from llm.config import Experiment
from llm.locks import claimed
from llm.paths import GROUND_TRUTH, TEACHER, Paths, Source
from llm.processes import say
from llm.sampling import SampleSet, draw_set

NUM_SHOWN = 3


def ground_truth_sets(experiment: Experiment, where: Paths) -> list[SampleSet]:
    source = Source(GROUND_TRUTH)
    numbers = {"train": experiment.num_train, "validation": experiment.num_validation, "test": experiment.num_test}
    return [SampleSet(source, split, number, where.samples(source, split)) for split, number in numbers.items()]


def teacher_sets(experiment: Experiment, where: Paths, seed: int) -> list[SampleSet]:
    sources = [Source(TEACHER, seed, temperature) for temperature in experiment.temperatures]
    return [SampleSet(source, "train", experiment.num_train, where.samples(source, "train")) for source in sources]


def complete(sets: list[SampleSet], directory: Path, experiment: Experiment, where: Paths) -> None:
    """Say which sets are complete; draw the others from the model in `directory`, loaded only if there are any."""
    todo = [each for each in sets if not shards.is_complete(each.directory)]
    for each in sets:
        if each not in todo:
            say(f"complete: {each.describe()}")
    if not todo:
        return
    language = models.read_language(where)
    todo_bytes = sum(
        preflight.sample_bytes(each.num_sequences, experiment.max_length, language.vocab_size) for each in todo
    )
    preflight.need_disk(where.root, todo_bytes, "sampling")
    state = processes.state()
    device = state.device
    dtype = models.native_dtype(experiment.sampling_dtype, device)
    model = models.load(directory, dtype, device)
    say(f"sampling in {str(dtype).removeprefix('torch.')} on {device.type}, processes: {state.num_processes}")
    for each in todo:
        draw_set(each, model, language, experiment, where)
        say(f"made: {each.describe()}")


def show(sample_set: SampleSet, experiment: Experiment, where: Paths) -> None:
    """A few sequences as text, for people; nothing is ever tokenised back from it."""
    tokenizer = models.load_tokenizer(where)
    first = shards.shard_indices(sample_set.num_sequences, experiment.shard_size)[0]
    samples = shards.read_shard(shards.shard_path(sample_set.directory, 0), first)
    for i in range(min(NUM_SHOWN, len(samples))):
        say(f"  {tokenizer.decode(samples[i])!r}" if tokenizer else f"  {samples[i].tolist()}")


def plan(experiment: Experiment, where: Paths) -> None:
    """What a run would draw, and where: the --dry-run of this stage."""
    everything = ground_truth_sets(experiment, where)
    everything += [each for seed in range(experiment.num_seeds) for each in teacher_sets(experiment, where, seed)]
    for each in everything:
        state = "complete" if shards.read_manifest(each.directory) else "to do"
        tokens = each.num_sequences * experiment.max_length
        say(f"sample {each}: {each.num_sequences:,} sequences, at most {tokens:,} tokens -> {each.directory} ({state})")


def draw_everything(experiment: Experiment, where: Paths) -> None:
    """p* if it is not kept yet or damaged, its sample sets, and those of every teacher that there is."""
    if models.damaged_ground_truth(where) or processes.count() > 1:
        # Entered by all processes of a run, and claimed against other runs that share the work.
        with processes.state().main_process_first(), claimed(where.ground_truth, where, wait=True):
            paths.check_config(where, experiment)
            if damaged := models.damaged_ground_truth(where):
                if where.ground_truth.is_dir():
                    say(f"{where.ground_truth / damaged} is missing or damaged")
                say(config.render(experiment))
                say(f"preparing p* in {where.ground_truth}")
                models.prepare_ground_truth(experiment, where)
    ground_truth = ground_truth_sets(experiment, where)
    fresh = not shards.is_complete(ground_truth[0].directory)
    complete(ground_truth, where.ground_truth, experiment, where)
    if fresh:
        show(ground_truth[0], experiment, where)
    for seed in range(experiment.num_seeds):
        epoch = paths.selected_epoch(where, TEACHER, seed)
        if epoch is None:
            say(f"the teacher of seed {seed} is not there yet: run_train.sh trains it and then makes its samples")
        else:
            complete(teacher_sets(experiment, where, seed), where.checkpoint(TEACHER, seed, epoch), experiment, where)


def main() -> None:
    told = "work with other runs of this that are started so, on any hosts that see the directory, on the same samples"
    experiment, root, args = config.parse(__doc__, share=dict(action="store_true", help=told))
    where = Paths(root)
    paths.check_config(where, experiment)
    if args.dry_run:
        say(config.render(experiment))
        return plan(experiment, where)
    models.check(experiment, where)
    preflight.need_writable(where.root)
    with locks.writing(where, experiment, shared=args.share):
        draw_everything(experiment, where)


if __name__ == "__main__":
    config.run(main)
