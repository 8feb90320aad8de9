"""Export what TRL trains the twins of a run's students from: models, data sets of ids, and our order of them.

    python -m scripts.trl.export --profile cpu --to runs/trl/export    # after run_generate_data.sh and run_train.sh

Writes directories that AutoModelForCausalLM loads (ground_truth/, teacher/seed0/, student/seed0/ with the weights that
students start from, and a tokenizer), data sets that datasets.load_from_disk reads (data/D/, data/D_tau0.80/seed0/),
for each student the order in which ours went through its set (order/), and last settings.json, which says what belongs
together. A set has a row for each sequence: input_ids as the run has them; labels, which are the ids, or -100 on the
prompt, as SFTTrainer takes them; completion_mask, 0 on the prompt and 1 after it, which GKDTrainer takes together with
a prompt that it asks for and does not read. No text is made of ids, and no ids of text.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.distributions import DIRECT, TEACHER, Distribution, Language, Samples, SampleSet
from llm.machine.processes import UsageError, run_entry, say
from llm.models import given, loading
from llm.models.language import load_tokenizer
from llm.objectives.batches import ordered_rows
from llm.pipeline import TRUTH, Work
from llm.run import Run, open_run
from llm.settings.students import Student
from llm.store import files

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

BETAS = {"kl_teacher_student": 0.0, "kl_student_teacher": 1.0}  # GKD's, of the losses that it has at the ends
TRAINED_WITH = ("seed", "batch_size", "learning_rate", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm")
TRAINED_WITH += ("warmup_fraction", "decay_fraction", "training_dtype")
IGNORED = -100  # the label of what is not scored


def twin(student: Student | None) -> dict[str, Any] | None:
    """Return TRL's trainer with a student's loss, its beta, and what its loss is over ours; None where it has none.

    student: None for the likelihood of samples. GKDTrainer divides no logits by a temperature, and mixes in no hard
    loss; of a student's own prefixes it draws new ones at each step.
    """
    if student is None:
        return {"trainer": "SFTTrainer", "beta": None, "scale": 1.0}
    beta = BETAS.get(student.loss, student.beta)
    if beta is None or student.temperature != 1 or student.prefixes == "student" or student.hard_weight:
        return None
    return {"trainer": "GKDTrainer", "beta": beta, "scale": beta * (1 - beta) or 1.0}


def dataset_of(samples: Samples) -> "Dataset":
    """Return sequences as a data set for TRL, a row each; pyarrow's error for more than 2 ** 31 ids."""
    import datasets
    import pyarrow as pa

    ids, offsets = samples.ids.astype(np.int64), samples.offsets
    ends = pa.array(offsets, pa.int32())
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], samples.lengths)
    scored = place >= np.repeat(samples.num_prompt, samples.lengths)
    columns = {"input_ids": ids, "labels": np.where(scored, ids, IGNORED), "completion_mask": scored.astype(np.int64)}
    lists = {name: pa.ListArray.from_arrays(ends, pa.array(values)) for name, values in columns.items()}
    return datasets.Dataset.from_dict({"prompt": pa.array([""] * len(samples)), **lists})


def tokenizer_of(run: Run) -> "PreTrainedTokenizerBase":
    """Return p*'s tokenizer, or where it has none one in which an id's text is its number.

    TRL's trainers will not start without one; of what they are given here they use its padding id alone, which is
    made one that there is: an end of sequence, if p* has one. Padding has no attention and no label.
    """
    language = run.language
    tokenizer = load_tokenizer(run.paths.ground_truth) or _numbers(language)
    end = tokenizer.convert_ids_to_tokens((*language.eos_token_ids, 0)[0])
    if tokenizer.eos_token_id is None and language.eos_token_ids:
        tokenizer.eos_token = end
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= language.vocab_size:
        tokenizer.pad_token = end
    return tokenizer


def _numbers(language: Language) -> "PreTrainedTokenizerBase":
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = Tokenizer(models.WordLevel({str(each): each for each in range(language.vocab_size)}, unk_token="0"))
    numbers.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=numbers)


def place_of(sample_set: SampleSet) -> str:
    """Return where a training set is in the export: data/D, or data/D_tau0.80/seed0."""
    distribution = sample_set.distribution
    return "data/D" if distribution == TRUTH else f"data/D_{'/'.join(distribution.path.parts[1:])}"


def settings_of(run: Run, works: list[Work]) -> dict[str, Any]:
    """Return what settings.json says: how ours are trained, and of each of some trainings its twin and its inputs."""
    e = run.experiment.to_dict()
    students = []
    for work in works:
        seed = f"seed{work.by.seed}"
        told = {"name": work.by.model, "seed": work.by.seed, "loss": work.student.loss if work.student else "hard"}
        told |= twin(work.student) | {"data": place_of(work.data), "order": f"order/{work.by.model}/{seed}.npy"}
        told |= {"student": f"student/{seed}", "teacher": f"teacher/{seed}", "bound": run.training_bound(work)}
        students.append(told)
    fields = {field: e[field] for field in (*TRAINED_WITH, "student_epochs")}
    return {"experiment": fields, "students": students}


def export(run: Run, works: list[Work], directory: Path) -> None:
    """Write everything but settings.json. UsageError where the run has not trained that far."""
    import datasets

    loading.quiet()
    datasets.disable_progress_bars()
    shutil.copytree(run.paths.ground_truth, directory / "ground_truth", dirs_exist_ok=True)
    tokenizer = tokenizer_of(run)
    for seed in sorted({work.by.seed for work in works}):
        teacher = run.weights(Distribution(TEACHER, seed))
        shutil.copytree(teacher, directory / f"teacher/seed{seed}", dirs_exist_ok=True)
        initial = given.initial(run, Distribution(DIRECT, seed))
        initial.save_pretrained(directory / f"student/seed{seed}")
        tokenizer.save_pretrained(directory / f"student/seed{seed}")
    for sample_set in dict.fromkeys(work.data for work in works):
        samples = run.samples(sample_set)
        dataset_of(samples).save_to_disk(directory / place_of(sample_set))
        for work in works:
            if work.data == sample_set:
                batches = [rows for _, _, rows, _ in ordered_rows(samples.lengths, work, run.experiment)]
                order = directory / f"order/{work.by.model}/seed{work.by.seed}.npy"
                order.parent.mkdir(parents=True, exist_ok=True)
                np.save(order, np.concatenate(batches))


def main() -> None:
    run, args = open_run(
        __doc__, in_parts=False, to=dict(type=Path, required=True, metavar="DIR", help="the directory to write")
    )
    students = [work for work in run.works("train") if work.by.role == "student"]
    works = [work for work in students if twin(work.student)]
    for work in students:
        if work not in works:
            say(f"no twin in TRL: {work.by}")
    if args.dry_run:
        return say("\n".join(f"export {work} -> {args.to}" for work in works))
    run.need_samples(work.data for work in works)
    settings = settings_of(run, works)
    path = args.to / "settings.json"
    if path.is_file():
        if json.loads(path.read_text("utf-8")) != settings:
            raise UsageError(
                f"{args.to} is the export of another run, or of this one's other state: choose another --to"
            )
        return say(f"complete: {args.to}")
    export(run, works, args.to)
    files.write_json(path, settings)
    say(f"exported for TRL: {len(works)} students in {args.to}")


if __name__ == "__main__":
    run_entry(main)
