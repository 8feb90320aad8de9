"""Export a trained model of a finished run as a directory that plain transformers loads, with a card of its numbers.

    python -m scripts.export.model student_tau0.80 --profile cpu --to exports/student_tau0.80
    python -m scripts.export.model teacher --model_seed 1 --profile cpu --num_seeds 5 --to exports/teacher1

Writes the selected checkpoint as it is (config, safetensors), p*'s tokenizer where there is one, a
generation_config.json that samples as the run does, README.md, a card for the hub that is made from the run's
results/table.csv, export.json, which says what the directory is, and the hashes of all in sha256.json. Prints the
command that would publish it, and uploads nothing. Needs no GPU.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from huggingface_hub import ModelCardData

from llm.distributions import GROUND_TRUTH, Language
from llm.machine import preflight
from llm.machine.processes import UsageError, run_entry, say
from llm.models import loading
from llm.models.language import load_tokenizer
from llm.pipeline import GENERATE, TRAIN, Work
from llm.run import Run
from llm.store import files
from scripts.export import cards, described, destination, sources
from scripts.export.measured import estimate_of, estimates, results_of, row_of, seeds_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATION = "generation_config.json"


def chosen(run: Run, name: str, seed: int) -> Work:
    """Return the training of a model; UsageError where the run has none of this name and seed."""
    works = {(work.by.model, work.by.seed): work for work in run.works("train")}
    if (name, seed) not in works:
        names = ", ".join(dict.fromkeys(model for model, _ in works))
        seeds = f", each of seeds 0 to {run.experiment.num_seeds - 1}" if run.experiment.num_seeds > 1 else " of seed 0"
        raise UsageError(f"no trained model {name!r} of seed {seed}: there are {names + seeds if names else 'none'}")
    return works[name, seed]


def source_of(run: Run, work: Work) -> str | dict:
    """Return where the weights come from whose licence counts: those that a training started from, or else p*'s."""
    return run.experiment.checkpoint(work.by.role) or run.experiment.ground_truth


def card(
    run: Run,
    work: Work,
    weights: Path,
    tokenizer: "PreTrainedTokenizerBase | None",
    table: pd.DataFrame,
    licence: str,
) -> str:
    """Return the model's card."""
    e, model, epoch = run.experiment, work.by, run.selected_epoch(work.by)
    config = files.read_json(weights / "config.json")
    num_seeds = len(seeds_of(table, model.model))
    front = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=described.hub_id(e.ground_truth),
        tags=["knowledge-distillation", model.role],
        license=licence,
    )
    return cards.render(
        "model.md.j2",
        front,
        model=model,
        role=described.role(model),
        architecture=config["architectures"][0],
        num_parameters=preflight.weights_bytes(weights, 1),
        source=described.source(e.ground_truth),
        vocabulary=described.vocabulary(run),
        data=described.data(run, work),
        objective=described.objective(work),
        length=described.length(run, work),
        start=described.start(run, work),
        whose="p*, whose samples the data are,"
        if e.checkpoint(model.role) is None
        else "the model that it started from",
        perplexity=row_of(table[table["epoch"] == epoch], model.model, model.seed, "perplexity", "per token"),
        prompts=described.prompts(run, tokenizer),
        prompt=list(run.language.prompts[0]),
        eos=run.language.eos_token_ids,
        ends=described.ends(run),
        tokenizer=tokenizer,
        estimates=estimates(table, model.model, model.seed),
        over_seeds=estimates(table, model.model, None) if num_seeds > 1 else [],
        num_seeds=num_seeds,
        of_truth=estimate_of(row_of(table, GROUND_TRUTH, None, "precision")),
        stop_rate=row_of(table, model.model, model.seed, "stop_rate", "share"),
        experiment=e,
        provenance=files.read_json(run.paths.results / "provenance.json"),
    )


def padding(language: Language) -> int | None:
    """Return what fills up a batch of sequences that ended: an end of sequence, or else an id that no prompt has.

    From an id of a prompt, transformers would conclude that the prompt is padding. None where prompts have all ids.
    """
    if language.eos_token_ids:
        return language.eos_token_ids[0]
    used = {each for prompt in language.prompts for each in prompt}
    return next((each for each in range(language.vocab_size) if each not in used), None)


def fill(run: Run, weights: Path, tokenizer: "PreTrainedTokenizerBase | None", directory: Path) -> None:
    """Write everything but the card into an export's directory."""
    from transformers import GenerationConfig

    for path in weights.iterdir():
        if path.name not in (GENERATION, files.SEAL):
            shutil.copyfile(path, directory / path.name)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=list(run.language.eos_token_ids) or None,
        pad_token_id=padding(run.language),
        max_length=run.experiment.max_length,
    ).save_pretrained(directory)


def main() -> None:
    run, args = sources.open_run(__doc__)
    work = chosen(run, args.name, args.model_seed)
    what = f"the model {work.by}"
    licence = cards.licence_of(source_of(run, work), args.license)
    destination.refuse_other(args.to, what)
    weights = sources.whole(run.weights(work.by), TRAIN)
    truth = sources.whole(run.paths.ground_truth, GENERATE)
    table = results_of(run, work.by)
    if args.dry_run:
        return say(f"export {what} -> {args.to}")
    preflight.need_disk(args.to, files.size(weights), "the export")
    loading.quiet()
    tokenizer = load_tokenizer(truth)
    mark = {"what": what, "made_from": {"weights": files.seal_hash(weights), "ground_truth": files.seal_hash(truth)}}
    page = card(run, work, weights, tokenizer, table, licence)
    destination.write(args.to, mark, page, lambda directory: fill(run, weights, tokenizer, directory))
    destination.say_how_to_publish(args.to)


if __name__ == "__main__":
    run_entry(main)
