"""Train with TRL the twins of a run's students, from what scripts/trl/export.py wrote.

    bash scripts/trl/setup.sh
    .venv-trl/bin/python -m scripts.trl.train --export runs/trl/export --to runs/trl/trained
    .venv-trl/bin/python -m scripts.trl.train --export runs/trl/export --to runs/trl/trained --equal

Runs in TRL's own environment and imports nothing of llm/. Without --equal TRL is set by its config alone, and shuffles
as it does. With it TRL takes the batches in our order, and AdamW decays the gains of norms too, as ours does: what is
left to differ is how the two compute. Leaves checkpoints/trl_NAME/seed0/epoch-6/ (equal_NAME with --equal), the weights
after the last epoch, and beside it trained.json with the loss of each step, the mark of completion.
"""

import argparse
import json
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

EPSILON = 1e-8  # of AdamW: torch's default, which ours has
VERSIONS = ("trl", "transformers", "torch")


def refuse(told: str) -> NoReturn:
    """Exit with one line that names the fault, as every entry here does."""
    print(f"error: {told}", file=sys.stderr)
    sys.exit(2)


def arguments_of(e: dict[str, Any], student: dict[str, Any], num_sequences: int, equal: bool) -> dict[str, Any]:
    """Return the arguments of TRL's config that stand for how ours is trained.

    e: the fields of our experiment.  num_sequences: in an epoch of TRL's, which with `equal` is all of ours in a row.

    A loss of `scale` times ours has gradients of `scale` times ours, of which AdamW makes the same step if its epsilon
    is as much smaller, and clipping the same if the largest norm is.
    """
    epochs, scale = 1 if equal else e["student_epochs"], student["scale"]
    num_steps = epochs * math.ceil(num_sequences / e["batch_size"])
    num_warmup = math.ceil(e["warmup_fraction"] * num_steps)
    num_decay = min(math.ceil(e["decay_fraction"] * num_steps), num_steps - num_warmup)
    return {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": e["batch_size"],
        "learning_rate": e["learning_rate"],
        "adam_beta1": e["adam_beta1"],
        "adam_beta2": e["adam_beta2"],
        "adam_epsilon": EPSILON * scale,
        "weight_decay": e["weight_decay"],
        "max_grad_norm": e["max_grad_norm"] * scale,
        "lr_scheduler_type": "warmup_stable_decay",
        "warmup_steps": num_warmup,
        "lr_scheduler_kwargs": {"num_decay_steps": num_decay, "decay_type": "linear"},
        "train_sampling_strategy": "sequential" if equal else "random",
        "seed": e["seed"] + student["seed"],
        "bf16": e["training_dtype"] == "bfloat16",
        "max_length": None,  # nothing is cut
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def trainer_of(export: Path, e: dict[str, Any], student: dict[str, Any], directory: Path, equal: bool):
    """Return the trainer of a twin, before its first step."""
    import numpy as np
    import torch
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    rows = load_from_disk(export / student["data"])
    if equal:
        if len(rows) % e["batch_size"]:
            refuse(f"{len(rows)} sequences are no whole number of batches of {e['batch_size']}: leave out --equal")
        rows = rows.select(np.load(export / student["order"]))
    model = AutoModelForCausalLM.from_pretrained(export / student["student"], dtype=torch.float32)
    arguments = arguments_of(e, student, len(rows), equal) | {"output_dir": str(directory)}
    given = {"train_dataset": rows, "processing_class": AutoTokenizer.from_pretrained(export / student["student"])}
    if equal:
        betas, decay = (e["adam_beta1"], e["adam_beta2"]), e["weight_decay"]
        settings = dict(
            lr=e["learning_rate"], betas=betas, eps=arguments["adam_epsilon"], weight_decay=decay, fused=True
        )
        given["optimizers"] = torch.optim.AdamW(model.parameters(), **settings), None  # the schedule is the config's
    if student["trainer"] == "SFTTrainer":
        return SFTTrainer(model, args=SFTConfig(**arguments), **given)
    # lmbda: share of steps after the student's own samples. seq_kd: of the others, after the teacher's. temperature: of
    # these samples, not of the loss.
    config = GKDConfig(**arguments, beta=student["beta"], lmbda=0.0, seq_kd=False, temperature=1.0)
    return GKDTrainer(model, str(export / student["teacher"]), args=config, **given)


def train(export: Path, e: dict[str, Any], student: dict[str, Any], to: Path, equal: bool) -> None:
    """Train a twin, unless it is there; refuse where another is there by its name."""
    from transformers import PrinterCallback

    directory = to / "checkpoints" / f"{'equal' if equal else 'trl'}_{student['name']}" / f"seed{student['seed']}"
    record = {"experiment": e, "student": student, "versions": {name: version(name) for name in VERSIONS}}
    mark = directory / "trained.json"
    if mark.is_file():
        losses = (found := json.loads(mark.read_text("utf-8"))).pop("losses")
        if found != record:
            refuse(f"{directory} is of another export, or of other versions: choose another --to")
        return print(f"complete: {directory}, {len(losses)} steps", flush=True)
    trainer = trainer_of(export, e, student, directory, equal)
    trainer.remove_callback(PrinterCallback)  # a line for each step
    trainer.train()
    trainer.save_model(str(directory / f"epoch-{e['student_epochs']}"))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    mark.write_text(json.dumps(record | {"losses": losses}) + "\n", encoding="utf-8")
    print(f"trained: {directory}, {len(losses)} steps, last loss {losses[-1]:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, metavar="DIR", help="what scripts/trl/export.py wrote")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the twins are kept")
    parser.add_argument("--equal", action="store_true", help="our order of batches, and our decay of weights")
    args = parser.parse_args()
    # Everything is on this disk; and TRL's trainers tell their makers that they were started, unless told not to.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    if not (args.export / "settings.json").is_file():
        refuse(f"no {args.export / 'settings.json'}: run python -m scripts.trl.export first")
    settings = json.loads((args.export / "settings.json").read_text("utf-8"))
    for student in settings["students"]:
        train(args.export, settings["experiment"], student, args.to, args.equal)


if __name__ == "__main__":
    main()
