"""What sampling, scoring and training a Llama-like model cost: operations, bytes, memory.

Formulas, with N the parameters that multiply a token (embeddings only as the
head), L layers, d the width of all query heads, T the length, n sequences of T tokens:

    forward pass       2 N + 4 L d t floating-point operations for the token at position t (Kaplan et al. 2020, table 1;
                       4 L d t is q k^T and its product with v), so n T (2 N + 2 L d T) for all
    training           3 times that: the backward pass costs twice the forward pass (Kaplan et al. 2020, section 2.1)
    decoding           reads, at each step, the weights once and the keys and values of all sequences under way: the
                       bandwidth floor is n T (weights / batch + read) / bandwidth (Pope et al. 2023, section 2). With
                       kv bytes of cache a token, vLLM's pages hold what there is of a sequence, so that it reads
                       kv T / 2 on average; ours reserves max_length in each slot, and reads kv max_length
    training memory    16 bytes a parameter (float32 weights, gradients, two moments; Rajbhandari et al. 2020, 3.1)
                       + 2 where it runs in bfloat16 + 34 bytes per token, layer and unit of width of a micro-batch
                       (Korthikanti et al. 2023, equation 2, without the attention matrix, which is never stored),
                       or 2 and one layer's 34 with gradient_checkpointing
    disk               1, 2 or 4 bytes an id, by the vocabulary, + 24 bytes a sequence; 4 bytes a parameter a
                       checkpoint

Seconds are the larger of arithmetic at the stated utilisation and bandwidth; peak rates are the vendors' for dense
matrices. Scoring is float32, as everywhere here.

Sampling reaches a share of that floor, for which the lowest is taken that published rates of vLLM have (published.csv:
three of them are of SmolLM2, as those of the paper). The lowest, since a step has a fixed cost too, and their sequences
are longer than ours. Of our sampler no rate on a GPU is known: it is given the same share, which it may not reach.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from llm.machine.processes import UsageError
from llm.samplers.vllm_shards import SHARE_OF_MEMORY
from llm.settings.experiment import Experiment
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


UTILISATION = 0.4  # of the peak arithmetic, where no other is asked for


@dataclass(frozen=True)
class Cost:
    """Of a work on one GPU: operations; seconds of arithmetic, of bandwidth, and in all; its peak memory in bytes."""

    flops: float
    arithmetic: float
    bandwidth: float
    seconds: float
    memory: float


@cache
def published(utilisation: float) -> dict[str, float]:
    """Return, by model, vLLM's published rate over the one that the formulas give: the share that it reaches.

    In published.csv the lengths of SmolLM2 are of another run of the same publisher with the same prompt, and the 256
    sequences at once of Llama-3-8B are vLLM's default of that time.
    """
    found = {}
    for row in pd.read_csv(Path(__file__).with_name("published.csv")).to_dict("records"):
        model, gpu, generated = Geometry.of(row), GPUS[row["gpu"]], row["generated"]
        length = row["prompt"] + generated
        arithmetic = model.forward_flops(length, length) / (utilisation * gpu.bfloat16)
        read = 2 * model.parameters / row["at_once"] + model.kv_bytes(2) * (row["prompt"] + generated / 2)
        floor = max(arithmetic, generated * read / gpu.bandwidth)  # seconds a sequence
        found[row["model"]] = row["tokens_per_second"] * floor / generated
    return found


def decoding(length: float, model: Geometry, experiment: Experiment, gpu: GPU, itemsize: int) -> tuple[float, float]:
    """Return the bytes that are read for a sampled token, and those that sampling holds.

    vLLM takes its share of the GPU for weights and pages. Ours halves the number of slots until half of what is free
    holds them and their logits (llm/engine/decoding.py). UsageError where one sequence does not fit.
    """
    weights, per_token, number = itemsize * model.parameters, model.kv_bytes(itemsize), experiment.sampling_batch_size
    whole, of_vllm = per_token * experiment.max_length, experiment.sampler == "vllm"
    room = SHARE_OF_MEMORY * gpu.memory - weights if of_vllm else (gpu.memory - weights) / 2
    if room < whole:
        raise UsageError(f"the weights and one sequence do not fit into {gpu.memory / 1e9:.0f} GB")
    if of_vllm:
        held = per_token * length / 2
        return weights / min(number, int(room / held)) + held, SHARE_OF_MEMORY * gpu.memory
    while number > 1 and number * (whole + (itemsize + 8) * model.vocab_size) > room:
        number //= 2
    return weights / number + whole, weights + number * whole


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
    bandwidth, share = 0.0, 1.0
    if kind == "sample":
        read, memory = decoding(length, model, experiment, gpu, itemsize)
        bandwidth, share = num_tokens * read / gpu.bandwidth, min(published(utilisation).values())
    elif kind == "train":
        width = model.heads * model.head_dim
        per_layer = 2 * model.layers + 34 if experiment.gradient_checkpointing else 34 * model.layers
        activations = per_layer * width * experiment.micro_batch_size * experiment.max_length
        memory = (16 + (2 if itemsize == 2 else 0)) * model.parameters + activations
    else:
        memory = weights + 4 * 512 * model.vocab_size
    arithmetic = flops / (utilisation * (gpu.bfloat16 if itemsize == 2 else gpu.float32))
    return Cost(flops, arithmetic, bandwidth, max(arithmetic, bandwidth) / share, memory)


def sample_bytes(num_sequences: int, length: float, vocab_size: int) -> int:
    """Return the bytes of a sample set on disk, of so many generated ids a sequence on average, and one of a prompt."""
    return round(most_bytes(num_sequences, length + 1, vocab_size))


def checkpoint_bytes(model: Geometry, epochs: int) -> int:
    """Return the bytes of a training's checkpoints on disk."""
    return epochs * 4 * model.parameters


def transient_bytes(model: Geometry) -> int:
    """Return a training's states in bytes, which go when it is done: weights and two moments, of one more than stay."""
    return 3 * (NUM_STATES + 1) * 4 * model.parameters
