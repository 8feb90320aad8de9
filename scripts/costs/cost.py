"""What sampling, scoring and training a Llama-like model cost: operations, bytes, memory.

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

from llm.experiment import Experiment
from llm.processes import UsageError
from llm.store.resume import NUM_STATES
from llm.store.samples import most_bytes
from scripts.costs.geometry import Geometry


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
    """Return what sampling, scoring or training on num_sequences sequences costs.

    kind: "sample", "score" or "train". length: generated tokens of a sequence, on average. UsageError where a model
    does not fit into the GPU.
    """
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
    """Return the bytes of a sample set on disk; ids that are not all alike frequent take fewer."""
    return round(num_sequences * ((length + 1) * math.log2(vocab_size) / 8 + 8))


def mapped_bytes(num_sequences: int, length: float, vocab_size: int) -> int:
    """Return the bytes of the file that a sample set is mapped from where it is read, and which can be deleted."""
    return round(most_bytes(num_sequences, length + 1, vocab_size))


def checkpoint_bytes(model: Geometry, epochs: int) -> int:
    """Return the bytes of a training's checkpoints on disk."""
    return epochs * 4 * model.parameters


def transient_bytes(model: Geometry) -> int:
    """Return a training's states in bytes, which go when it is done: weights and two moments, of one more than stay."""
    return 3 * (NUM_STATES + 1) * 4 * model.parameters
