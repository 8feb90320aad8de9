"""What sampling, scoring and training a Llama-like model take: operations, bytes, memory.

Formulas, with N the parameters that multiply a token (embeddings only as the
head), L layers, d the width of all query heads, T the length, n sequences of T tokens:

    forward pass       2 N + 4 L d t floating-point operations for the token at position t (Kaplan et al. 2020, table 1;
                       4 L d t is q k^T and its product with v), so n T (2 N + 2 L d T) for all
    training           3 times that: the backward pass costs twice the forward pass (Kaplan et al. 2020, section 2.1)
    decoding           reads, at each step, the weights once and the keys and values of all sequences under way: the
                       bandwidth floor is n T (weights / batch + kv T / 2) / bandwidth, with kv bytes of cache a token
                       and the batch that fits beside the weights (Pope et al. 2023, section 2)
    training memory    16 bytes a parameter (float32 weights, gradients, two moments; Rajbhandari et al. 2020, 3.1)
                       + 2 where it runs in bfloat16 + 34 bytes per token, layer and unit of width of a micro-batch
                       (Korthikanti et al. 2023, equation 2, without the attention matrix, which is never stored),
                       or 2 and one layer's 34 with gradient_checkpointing
    disk               log2(vocabulary) bits an id, as parquet packs ids that are all alike frequent, + 8 bytes
                       a sequence for its log-probability; 4 bytes a parameter a checkpoint

Seconds are the larger of arithmetic at the stated utilisation and bandwidth; peak rates are the vendors' for dense
matrices. Scoring is float32, as everywhere here.
"""

import math
from dataclasses import dataclass

from llm.config import Experiment, UsageError
from llm.train import NUM_STATES

# -------------------------------------------------------------------------------------------------- geometry


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
        """From transformers' fields; UsageError naming one that is missing."""
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
            told = f"{fields.get('model_type', 'a model')} has no {missing.args[0]}"
            raise UsageError(f"{told}: only Llama-like models can be planned") from None

    @property
    def per_layer(self) -> int:
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def multiplying(self) -> int:
        """Parameters that multiply each token."""
        return self.layers * self.per_layer + self.vocab_size * self.hidden

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.multiplying + norms + (0 if self.tied else self.vocab_size * self.hidden)

    def forward_flops(self, num_tokens: float, length: float) -> float:
        """Of num_tokens tokens in sequences of this length."""
        return num_tokens * (2 * self.multiplying + 2 * self.layers * self.heads * self.head_dim * length)

    def kv_bytes(self, itemsize: int) -> int:
        """Keys and values of a token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize


# -------------------------------------------------------------------------------------------------- hardware


@dataclass(frozen=True)
class GPU:
    """Dense peak rates (vendors' data sheets): operations a second in bfloat16 and float32, bytes a second, bytes."""

    bfloat16: float
    float32: float
    bandwidth: float
    memory: float


GPUS = {
    "a100": GPU(312e12, 19.5e12, 2.04e12, 80e9),
    "h100": GPU(989e12, 67e12, 3.35e12, 80e9),
    "h200": GPU(989e12, 67e12, 4.8e12, 141e9),
    "l40s": GPU(362e12, 91.6e12, 0.864e12, 48e9),
    "rtx4090": GPU(165e12, 82.6e12, 1.01e12, 24e9),
}
SHARE_FOR_CACHE = 0.9  # of the memory beside the weights


@dataclass(frozen=True)
class Cost:
    """Of a work: operations; seconds of arithmetic and of bandwidth on one GPU; its peak memory in bytes."""

    flops: float
    arithmetic: float
    bandwidth: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.bandwidth)


def cost(
    kind: str, num_sequences: int, length: float, model: Geometry, experiment: Experiment, gpu: GPU, utilisation: float
) -> Cost:
    """Of sampling, scoring or training on ("sample", "score", "train") sequences of `length` tokens on average."""
    num_tokens = num_sequences * length
    flops = model.forward_flops(num_tokens, length) * (3 if kind == "train" else 1)
    dtype = {"train": experiment.training_dtype, "sample": experiment.sampling_dtype, "score": "float32"}[kind]
    itemsize = 2 if dtype == "bfloat16" else 4
    weights = itemsize * model.parameters
    bandwidth = 0.0
    if kind == "sample":
        cache = model.kv_bytes(itemsize) * experiment.max_length
        batch = min(experiment.sampling_batch_size, int(SHARE_FOR_CACHE * (gpu.memory - weights) / cache))
        if batch < 1:
            raise UsageError(f"the weights and one sequence do not fit into {gpu.memory / 1e9:.0f} GB")
        bandwidth = num_tokens * (weights / batch + model.kv_bytes(itemsize) * length / 2) / gpu.bandwidth
        memory = weights + batch * cache
    elif kind == "train":
        width = model.heads * model.head_dim
        per_layer = 2 * model.layers + 34 if experiment.gradient_checkpointing else 34 * model.layers
        activations = per_layer * width * experiment.micro_batch_size * experiment.max_length
        memory = (16 + (2 if itemsize == 2 else 0)) * model.parameters + activations
    else:
        memory = weights + 4 * 512 * model.vocab_size
    rate = gpu.bfloat16 if itemsize == 2 else gpu.float32
    return Cost(flops, flops / (utilisation * rate), bandwidth, memory)


def sample_bytes(num_sequences: int, length: float, vocab_size: int) -> int:
    """Of a sample set on disk. Ids that are not all alike frequent take less."""
    return round(num_sequences * ((length + 1) * math.log2(vocab_size) / 8 + 8))


def checkpoint_bytes(model: Geometry, epochs: int) -> int:
    return epochs * 4 * model.parameters


def transient_bytes(model: Geometry) -> int:
    """The states of a training, which go when it is done: weights and two moments, of one more than are kept."""
    return 3 * (NUM_STATES + 1) * 4 * model.parameters
