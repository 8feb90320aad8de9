"""x ~ p( . ; tau): exact ancestral sampling from a causal language model.

    p(x_t | x_<t ; tau) = softmax(logits_t / tau)        over the whole vocabulary, no top-k, no top-p

Each token is the inverse of the cumulative distribution at one uniform, and the uniforms of a sequence come from a
counter-based generator addressed by (experiment seed, source, tau, split, sequence index). So a sequence is the same
whatever batch, process or restart drew it, up to the rounding of the model's own arithmetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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

FEW = 0.75  # slots are dropped when at most this share of them is in use: dropping copies the others
BLOCK = 256  # ids in a block of the two-level draw
ROWS_IN_CACHE = 8


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
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Samples:
    """The sequences with these indices, each the prompt and what the model adds up to its EOS or `max_length`.

    At most batch_size are under way at a time; the next takes the place of one that ends. log_prob is log p(x ; tau) of
    the generated ids, EOS included, as computed at the draw: the logits in the model's dtype, their softmax in float32,
    sums in float64. progress is called with the number of tokens of each step.
    """
    import torch

    from llm.decoding import decoder

    total, first = len(indices), len(language.prompt_ids) - 1  # first: the position that the first draw follows
    device = model.device
    uniforms = torch.from_numpy(stream.uniforms(indices, max_length - 1 - first)).to(device)
    uniforms = torch.nn.functional.pad(uniforms, (0, 0, 0, 1))
    eos = torch.tensor(language.eos_token_ids, dtype=torch.long, device=device)
    # One row more than there are sequences, for the slots that have none left.
    ids = torch.zeros(total + 1, max_length, dtype=torch.long, device=device)
    ids[:, : first + 1] = torch.tensor(language.prompt_ids, device=device)
    lengths = torch.zeros(total + 1, dtype=torch.long, device=device)
    log_prob = torch.zeros(total + 1, dtype=torch.float64, device=device)

    num_slots = min(batch_size, total)
    rows = torch.arange(num_slots, device=device)  # the sequence in each slot
    positions = torch.full_like(rows, first)  # of the newest id of that sequence
    started = num_slots
    with torch.inference_mode(), decoder(model, num_slots, max_length) as slots:
        for position in range(first):  # the prompt's keys and values, which every sequence of a slot finds there
            slots.step(ids[rows, position], torch.full_like(rows, position))
        while (num_running := int((rows < total).sum())) > 0:
            if num_running <= FEW * len(rows):
                kept = (rows < total).nonzero()[:, 0]
                slots.keep(kept)
                rows, positions = rows[kept], positions[kept]
            logits = slots.step(ids[rows, positions], positions)
            token, token_log_prob = draw(logits, temperature, uniforms[rows, positions - first])
            positions = torch.where(rows < total, positions + 1, first)
            ids[rows, positions] = token
            log_prob[rows] += token_log_prob
            progress(num_running)
            ended = ((torch.isin(token, eos) | (positions == max_length - 1)) & (rows < total)).nonzero()[:, 0]
            lengths[rows[ended]] = positions[ended] + 1
            # The next sequences take these slots; where there are none left, the spare row does.
            rows[ended] = torch.arange(started, started + len(ended), device=device).clamp_(max=total)
            positions[ended] = first
            started = min(started + len(ended), total)
    table = ids.cpu().numpy()
    ended_at = lengths.tolist()
    return Samples.of([table[i, : ended_at[i]] for i in range(total)], first + 1, log_prob[:total].cpu().numpy())


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


def draw_set(sample_set: SampleSet, model: "PreTrainedModel", language: Language, experiment: Experiment) -> None:
    """Make the missing shards of a set, shared among the processes, and mark the set complete.

    Every process of a run must call this, having found the set incomplete before any of them does.
    """
    from llm.decoding import fitting_batch_size, is_out_of_memory

    state = processes.state()
    state.wait_for_everyone()  # until all have looked: the first to start would change what the last one finds
    ranges = shards.shard_indices(sample_set.num_sequences, experiment.shard_size)
    missing = shards.missing_shards(sample_set.directory, sample_set.num_sequences, experiment.shard_size)
    mine = [shard for shard in missing if shard % state.num_processes == state.process_index]
    stream = Stream.of(experiment.seed, sample_set.source.relative.as_posix(), sample_set.split)
    num_steps = experiment.max_length - len(language.prompt_ids)
    batch_size = fitting_batch_size(model, experiment.max_length, experiment.sampling_batch_size)
    with processes.progress(f"sample {sample_set}", sum(len(ranges[k]) for k in mine) * num_steps) as bar:
        for shard in mine:
            draw_shard = partial(
                sample,
                model,
                language,
                ranges[shard],
                stream=stream,
                temperature=sample_set.source.temperature,
                max_length=experiment.max_length,
                progress=bar.update,
            )
            before = bar.n
            while True:
                try:
                    samples = draw_shard(batch_size=batch_size)
                    break
                except RuntimeError as error:
                    if not is_out_of_memory(error) or batch_size == 1:
                        raise
                batch_size //= 2
                bar.update(before - bar.n)
                processes.say(f"out of memory: drawing {batch_size} sequences at a time")
            bar.total -= len(ranges[shard]) * num_steps - int(samples.num_scored.sum())  # what ended before max_length
            shards.write_shard(
                shards.shard_path(sample_set.directory, shard), samples, ranges[shard], language.vocab_size
            )
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
