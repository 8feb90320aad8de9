"""The only place that spells an artefact's path.

<root>/                                                    runs/<profile> unless --out says otherwise
  config.json                                              what every artefact below was made with
  ground_truth/                                            p* as used: weights, tokenizer, distribution.json
  samples/ground_truth/tau1.00/train/                      shard-00000.parquet ... manifest.json
  samples/teacher/tau0.80/seed0/train/                     models that were trained have a seed
  samples/student_tau0.80/tau1.00/seed0/test/
  checkpoints/student_tau0.80/seed0/                       epoch-1/ ...  log.jsonl  training.json  selection.json
                                                           (state-* while it trains)
  scores/student_direct/tau1.00/seed0/test/by_ground_truth/    shard-00000.json ..., embeddings in shard-00000.npy
  results/                                                 table.csv  texts.json  provenance.json
  figures/
  timings.jsonl                                            what the work above took
  .lock                                                    of the process that writes here
"""

from dataclasses import dataclass
from pathlib import Path

from llm.distributions import GROUND_TRUTH, Distribution, SampleSet, tau_name


@dataclass(frozen=True)
class Paths:
    """Where the artefacts of a run are, below its root."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def timings(self) -> Path:
        return self.root / "timings.jsonl"

    @property
    def ground_truth(self) -> Path:
        return self.root / GROUND_TRUTH

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    def samples(self, sample_set: SampleSet) -> Path:
        return self.root / "samples" / sample_set.path

    def checkpoints(self, model: Distribution) -> Path:
        """Of a trained model: what its training leaves."""
        return self.root / "checkpoints" / model.model / f"seed{model.seed}"

    def checkpoint(self, model: Distribution, epoch: int) -> Path:
        return self.checkpoints(model) / f"epoch-{epoch}"

    def training(self, model: Distribution) -> Path:
        return self.checkpoints(model) / "training.json"

    def selection(self, model: Distribution) -> Path:
        return self.checkpoints(model) / "selection.json"

    def scores(self, sample_set: SampleSet, scorer: Distribution) -> Path:
        """Log-probabilities of a set's sequences under a scorer, a file a shard."""
        seed = "" if scorer.seed is None else f"_seed{scorer.seed}"
        temperature = "" if scorer.temperature == 1 else f"_{tau_name(scorer.temperature)}"
        return self.root / "scores" / sample_set.path / f"by_{scorer.model}{seed}{temperature}"
