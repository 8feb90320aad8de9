"""The only place that spells an artefact's path. The tree is in llm/README.md."""

from dataclasses import dataclass
from pathlib import Path

from llm.distributions import GROUND_TRUTH, Distribution, SampleSet, tau_name

DIRECTORIES = (GROUND_TRUTH, "samples", "checkpoints", "kept", "scores", "results", "figures")  # below a root


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

    def kept(self, model: Distribution) -> Path:
        """Of a model that exists already: its copy, over p*'s ids."""
        return self.root / "kept" / model.model / ("" if model.seed is None else f"seed{model.seed}")

    def scores(self, sample_set: SampleSet, scorer: Distribution) -> Path:
        """Log-probabilities of a set's sequences under a scorer, a file a shard."""
        seed = "" if scorer.seed is None else f"_seed{scorer.seed}"
        temperature = "" if scorer.temperature == 1 else f"_{tau_name(scorer.temperature)}"
        return self.root / "scores" / sample_set.path / f"by_{scorer.model}{seed}{temperature}"
