"""x ~ p( . ; tau): exact ancestral sampling from a causal language model.

    p(x_t | x_<t ; tau) = softmax(logits_t / tau)        over the whole vocabulary, no top-k, no top-p

Each token is the inverse of the cumulative distribution at one uniform, and the uniforms of a sequence come from a
counter-based generator addressed by (experiment seed, source, tau, split, sequence index). So a sequence is the same
whatever batch, process or restart drew it, up to the rounding of the model's own arithmetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm import processes, shards
from llm.config import Experiment
from llm.models import Language, derive_seed
from llm.paths import Source
from llm.shards import Samples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Stream:
    """The uniforms of one sample set."""

    key: int

    @classmethod
    def of(cls, *name) -> "Stream":
        return cls(derive_seed(*name))

    def uniforms(self, indices: Sequence[int], num: int) -> np.ndarray:
        """[len(indices), num] float64 in [0, 1): row i depends on the key and indices[i] alone.

        Philox is counter-based (Salmon et al., 2011): an index is an address, not a number of draws to skip.
        """
        rows = [
            np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, index, 0])).random(num)
            for index in indices
        ]
        return np.stack(rows)


def sample(
    model: "PreTrainedModel",
    language: Language,
    indices: Sequence[int],
    *,
    stream: Stream,
    temperature: float,
    max_length: int,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Samples:
    """The sequences with these indices, each the prompt and what the model adds up to its EOS or `max_length`.

    log_prob is log p(x ; tau) of the generated ids, EOS included, as computed at the draw: the logits in the model's
    dtype, their softmax in float32, sums in float64. progress is called with the number of tokens of each step.
    """
    import torch
    from transformers import DynamicCache

    num_prompt = len(language.prompt_ids)
    num_steps = max_length - num_prompt
    device = model.device
    uniforms = torch.from_numpy(stream.uniforms(indices, num_steps)).to(device)
    eos = torch.tensor(language.eos_token_ids, dtype=torch.long, device=device)
    ids = torch.zeros(len(indices), max_length, dtype=torch.long, device=device)
    ids[:, :num_prompt] = torch.tensor(language.prompt_ids, device=device)
    lengths = torch.full((len(indices),), max_length, device=device)
    log_prob = torch.zeros(len(indices), dtype=torch.float64, device=device)
    running = torch.ones(len(indices), dtype=torch.bool, device=device)
    cache = DynamicCache(config=model.config)
    step_ids = ids[:, :num_prompt]
    with torch.inference_mode():
        for step in range(num_steps):
            logits = model(input_ids=step_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            token, token_log_prob = draw(logits, temperature, uniforms[:, step])
            position = num_prompt + step
            ids[:, position] = token
            log_prob += torch.where(running, token_log_prob, 0.0)
            progress(int(running.sum()))
            ended = running & torch.isin(token, eos)
            lengths[ended] = position + 1
            running &= ~ended
            if not running.any():
                break
            step_ids = token[:, None]
    rows = ids.cpu().numpy()
    return Samples.of(
        [row[:n] for row, n in zip(rows, lengths.tolist(), strict=True)], num_prompt, log_prob.cpu().numpy()
    )


def draw(logits: "torch.Tensor", temperature: float, uniforms: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """One id a row from softmax(logits / temperature), and its log-probability.

    logits: [n, V].  uniforms: [n] float64 in [0, 1).  Returns ids [n] int64 and log-probabilities [n] float64.
    The id is the first whose cumulative weight exceeds u times the total. Weights are float32 and their sums float64,
    so that ids far in the tail keep their share at any vocabulary size.
    """
    import torch

    scores = logits.float() / temperature
    scores -= scores.max(-1, keepdim=True).values
    cumulative = scores.exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    return ids[:, 0], (scores.gather(-1, ids).double() - total.log())[:, 0]


@dataclass(frozen=True)
class SampleSet:
    """A named set of sequences of one source, on disk in `directory`."""

    source: Source
    split: str
    num_sequences: int
    directory: Path

    def __str__(self) -> str:
        return f"{self.source.relative}/{self.split}"

    def describe(self) -> str:
        manifest = shards.read_manifest(self.directory)
        mean = manifest["num_scored_tokens"] / manifest["num_sequences"]
        return f"{self}: {manifest['num_sequences']:,} sequences, {mean:.1f} generated tokens each"


def draw_set(sample_set: SampleSet, model: "PreTrainedModel", language: Language, experiment: Experiment) -> None:
    """Make the missing shards of a set, shared among the processes, and mark the set complete.

    Every process of a run must call this, having found the set incomplete before any of them does.
    """
    state = processes.state()
    state.wait_for_everyone()  # until all have looked: the first to start would change what the last one finds
    ranges = shards.shard_indices(sample_set.num_sequences, experiment.shard_size)
    missing = shards.missing_shards(sample_set.directory, sample_set.num_sequences, experiment.shard_size)
    mine = [shard for shard in missing if shard % state.num_processes == state.process_index]
    stream = Stream.of(experiment.seed, sample_set.source.relative.as_posix(), sample_set.split)
    num_steps = experiment.max_length - len(language.prompt_ids)
    with processes.progress(f"sample {sample_set}", sum(len(ranges[k]) for k in mine) * num_steps) as bar:
        for shard in mine:
            parts = []
            for start in range(0, len(ranges[shard]), experiment.sampling_batch_size):
                indices = ranges[shard][start : start + experiment.sampling_batch_size]
                parts.append(
                    sample(
                        model,
                        language,
                        indices,
                        stream=stream,
                        temperature=sample_set.source.temperature,
                        max_length=experiment.max_length,
                        progress=bar.update,
                    )
                )
                bar.total -= len(indices) * num_steps - int(parts[-1].num_scored.sum())  # what ended before max_length
            path = shards.shard_path(sample_set.directory, shard)
            shards.write_shard(path, Samples.concatenate(parts), ranges[shard], language.vocab_size)
    state.wait_for_everyone()
    if state.is_main_process:
        drawn = {"from": str(sample_set), "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type}
        shards.write_manifest(
            sample_set.directory,
            sample_set.num_sequences,
            experiment.shard_size,
            {**drawn, "experiment": experiment.defining()},
        )
    state.wait_for_everyone()
