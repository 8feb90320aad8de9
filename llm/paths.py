"""The only place that spells an artefact's path.

<root>/                                                    runs/<profile> unless --out says otherwise
  config.json                                              what every artefact below was made with
  ground_truth/                                            p* as used: weights, tokenizer, distribution.json
  samples/ground_truth/tau1.00/train/                      shard-00000.parquet ... manifest.json
  samples/teacher/tau0.80/seed0/train/                     models that were trained have a seed
  samples/student_tau0.80/tau1.00/seed0/test/
  checkpoints/student_tau0.80/seed0/epoch-1/               state-* while it trains; beside them
                                                           training.json, log.jsonl, selection.json
  scores/student_direct/tau1.00/seed0/test/               by_ground_truth.json ... embeddings.npy
  results/                                                 perplexity.json  precision_recall.json
  figures/
  timings.jsonl                                            what the work above took (llm/timings.py)
  .lock  .claims                                           of the runs that write here (llm/locks.py)
"""

from dataclasses import dataclass
from pathlib import Path

from llm.config import Experiment, UsageError
from llm.files import read_json, read_record, remove_leftovers, write_json

GROUND_TRUTH, TEACHER, DIRECT = "ground_truth", "teacher", "student_direct"


def tau_name(temperature: float) -> str:
    """tau0.80, tau0.875: at least two decimals, as many as the value needs."""
    short = f"{temperature:.2f}"
    return f"tau{short if float(short) == temperature else repr(temperature)}"


def student_name(temperature: float) -> str:
    return f"student_{tau_name(temperature)}"


def students(experiment: Experiment) -> list[str]:
    """The direct student, then one distilled student for each temperature."""
    return [DIRECT, *map(student_name, experiment.temperatures)]


@dataclass(frozen=True)
class Source:
    """A distribution that was or will be sampled: a model (with its seed, if it was trained) at a temperature."""

    model: str
    seed: int | None = None
    temperature: float = 1.0

    @property
    def relative(self) -> Path:
        seed = [] if self.seed is None else [f"seed{self.seed}"]
        return Path(self.model, tau_name(self.temperature), *seed)


@dataclass(frozen=True)
class Paths:
    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def claims(self) -> Path:
        return self.root / ".claims"

    @property
    def timings(self) -> Path:
        return self.root / "timings.jsonl"

    @property
    def ground_truth(self) -> Path:
        return self.root / GROUND_TRUTH

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    def samples(self, source: Source, split: str) -> Path:
        return self.root / "samples" / source.relative / split

    def checkpoints(self, model: str, seed: int) -> Path:
        return self.root / "checkpoints" / model / f"seed{seed}"

    def checkpoint(self, model: str, seed: int, epoch: int) -> Path:
        return self.checkpoints(model, seed) / f"epoch-{epoch}"

    def state(self, model: str, seed: int, step: int) -> Path:
        """What a training resumes from, after so many optimiser steps."""
        return self.checkpoints(model, seed) / f"state-{step}"

    def training(self, model: str, seed: int) -> Path:
        return self.checkpoints(model, seed) / "training.json"

    def log(self, model: str, seed: int) -> Path:
        return self.checkpoints(model, seed) / "log.jsonl"

    def selection(self, model: str, seed: int) -> Path:
        return self.checkpoints(model, seed) / "selection.json"

    def scores(self, source: Source, split: str, scorer: Source) -> Path:
        """log-probabilities of a source's samples under a scorer."""
        seed = "" if scorer.seed is None else f"_seed{scorer.seed}"
        temperature = "" if scorer.temperature == 1 else f"_{tau_name(scorer.temperature)}"
        return self.root / "scores" / source.relative / split / f"by_{scorer.model}{seed}{temperature}.json"

    def embeddings(self, source: Source, split: str) -> Path:
        """What p* makes of a source's samples, a row a sequence."""
        return self.root / "scores" / source.relative / split / "embeddings.npy"

    def result(self, name: str) -> Path:
        return self.root / "results" / f"{name}.json"


def training_source(model: str, seed: int, experiment: Experiment) -> Source:
    """Where a model's training set is drawn from: D for the teacher and the direct student, else D'_tau."""
    for temperature in experiment.temperatures:
        if model == student_name(temperature):
            return Source(TEACHER, seed, temperature)
    return Source(GROUND_TRUTH)


def selected_epoch(paths: Paths, model: str, seed: int) -> int | None:
    """The epoch whose checkpoint has the lowest validation perplexity; None before that has been measured."""
    selection = read_record(paths.selection(model, seed), model=model, seed=seed)
    return selection["best_epoch"] if selection else None


def check_config(paths: Paths, experiment: Experiment) -> None:
    """UsageError where the directory was made by an experiment whose results would differ from this one's."""
    made_by = read_json(paths.config)
    if made_by is None:
        if paths.config.exists():
            raise UsageError(f"{paths.config} is damaged: delete it if these settings made what is beside it")
        return
    mine = experiment.defining()
    differing = [key for key in mine.keys() | made_by.keys() if mine.get(key) != made_by.get(key)]
    if differing:
        told = "; ".join(f"{key}: {made_by.get(key)!r} there, {mine.get(key)!r} here" for key in sorted(differing))
        raise UsageError(f"{paths.root} was made with other settings ({told}): choose another --out (OUT=...)")


def keep_config(paths: Paths, experiment: Experiment) -> None:
    """Record the configuration in the experiment's directory, before anything else is written there."""
    check_config(paths, experiment)
    remove_leftovers(paths.root, paths.config.name)
    write_json(paths.config, experiment.defining())
