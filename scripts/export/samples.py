"""Export a sample set of a run as a directory that `datasets.load_dataset` loads, with a card that says what is in it.

    python -m scripts.export.samples ground_truth --split train --profile cpu --to exports/D
    python -m scripts.export.samples teacher --temperature 0.8 --split train --profile cpu --to exports/D_tau0.80

Writes the set's shards, verified, as parquet (index, ids, num_prompt, log_prob), README.md, a card for the hub,
export.json, which says what the directory is, and the hashes of all in sha256.json. Prints the command that would
publish it, and uploads nothing. Needs no GPU.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from llm import pipeline
from llm.distributions import GROUND_TRUTH, Distribution, Samples, SampleSet
from llm.machine import preflight
from llm.machine.processes import UsageError, run_entry, say
from llm.models import loading
from llm.models.language import load_tokenizer
from llm.pipeline import GENERATE, SECOND
from llm.run import Run
from llm.store import files
from llm.store.samples import SampleFiles, smallest_unsigned
from scripts.export import cards, described, destination, sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_SHOWN = 3
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
SIZES |= {100_000_000: "10M<n<100M", 1_000_000_000: "100M<n<1B"}  # the hub's names, by what each is below
PURPOSES = {
    "train": "models are trained on it",
    "validation": "checkpoints are selected on it",
    "test": "models are measured on it",
    SECOND: "students of p* itself are trained on it",
}


def chosen(run: Run, name: str, seed: int, temperature: float, split: str) -> SampleSet:
    """Return a set of the run; UsageError where it has none such. seed: of a trained model; p* has none."""
    sets = [work.data for work in run.works("sample")]
    wanted = Distribution(name, None if name == GROUND_TRUTH else seed, temperature), split
    for each in sets:
        if (each.distribution, each.split) == wanted:
            return each
    ours = [each for each in sets if each.distribution.model == name] or sets
    told = SampleSet(*wanted, 0)
    raise UsageError(f"no samples {told}: there are {', '.join(map(str, ours))}")


def verified(stored: SampleFiles) -> SampleFiles:
    """Return the files of a complete set; UsageError naming the first that is not as it was written."""
    stored.refuse_foreign()
    if bad := stored.damaged(range(len(stored.ranges))):
        path = stored.path(bad[0])
        raise UsageError(f"{path} is missing or damaged: the script that made it makes it again, and it alone")
    return stored


def size_of(num: int) -> str | None:
    """Return the hub's name for a number of sequences."""
    return next((name for limit, name in SIZES.items() if num < limit), None)


def origin(run: Run, distribution: Distribution) -> list[tuple[str, str]]:
    """Return what a card says of the model that a set was drawn from: names and what they are."""
    model, e = distribution.at(1.0), run.experiment
    truth = ("ground truth p*", described.source(e.ground_truth))
    if given := pipeline.given(e, model):
        return [truth, ("the model", f"{described.source(given.source)}, which was not trained in the experiment")]
    for work in run.works("train"):
        if work.by == model:
            rows = [("the model", described.role(model)), ("it learned from", described.data(run, work))]
            rows += [("its objective", described.objective(work)), ("trained for", described.length(run, work))]
            return [truth, *rows]
    return [truth]


def source_of(run: Run, distribution: Distribution) -> str | dict:
    """Return where the weights come from whose licence counts: those of a model that was given, or else p*'s."""
    given = pipeline.given(run.experiment, distribution)
    return given.source if given else run.experiment.ground_truth


def texts(first: Samples, tokenizer: "PreTrainedTokenizerBase | None") -> list[str]:
    """Return the first sequences as text, each on a line as JSON; none without a tokenizer."""
    shown = range(min(NUM_SHOWN, len(first))) if tokenizer else ()
    return [json.dumps(tokenizer.decode(first[i]), ensure_ascii=False) for i in shown]


def card(run: Run, sample_set: SampleSet, stored: SampleFiles, licence: str) -> str:
    """Return the set's card. licence: of the weights of `source_of`."""
    e, language, drawn_from = run.experiment, run.language, sample_set.distribution
    tokenizer = load_tokenizer(sources.whole(run.paths.ground_truth, GENERATE))
    shards = map(stored.read_shard, range(len(stored.ranges)))
    front = DatasetCardData(
        task_categories=["text-generation"],
        size_categories=size_of(sample_set.num_sequences),
        tags=["knowledge-distillation", "token-ids", "synthetic"],
        configs=[
            {"config_name": "default", "data_files": [{"split": sample_set.split, "path": "shard-*.parquet"}]},
        ],
        license=licence,
    )
    in_bfloat16, by_vllm = "bfloat16 where the processor has it, and else in float32", ", by vLLM"
    return cards.render(
        "samples.md.j2",
        front,
        title=f"Samples of {described.distribution(drawn_from)}: {sample_set.split}",
        manifest=stored.manifest(),
        drawn_from=described.distribution(drawn_from),
        origin=origin(run, drawn_from),
        licensed="the model that drew them" if pipeline.given(e, drawn_from) else "p*",
        vocabulary=described.vocabulary(run),
        split=sample_set.split,
        purpose=PURPOSES[sample_set.split],
        prompts=described.prompts(run, tokenizer),
        ends=described.ends(run),
        num_ended=sum(int(each.stopped(language.eos_token_ids).sum()) for each in shards),
        temperature=drawn_from.temperature,
        sampling=(in_bfloat16 if e.sampling_dtype == "bfloat16" else "float32") + by_vllm * (e.sampler == "vllm"),
        id_type=smallest_unsigned(language.vocab_size).name,
        texts=texts(stored.read_shard(0), tokenizer),
    )


def fill(stored: SampleFiles, directory: Path) -> None:
    """Write a set's shards as parquet, which the hub shows and packs."""
    for shard in range(len(stored.ranges)):
        path = (directory / stored.path(shard).name).with_suffix(".parquet")
        pq.write_table(pa.Table.from_batches([stored.batch(shard)]), path, compression="zstd", write_page_checksum=True)


def main() -> None:
    split = dict(required=True, choices=PURPOSES, help="which of its sets")
    temperature = dict(type=float, default=1.0, metavar="TAU", help="that it was drawn at (default: 1)")
    run, args = sources.open_run(__doc__, split=split, temperature=temperature)
    sample_set = chosen(run, args.name, args.model_seed, args.temperature, args.split)
    what = f"the samples {sample_set}"
    licence = cards.licence_of(source_of(run, sample_set.distribution), args.license)
    destination.refuse_other(args.to, what)
    run.need_samples([sample_set])
    if args.dry_run:
        return say(f"export {what} -> {args.to}")
    loading.quiet()
    stored = verified(run.sample_files(sample_set))
    preflight.need_disk(args.to, files.size(stored.directory), "the export")
    mark = {"what": what, "made_from": {"manifest": files.sha256(stored.manifest_path)}}
    page = card(run, sample_set, stored, licence)
    destination.write(args.to, mark, page, lambda directory: fill(stored, directory))
    destination.say_how_to_publish(args.to, "--repo-type", "dataset")


if __name__ == "__main__":
    run_entry(main)
