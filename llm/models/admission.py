"""Admit a model by what it does: what the stages take for granted of one is tried on random ids before it is used.

A model is a causal distribution over p*'s ids, and the same however it is computed: alone, in a padded batch, at the
start of a longer sequence, step by step over a cache, and by the loss that never holds all logits. Whatever is not is
refused in one line that says which property fails, with the two numbers.
"""

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from llm.engine import agreement
from llm.engine.decoding import CachedDecoder, decoder
from llm.engine.next_token import NextTokenLoss, scaled_head_input, scaled_hidden_states
from llm.machine.libraries import told
from llm.machine.processes import UsageError

NUM_COMPARED = 64  # places of a sequence whose log-probabilities are kept and compared
NUM_RECOMPUTED = 16  # steps of a decoder without a cache, which computes the whole sequence at each


def admit(model: PreTrainedModel, name: str, vocab_size: int, max_length: int) -> None:
    """Raise UsageError where a model, in its dtype and on its device, is no causal distribution over vocab_size ids.

    Its weights are as before, and it is in evaluation mode. name: the model in words, for the message.
    """
    model.eval()
    with torch.no_grad(), told(f"{name}: the model cannot be computed"):
        _Admission(model, name, vocab_size, max_length).run()


def admit_embedder(model: PreTrainedModel, name: str) -> None:
    """Raise UsageError where a model's base gives no last hidden states, by which sequences are embedded."""
    with torch.no_grad():
        found = model.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    if model.base_model is model or getattr(found, "last_hidden_state", None) is None:
        raise UsageError(f"{name}: its base model gives no last hidden states, by which sequences are embedded")


def admit_trainable(model: PreTrainedModel, name: str, vocab_size: int, max_length: int) -> None:
    """Admit a model as `admit` at its initial weights, and with these scaled up to the size of trained ones.

    At initial weights everything is nearly uniform, and what depends on positions, or caps large logits, is not seen.
    The model keeps the large weights, since a copy of the others would take their memory again.
    """
    admit(model, f"{name}, at its initial weights", vocab_size, max_length)
    _scale_up(model)
    admit(model, f"{name}, with its weights scaled up", vocab_size, max_length)


