"""x ~ p( . ; tau): exact ancestral sampling from a causal language model.

    p(x_t | x_<t ; tau) = softmax(logits_t / tau)        over the whole vocabulary, no top-k, no top-p

Each token is the inverse of the cumulative distribution at one uniform, and the uniforms of a sequence come from a
counter-based generator addressed by (experiment seed, source, tau, split, sequence index). So a sequence is the same
whatever batch, process or restart drew it, up to the rounding of the model's own arithmetic.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm import processes, shards, timings
from llm.config import Experiment
from llm.locks import claimed
from llm.models import Language, derive_seed
from llm.paths import Paths, Source
from llm.shards import Samples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FEW = 0.75  # slots are dropped when at most this share of them is in use: dropping copies the others
# Slots there always are, some of them idle: on a CPU a product of fewer rows is summed in another order, and then a
# sequence would depend on how many others are drawn with it.
FEWEST = 16
BLOCK = 256  # ids in a block of the two-level draw
ROWS_IN_CACHE = 8
LOOK_AGAIN_S = 0.5  # at shards that other processes have claimed


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

    def choices(self, indices: Sequence[int], num: int) -> list[int]:
        """One of num, uniformly, for each index; from other counters than its uniforms."""
        if num == 1:
            return [0] * len(indices)
        return [
            int(np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, index, 1])).integers(num))
            for index in indices
        ]


def sample(
    model: "PreTrainedModel",
    language: Language,
    indices: Sequence[int],
    *,
    stream: Stream,
    temperature: float,
    max_length: int,
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Samples:
    """The sequences with these indices, each a prompt and what the model adds up to its EOS or `max_length`.

    At most batch_size are under way at a time; the next takes the place of one that ends. On a CPU in float32 the ids
    do not depend on batch_size. log_prob is log p(x ; tau) of the generated ids, EOS included, as computed at the draw:
    the logits in the model's dtype, their softmax in float32, sums in float64. progress is called with the number of
    tokens of each step.
    """
    import torch

    from llm.decoding import decoder

    total, device, several = len(indices), model.device, len(language.prompts) > 1
    prompts = [language.prompts[choice] for choice in stream.choices(indices, len(language.prompts))]
    first = _num_shared(language.prompts) - 1  # sequences start at this position: what is before, all have in common
    uniforms = torch.from_numpy(stream.uniforms(indices, max_length - 1 - first)).to(device)
    uniforms = torch.nn.functional.pad(uniforms, (0, 0, 0, 1))
    eos = torch.tensor(language.eos_token_ids, dtype=torch.long, device=device)
    # One row more than there are sequences, for the slots that have none left.
    ids = torch.zeros(total + 1, max_length, dtype=torch.long, device=device)
    num_given = torch.full_like(ids[:, 0], first + 1)  # ids of the prompt
    ids[:, : first + 1] = torch.tensor(language.prompts[0][: first + 1], device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
        num_given[row] = len(prompt)
    lengths = torch.zeros(total + 1, dtype=torch.long, device=device)
    log_prob = torch.zeros(total + 1, dtype=torch.float64, device=device)

    started = min(batch_size, total)
    rows = torch.arange(max(started, FEWEST), device=device)  # the sequence in each slot
    rows[started:] = total
    positions = torch.full_like(rows, first)  # of the newest id of that sequence
    with torch.inference_mode(), decoder(model, len(rows), max_length) as slots:
        for position in range(first):  # the prompt's keys and values, which every sequence of a slot finds there
            slots.step(ids[rows, position], torch.full_like(rows, position))
        while (num_running := int((rows < total).sum())) > 0:
            if num_running <= FEW * len(rows) and len(rows) > FEWEST:
                kept = (rows == total).int().argsort(stable=True)[: max(num_running, FEWEST)]  # the idle last
                slots.keep(kept)
                rows, positions = rows[kept], positions[kept]
            logits = slots.step(ids[rows, positions], positions)
            token, token_log_prob = draw(logits, temperature, uniforms[rows, positions - first])
            positions = torch.where(rows < total, positions + 1, first)
            drawn = positions >= num_given[rows]  # else the prompt goes on
            ids[rows, positions] = torch.where(drawn, token, ids[rows, positions])
            log_prob[rows] += torch.where(drawn, token_log_prob, 0)
            progress(int((drawn & (rows < total)).sum()) if several else num_running)
            ends = (torch.isin(token, eos) & drawn) | (positions == max_length - 1)
            ended = (ends & (rows < total)).nonzero()[:, 0]
            lengths[rows[ended]] = positions[ended] + 1
            # The next sequences take these slots; where there are none left, the spare row does.
            rows[ended] = torch.arange(started, started + len(ended), device=device).clamp_(max=total)
            positions[ended] = first
            started = min(started + len(ended), total)
    table = ids.cpu().numpy()
    ended_at = lengths.tolist()
    sequences = [table[i, : ended_at[i]] for i in range(total)]
    return Samples.of(sequences, [len(prompt) for prompt in prompts], log_prob[:total].cpu().numpy())


def _num_shared(prompts: Sequence[Sequence[int]]) -> int:
    """With how many ids all prompts start alike, at least 1: a sequence that starts at its first id shares nothing."""
    num_shared = 0
    for ids in zip(*prompts, strict=False):
        if len(set(ids)) > 1:
            break
        num_shared += 1
    return max(num_shared, 1)


def draw(logits: "torch.Tensor", temperature: float, uniforms: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """One id a row from softmax(logits / temperature), and its log-probability.

    logits: [n, V].  uniforms: [n] float64 in [0, 1).  Returns ids [n] int64 and log-probabilities [n] float64.
    The id is the first whose cumulative weight exceeds u times the total, found in two levels: the block of ids, then
    the id in it. Weights are float32 and all sums float64, so that ids far in the tail keep their share at any
    vocabulary size.
    """
    import torch

    num_rows, vocab_size = logits.shape
    num_blocks = -(-vocab_size // BLOCK)
    # A few rows at a time stay in a CPU's cache through all passes; a GPU wants them all at once.
    at_once = ROWS_IN_CACHE if logits.device.type == "cpu" else num_rows
    weights = torch.zeros(at_once, num_blocks * BLOCK, device=logits.device)
    ids = torch.empty(num_rows, dtype=torch.long, device=logits.device)
    log_prob = torch.empty(num_rows, dtype=torch.float64, device=logits.device)
    for start in range(0, num_rows, at_once):
        part = slice(start, min(start + at_once, num_rows))
        scores = logits[part].to(torch.float32, copy=True).div_(temperature)
        scores -= scores.amax(-1, keepdim=True)
        weight = weights[: len(scores)]
        torch.exp(scores, out=weight[:, :vocab_size])
        blocks = weight.view(-1, num_blocks, BLOCK)
        mass = blocks.sum(-1, dtype=torch.float64)
        cumulative = mass.cumsum(-1)
        total = cumulative[:, -1:]
        target = uniforms[part, None] * total
        block = torch.searchsorted(cumulative, target, right=True).clamp_(max=num_blocks - 1)
        inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
        target -= cumulative.gather(1, block) - mass.gather(1, block)
        # The bounds are for a target that rounding has put on a block's edge.
        offset = torch.searchsorted(inside, target, right=True).clamp_(max=BLOCK - 1)
        chosen = (block * BLOCK + offset).clamp_(max=vocab_size - 1)
        ids[part] = chosen[:, 0]
        log_prob[part] = (scores.gather(-1, chosen).double() - total.log())[:, 0]
    return ids, log_prob


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


def draw_set(
    sample_set: SampleSet, model: "PreTrainedModel", language: Language, experiment: Experiment, where: Paths
) -> None:
    """Make the shards that a set lacks, and mark it complete.

    Any number of processes, on any hosts that see the directory, may do this at once: each draws the shards that it
    claims, takes over those of one that dies, and returns when the set is complete.
    """
    from llm.decoding import fitting_batch_size, is_out_of_memory

    directory, mark = sample_set.directory, shards.manifest_path(sample_set.directory)
    with claimed(mark, where, wait=True):
        for path in shards.discard_damaged(directory):
            processes.say(f"{path} is missing or damaged: making it again")
    ranges = shards.shard_indices(sample_set.num_sequences, experiment.shard_size)
    missing = shards.missing_shards(directory, sample_set.num_sequences, experiment.shard_size)
    num_missing, num_drawn = len(missing), 0
    stream = Stream.of(experiment.seed, sample_set.source.relative.as_posix(), sample_set.split)
    num_steps = experiment.max_length - min(map(len, language.prompts))
    batch_size = fitting_batch_size(model, experiment.max_length, experiment.sampling_batch_size)

    def draw_shard(indices: range) -> Samples:
        nonlocal batch_size
        before = bar.n
        while True:
            try:
                return sample(
                    model,
                    language,
                    indices,
                    stream=stream,
                    temperature=sample_set.source.temperature,
                    max_length=experiment.max_length,
                    batch_size=batch_size,
                    progress=bar.update,
                )
            except RuntimeError as error:
                if not is_out_of_memory(error) or batch_size <= FEWEST:
                    raise
            batch_size //= 2
            bar.update(before - bar.n)
            processes.say(f"out of memory: drawing {batch_size} sequences at a time")

    total = sum(len(ranges[k]) for k in missing) * num_steps
    with timings.progress("sample", sample_set.source.model, str(sample_set), total, where) as bar:
        while missing:
            num_before = len(missing)
            for shard in missing.copy():
                path = shards.shard_path(directory, shard)
                with claimed(path, where) as mine:
                    if not mine:
                        continue
                    before = bar.n
                    if not shards.is_whole(path, ranges[shard]):  # or another has made it since
                        samples = draw_shard(ranges[shard])
                        shards.write_shard(path, samples, ranges[shard], language.vocab_size)
                        num_drawn += 1
                    bar.total -= len(ranges[shard]) * num_steps - (bar.n - before)  # the rest was not needed
                missing.remove(shard)
            if len(missing) == num_before:  # others are at all that is left
                time.sleep(LOOK_AGAIN_S)
    if num_drawn < num_missing:
        processes.say(f"{sample_set}: {num_drawn} of {num_missing} missing shards drawn here, the rest by others")
    with claimed(mark, where, wait=True):
        if shards.read_manifest(directory) is None:
            dtype = str(model.dtype).removeprefix("torch.")
            drawn = {"dtype": dtype, "device": model.device.type, "experiment": experiment.defining()}
            shards.write_manifest(directory, sample_set.num_sequences, experiment.shard_size, drawn)
