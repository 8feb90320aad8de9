"""One step of a causal language model for many sequences, each at a position of its own.

A sequence lives in a slot: a row of a key/value cache that is allocated once. When it ends, the next one takes its slot
by starting again at the prompt's last position: what lies behind that position in the cache is the prompt, the same for
all, and what lies before it is overwritten as the new sequence grows. So no step is spent on a sequence that has ended.

The forward pass is transformers' own. Its attention is replaced by one that knows a step has a single query: the query
heads of a key/value head are rows of one matrix product, and nothing is repeated or concatenated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import psutil
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_utils import AttentionInterface

from llm.engine import agreement
from llm.machine.memory import is_out_of_memory

ATTENTION = "slots"
FIRST_CAPACITY = 64
NUM_TRIED = (4, 3)  # sequences and ids with which a decoder is tried
# What transformers may hand to an attention function without meaning another attention than ours.
HARMLESS = {
    "position_ids",
    "use_cache",
    "cache_position",
    "is_causal",
    "output_attentions",
    "sliding_window",
    "dropout",
}


class Decoder(Protocol):
    """Next-token logits for a fixed number of slots."""

    def step(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Put ids [n] at positions [n] of the n slots; return logits [n, V] of what follows, in the model's dtype."""

    def keep(self, slots: torch.Tensor) -> None:
        """Go on with these slots [m] (indices) alone."""