@torch.no_grad()
def _scale_up(model: PreTrainedModel) -> None:
    """Let each matrix of a model double the size of what it multiplies, where it is smaller; zeros become random."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim < 2:
            continue
        wanted, found = 2 / parameter.shape[-1] ** 0.5, float(parameter.float().std())
        if found > 0:
            parameter.mul_(max(1.0, wanted / found))
        else:
            parameter.copy_(wanted * torch.randn(parameter.shape, generator=generator))


class _Admission:
    """The tries of one model, each a method that raises UsageError where it fails."""

    def __init__(self, model: PreTrainedModel, name: str, vocab_size: int, max_length: int):
        self.model, self.name, self.vocab_size = model, name, vocab_size
        generator = torch.Generator().manual_seed(0)
        lengths = sorted({max_length, max(2, max_length // 2), max(2, max_length // 3)}, reverse=True)
        drawn = torch.randint(vocab_size, (len(lengths), max_length), generator=generator)
        drawn[0, 0] = vocab_size - 1
        self.sequences = [row[:length].to(model.device) for row, length in zip(drawn, lengths, strict=True)]
        self.half = max_length // 2
        self.moved = 0.0

    def run(self) -> None:
        """Try everything, what others rest on first."""
        self.embeds_every_id()
        alone = [self.log_probs(sequence) for sequence in self.sequences]
        first = self.sequences[0]
        self.same(alone[0], self.log_probs(first), "the same input twice")
        self.moved = agreement.moved_by_rounding(self.model, first[None], alone[0][None])
        self.looks_left(alone[0])
        self.same(alone[0][: self.half], self.log_probs(first[: self.half]), "a sequence alone and in a longer one")
        self.same_in_a_batch(alone)
        self.same_step_by_step(alone)
        for factor in (1, 30):
            self.same_loss(factor)

    def fails(self, what: str) -> None:
        raise UsageError(f"{self.name}: no causal distribution over {self.vocab_size} ids: {what}")

    def embeds_every_id(self) -> None:
        weight = getattr(self.model.get_input_embeddings(), "weight", None)
        if weight is not None and len(weight) < self.vocab_size:
            self.fails(f"the input embedding holds {len(weight)}")

    def places(self, length: int) -> torch.Tensor:
        """Return the places of a sequence that are compared: all, or NUM_COMPARED among them from first to last."""
        return torch.linspace(0, length - 1, min(length, NUM_COMPARED)).round().long()

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Return [b, T, V] of ids [b, T]; UsageError where they are not that many, or not finite."""
        logits = self.model(input_ids=ids, use_cache=False).logits
        if logits.shape != (*ids.shape, self.vocab_size):
            self.fails(f"logits of {tuple(ids.shape)} ids have the shape {tuple(logits.shape)}")
        if num := int((~torch.isfinite(logits)).sum()):
            self.fails(f"{num:,} of {logits.numel():,} logits are not finite")
        return logits

    def log_probs(self, sequence: torch.Tensor) -> torch.Tensor:
        """Return [T, V] float32 of a sequence [T] by itself."""
        return torch.log_softmax(self.logits(sequence[None])[0].float(), -1)

    def same(self, one: torch.Tensor, other: torch.Tensor, what: str) -> None:
        """Compare log-probabilities [T, V] of two ways to compute a sequence."""
        places = self.places(len(one)).to(one.device)
        difference = float((one[places] - other[places]).abs().max())
        bound = agreement.bound(self.model, one, self.moved)
        if not difference <= bound:
            self.fails(f"{what} differ by {difference:.3g} nats, more than {bound:.2g}")

    def looks_left(self, log_probs: torch.Tensor) -> None:
        """A later id changes nothing before it; an earlier one does change what follows."""
        changed = self.sequences[0].clone()
        changed[self.half :] = (changed[self.half :] + 1) % self.vocab_size
        found = self.log_probs(changed)
        self.same(log_probs[: self.half], found[: self.half], "a place before and after later ids are changed")
        changed = self.sequences[0].clone()
        changed[self.half - 1] = (changed[self.half - 1] + 1) % self.vocab_size
        if torch.equal(self.log_probs(changed)[self.half], log_probs[self.half]):
            self.fails("changing an id changes nothing at the next place, so it does not read its context")

    def same_in_a_batch(self, alone: list[torch.Tensor]) -> None:
        """Sequences of several lengths, padded on the right, beside each other."""
        ids = torch.nn.utils.rnn.pad_sequence(self.sequences, batch_first=True)
        for row, expected in zip(self.logits(ids), alone, strict=True):
            found = torch.log_softmax(row[: len(expected)].float(), -1)
            self.same(expected, found, "a sequence alone and in a padded batch")

    def same_step_by_step(self, alone: list[torch.Tensor]) -> None:
        """The sampler's decoder up to the greatest length, with slots that start again when their sequence ends."""
        max_length = len(self.sequences[0])
        lengths = torch.tensor([len(each) for each in self.sequences], device=self.model.device)
        ids = torch.nn.utils.rnn.pad_sequence(self.sequences, batch_first=True)
        slots = torch.arange(len(lengths), device=self.model.device)
        compared = [set(self.places(length).tolist()) for length in lengths.tolist()]
        with decoder(self.model, len(slots), max_length) as steps:
            num_steps = max_length if isinstance(steps, CachedDecoder) else min(max_length, NUM_RECOMPUTED)
            for step in range(num_steps):
                places = step % lengths
                found = torch.log_softmax(steps.step(ids[slots, places], places).float(), -1)
                for slot, place in enumerate(places.tolist()):
                    if place in compared[slot]:
                        expected = alone[slot][place]
                        self.same(expected[None], found[slot][None], f"a forward pass and the decoder at place {place}")

    def same_loss(self, factor: float) -> None:
        """The loss that never holds all logits, and the plain one; the last hidden states are multiplied by factor."""
        loss, ids = NextTokenLoss(self.model), self.sequences[-1][None]
        if not loss.has_plain_head:
            return  # it is the plain one
        with scaled_head_input(self.model, factor):
            plain = cross_entropy(self.logits(ids)[0, :-1].float(), ids[0, 1:], reduction="none")
        with scaled_hidden_states(self.model, factor):
            found = loss(ids, ids[:, 1:])
        self.same(plain[:, None], found[:, None], f"two ways to compute the loss, at {factor} times the hidden states,")
