"""What the released code does otherwise, each as one function of samples, a tokenizer, a model or scores.

The faults are those that the paper's published code has; nothing of the main path uses any of this.
"""

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from llm.distributions import Samples

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


def without_eos(samples: Samples, eos_token_ids: tuple[int, ...]) -> Samples:
    """Return the same sequences, those that ended by themselves without their EOS."""
    kept = [ids[:-1] if ids[-1] in eos_token_ids else ids for ids in map(samples.__getitem__, range(len(samples)))]
    return Samples.of(kept, samples.num_prompt, samples.log_prob)


def cut_tokenizer(tokenizer: "Tokenizer", vocab_size: int) -> "Tokenizer":
    """Return a BPE with its first ids alone: its merges are those whose result is one of them.

    Ids of a BPE are in the order of merges, so the parts of a merge that is kept are kept too.
    """
    from tokenizers import Tokenizer

    whole = json.loads(tokenizer.to_str())
    bpe = whole["model"]
    bpe["vocab"] = {token: i for token, i in bpe["vocab"].items() if i < vocab_size}
    bpe["merges"] = [parts for parts in bpe["merges"] if "".join(parts) in bpe["vocab"]]
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["id"] < vocab_size]
    return Tokenizer.from_str(json.dumps(whole))


def tokenised_again(samples: Samples, tokenizer: "Tokenizer", max_length: int) -> Samples:
    """Return the ids of each sequence's text without special tokens, at most max_length of them."""
    texts = tokenizer.decode_batch([samples[i].tolist() for i in range(len(samples))], skip_special_tokens=True)
    ids = [np.array(each.ids[:max_length], samples.ids.dtype) for each in tokenizer.encode_batch(texts)]
    # A prompt of special tokens is lost too, and there may be less left than it had.
    num_prompt = np.minimum(samples.num_prompt, [len(each) for each in ids])
    return Samples.of(ids, num_prompt, samples.log_prob)


def reset_parameters(model: "PreTrainedModel", seed: int) -> None:
    """Call reset_parameters() of every module that has it, in the order of the modules.

    Linear and Embedding have it; RMSNorm has not, so its gains stay. A head that is tied to the embedding comes last
    and leaves nn.Linear's uniform values in both, in place of nn.Embedding's normal ones.
    """
    import torch

    torch.manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def padded(samples: Samples, eos: int, max_length: int) -> Samples:
    """Return every sequence filled up to max_length with EOS, which is scored; log_prob is of the sequences alone."""
    ids = np.full((len(samples), max_length), eos, samples.ids.dtype)
    for row in range(len(samples)):
        ids[row, : samples.lengths[row]] = samples[row]
    return Samples.of(list(ids), samples.num_prompt, samples.log_prob)


def perplexity_of_batch_means(log_prob: np.ndarray, num_scored: np.ndarray, batch_size: int) -> float:
    """Return exp of the unweighted mean, over batches of consecutive sequences, of each batch's nats per token.

    log_prob: [n] nats per sequence.  num_scored: [n] tokens.
    """
    starts = range(0, len(log_prob), batch_size)
    means = [-log_prob[i : i + batch_size].sum() / num_scored[i : i + batch_size].sum() for i in starts]
    return math.exp(np.mean(means))