@contextmanager
def decoder(model: PreTrainedModel, num_slots: int, max_length: int) -> Iterator[Decoder]:
    """Yield the fastest decoder that is exact for a model: with a cache where its attention is known, else without."""
    if not _attends_to_everything(model, max_length):
        yield RecomputingDecoder(model, num_slots, max_length)
        return
    before, tried = model.config._attn_implementation, _tried(model, max_length)
    model.set_attn_implementation(ATTENTION)
    try:
        chosen = CachedDecoder
        if not _computes(*tried, model, max_length):
            model.set_attn_implementation(before)
            chosen = RecomputingDecoder
        yield chosen(model, num_slots, max_length)
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def _tried(model: PreTrainedModel, max_length: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return ids [b, t] that a decoder is tried on, their log-probabilities [b, t, V], and how far it may be off."""
    vocab_size = model.config.get_text_config().vocab_size
    ids = torch.randint(vocab_size, NUM_TRIED, generator=torch.Generator().manual_seed(0))[:, :max_length]
    ids = ids.to(model.device)
    expected = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), -1)
    return ids, expected, agreement.bound(model, expected, agreement.moved_by_rounding(model, ids, expected))


@torch.no_grad()
def _computes(ids: torch.Tensor, expected: torch.Tensor, bound: float, model: PreTrainedModel, max_length: int) -> bool:
    """Return whether the decoder with a cache computes these log-probabilities too, step by step."""
    steps = CachedDecoder(model, len(ids), max_length)
    try:
        for place, column in enumerate(ids.T):
            found = torch.log_softmax(steps.step(column, torch.full_like(column, place)).float(), -1)
            if not float((found - expected[:, place]).abs().max()) <= bound:
                return False
    except Exception as error:  # whatever a model makes of a cache that is not as it expects
        if is_out_of_memory(error):
            raise
        return False
    return True


def fitting_batch_size(model: PreTrainedModel, max_length: int, at_most: int) -> int:
    """Return how many slots fit into half of the memory that is free: `at_most`, or that halved until it fits."""
    text = model.config.get_text_config()
    logits = text.vocab_size * (model.dtype.itemsize + 8)  # as they come, and in float32 with their exponentials
    cache = 0
    if not _attends_to_everything(model, max_length):
        logits *= max_length  # without a cache they are of the whole sequence
    else:
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        num_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        cache = 2 * text.num_hidden_layers * num_heads * head_dim * max_length * model.dtype.itemsize
    on_gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    while at_most > 1 and at_most * (cache + logits) > free / 2:
        at_most //= 2
    return at_most


# ------------------------------------------------------------------------------------------------ with a cache


class UnknownAttention(NotImplementedError):
    """The model asks for an attention that `_attend` is not (soft caps, sinks, position biases)."""


def _attends_to_everything(model: PreTrainedModel, max_length: int) -> bool:
    """Return whether every layer attends to all earlier tokens of a sequence of max_length."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or max_length
    return (
        model._supports_attention_backend
        and kinds <= {"full_attention", "sliding_attention"}
        and window >= max_length
        and getattr(config, "num_attention_heads", None) is not None
    )


def _attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **others):
    """Attention of one query: query [n, h, 1, d], key and value [n, h_kv, T, d], mask [n, 1, 1, T] -> [n, 1, h, d]."""
    strange = {name for name, value in others.items() if value is not None} - HARMLESS
    if strange or query.shape[2] != 1:
        raise UnknownAttention(strange)
    n, num_heads, _, dim = query.shape
    num_kv_heads = key.shape[1]
    grouped = query.reshape(n, num_kv_heads, num_heads // num_kv_heads, dim)
    scores = (grouped @ key.transpose(-1, -2)).float() * (dim**-0.5 if scaling is None else scaling)
    weights = torch.softmax(scores + attention_mask, -1).to(value.dtype)
    return (weights @ value).reshape(n, 1, num_heads, value.shape[-1]), None


AttentionInterface.register(ATTENTION, _attend)


class _Layer(CacheLayerMixin):
    """Keys and values [n, h_kv, capacity, d] of one layer; each step writes one position of every slot."""

    def __init__(self, decoder: "CachedDecoder"):
        super().__init__()
        self.decoder = decoder

    def lazy_initialization(self, key_states, value_states):
        n, num_heads, _, dim = key_states.shape
        self.keys = key_states.new_zeros(n, num_heads, self.decoder.capacity, dim)
        self.values = value_states.new_zeros(n, num_heads, self.decoder.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        missing = self.decoder.capacity - self.keys.shape[2]
        if missing:
            self.keys, self.values = (torch.nn.functional.pad(x, (0, 0, 0, missing)) for x in (self.keys, self.values))
        self.keys[self.decoder.slots, :, self.decoder.positions] = key_states[:, :, 0]
        self.values[self.decoder.slots, :, self.decoder.positions] = value_states[:, :, 0]
        return self.keys, self.values  # whole, since a product with a part of them would copy it first

    def get_mask_sizes(self, query_length):
        return self.decoder.capacity, 0

    def get_seq_length(self):
        return self.decoder.capacity

    def get_max_length(self):
        return self.decoder.max_length


class CachedDecoder:
    """A decoder over a key/value cache of its own. The cache doubles until it holds max_length."""

    def __init__(self, model: PreTrainedModel, num_slots: int, max_length: int):
        self.model = model
        self.max_length = max_length
        self.capacity = min(FIRST_CAPACITY, max_length)
        self.slots = torch.arange(num_slots, device=model.device)
        self.layers = [_Layer(self) for _ in range(model.config.get_text_config().num_hidden_layers)]
        self.cache = Cache(layers=self.layers)

    def step(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.positions = positions
        while self.capacity <= int(positions.max()):
            self.capacity = min(2 * self.capacity, self.max_length)
        seen = torch.arange(self.capacity, device=ids.device) <= positions[:, None]
        mask = torch.zeros(seen.shape, device=ids.device).masked_fill_(~seen, float("-inf"))[:, None, None]
        return self.model(
            input_ids=ids[:, None],
            position_ids=positions[:, None],
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]

    def keep(self, slots: torch.Tensor) -> None:
        self.slots = torch.arange(len(slots), device=slots.device)
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[slots], layer.values[slots]


# --------------------------------------------------------------------------------------------- without a cache


class RecomputingDecoder:
    """A decoder for any causal model: the whole sequence again at each step. Slow, and exact."""

    def __init__(self, model: PreTrainedModel, num_slots: int, max_length: int):
        self.model = model
        self.ids = torch.zeros(num_slots, max_length, dtype=torch.long, device=model.device)
        self.slots = torch.arange(num_slots, device=model.device)

    def step(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.ids[self.slots, positions] = ids
        logits = self.model(input_ids=self.ids[:, : int(positions.max()) + 1], use_cache=False).logits
        return logits[self.slots, positions]

    def keep(self, slots: torch.Tensor) -> None:
        self.ids = self.ids[slots]
        self.slots = torch.arange(len(slots), device=slots.device)
