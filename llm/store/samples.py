"""The sample store: token ids on disk, in Arrow shards that are written once, verified and memory-mapped when read.

A sample set is a directory of shards and a manifest.json, which is written last and so marks the set complete.
`datasets.load_dataset(directory)` reads the same files.

A shard is a stream of Arrow's, a schema and one batch, which says where it ends; the 32 bytes after it are the SHA-256
of those before. Pages that are mapped are the system's, which shares them among processes and drops them where memory
is short.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm.distributions import Samples
from llm.machine.processes import UsageError
from llm.store.files import LEFTOVER, atomic, read_record, sha256, write_record

COLUMNS = ["index", "ids", "num_prompt", "log_prob"]
PER_SEQUENCE = 24  # bytes beside the ids: index, length of the prompt, log-probability, list offset
DIGEST = hashlib.sha256().digest_size


def smallest_unsigned(vocab_size: int) -> np.dtype:
    """Return the integer type that ids are kept in."""
    return np.min_scalar_type(vocab_size - 1)


def most_bytes(num_sequences: int, max_length: int, vocab_size: int) -> int:
    """Return the bytes on disk of a sample set, at most, without what names its columns: some 1,100 bytes a shard."""
    return num_sequences * (max_length * smallest_unsigned(vocab_size).itemsize + PER_SEQUENCE)


def shard_ranges(num_sequences: int, shard_size: int) -> list[range]:
    """Return the sequence indices of each shard."""
    return [range(a, min(a + shard_size, num_sequences)) for a in range(0, num_sequences, shard_size)]


class ShardedSamples(Samples):
    """The sequences of several shards, views of their files; what is asked for of all of them is put into memory."""

    def __init__(self, shards: list[Samples]):
        vars(self).update(shards=shards, firsts=[0, *accumulate(map(len, shards))])

    def __len__(self) -> int:
        return self.firsts[-1]

    def __getitem__(self, i: int) -> np.ndarray:
        shard = bisect_right(self.firsts, i) - 1
        return self.shards[shard][i - self.firsts[shard]]

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate([each.ids for each in self.shards])

    @property
    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def num_prompt(self) -> np.ndarray:
        return np.concatenate([each.num_prompt for each in self.shards])

    @cached_property
    def log_prob(self) -> np.ndarray:
        return np.concatenate([each.log_prob for each in self.shards])

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.concatenate([np.diff(each.offsets) for each in self.shards])

    def stopped(self, eos_token_ids: tuple[int, ...]) -> np.ndarray:
        return np.concatenate([each.stopped(eos_token_ids) for each in self.shards])


@dataclass(frozen=True)
class SampleFiles:
    """The files of one sample set.

    bound: what the sequences come from (the set's name, the hash of the weights); every shard and the manifest carry
    it, and files of anything else are not taken for this set's. Raises UsageError for a file that is no part of it.
    """

    directory: Path
    num_sequences: int
    shard_size: int
    bound: dict

    @property
    def ranges(self) -> list[range]:
        return shard_ranges(self.num_sequences, self.shard_size)

    @property
    def manifest_path(self) -> Path:
        return self.directory / "manifest.json"

    def path(self, shard: int) -> Path:
        return self.directory / f"shard-{shard:05d}.arrow"

    def manifest(self) -> dict | None:
        """Return the manifest of the complete set; None where there is none, or it is of fewer sequences."""
        return read_record(self.manifest_path, bound=self.bound, num_sequences=self.num_sequences)

    def write(self, shard: int, samples: Samples, vocab_size: int) -> None:
        """Write one shard: index, ids, num_prompt, log_prob; ids in the smallest type that holds the vocabulary.

        ValueError for an id that the vocabulary does not have, a log-probability that is not finite, or 2 ** 31 ids.
        """
        indices = self.ranges[shard]
        if samples.ids.max() >= vocab_size or not np.isfinite(samples.log_prob).all():
            raise ValueError(f"{self.path(shard)}: ids up to {samples.ids.max()}, or log-probabilities not finite")
        ids = samples.ids.astype(smallest_unsigned(vocab_size))
        batch = pa.record_batch(
            {
                "index": pa.array(np.arange(indices.start, indices.stop, dtype=np.int64)),
                "ids": pa.ListArray.from_arrays(pa.array(samples.offsets, pa.int32()), ids),
                "num_prompt": pa.array(samples.num_prompt.astype(np.int32)),
                "log_prob": pa.array(samples.log_prob),
            }
        ).replace_schema_metadata({"bound": json.dumps(self.bound)})
        with atomic(self.path(shard)) as temporary:
            with pa.ipc.new_stream(str(temporary), batch.schema) as writer:
                writer.write_batch(batch)
            digest = bytes.fromhex(sha256(temporary))
            with temporary.open("ab") as file:
                file.write(digest)

    def batch(self, shard: int) -> pa.RecordBatch:
        """Return a shard of a complete set as Arrow has it: views of its file, which `need_whole` has verified."""
        with pa.memory_map(str(self.path(shard))) as file:
            return pa.ipc.open_stream(file).read_next_batch()

    def read_shard(self, shard: int, beginning: bool = False) -> Samples:
        """Return the sequences of a shard; UsageError where they are not this set's, or their bytes are damaged.

        beginning: take a shard that holds only the first of its sequences, as the last one of a smaller set does.
        """
        path, indices = self.path(shard), self.ranges[shard]
        try:
            with pa.memory_map(str(path)) as file:
                written = file.read_buffer()
        except OSError as error:
            raise UsageError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
        if hashlib.sha256(written[:-DIGEST]).digest() != written[-DIGEST:].to_pybytes():
            raise UsageError(f"{path} is damaged (its bytes are not those of its SHA-256)")
        batch = pa.ipc.open_stream(written).read_next_batch()
        if json.loads((batch.schema.metadata or {}).get(b"bound", "null")) != self.bound:
            raise UsageError(f"{path} is of another sample set, or drawn from other weights")
        num = min(len(batch), len(indices)) if beginning else len(indices)
        if batch.schema.names != COLUMNS or not np.array_equal(batch["index"], indices[:num]):
            raise UsageError(f"{path} does not hold sequences {indices.start} to {indices.stop - 1}")
        return _samples(batch)

    def beginning(self, shard: int) -> Samples | None:
        """Return the sequences that a shard holds, if they are the first of those that it should; else None."""
        try:
            return self.read_shard(shard, beginning=True)
        except UsageError:
            return None

    def is_whole(self, shard: int) -> bool:
        """Return whether a shard is there, readable, and holds this set's sequences."""
        found = self.beginning(shard)
        return found is not None and len(found) == len(self.ranges[shard])

    def refuse_foreign(self) -> None:
        """Raise UsageError where the directory holds another file than the set's."""
        present = self.directory.iterdir() if self.directory.is_dir() else ()
        known = {self.path(shard).name for shard in range(len(self.ranges))} | {self.manifest_path.name}
        if foreign := sorted(
            path.name for path in present if path.name not in known and not LEFTOVER.fullmatch(path.name)
        ):
            raise UsageError(f"{self.directory / foreign[0]} is not part of this sample set: move it away")

    def damaged(self, shards: Iterable[int]) -> list[int]:
        """Return those of some shards whose bytes are not those that a manifest tells, of this set or a smaller one."""
        manifest = read_record(self.manifest_path, bound=self.bound)
        kept = manifest["shards"] if manifest else []
        return [
            shard
            for shard in shards
            if shard < len(kept)
            and not (self.path(shard).is_file() and sha256(self.path(shard)) == kept[shard]["sha256"])
        ]

    def missing(self, shards: Iterable[int]) -> list[int]:
        """Return those of some shards that are absent or not whole. UsageError for a file that is not of the set."""
        self.refuse_foreign()
        return [shard for shard in shards if not self.is_whole(shard)]

    def verified(self) -> dict | None:
        """Return the manifest of the complete set if every shard is as that says, else None."""
        self.refuse_foreign()
        manifest = self.manifest()
        return None if manifest is None or self.damaged(range(len(self.ranges))) else manifest

    def complete(self, made_with: dict) -> None:
        """Verify every shard and mark the set complete. made_with: the settings, for the record."""
        rows, num_scored = [], 0
        for shard in range(len(self.ranges)):
            path, samples = self.path(shard), self.read_shard(shard)
            num_scored += int(samples.num_scored.sum())
            rows.append(
                {"name": path.name, "sha256": sha256(path), "sequences": len(samples), "tokens": len(samples.ids)}
            )
        manifest = {
            "bound": self.bound,
            "num_sequences": self.num_sequences,
            "num_tokens": sum(row["tokens"] for row in rows),
            "num_scored_tokens": num_scored,
            "made_with": made_with,
            "shards": rows,
        }
        write_record(self.manifest_path, manifest)

    def need_whole(self, at_most: int) -> list[int]:
        """Return the shards of the complete set's first sequences, verified against the manifest; else UsageError."""
        if self.manifest() is None:
            raise UsageError(f"{self.directory} is not a complete sample set: run the scripts again, in order")
        shards = [shard for shard, indices in enumerate(self.ranges) if indices.start < at_most]
        if bad := self.damaged(shards):
            raise UsageError(
                f"{self.path(bad[0])} is missing or damaged: the script that made it makes it again, and it alone"
            )
        return shards

    def read(self, at_most: int | None = None) -> Samples:
        """Return the complete set, mapped, or its first sequences in memory; verified.

        UsageError where it is not complete.
        """
        num = self.num_sequences if at_most is None else min(at_most, self.num_sequences)
        samples = ShardedSamples([_samples(self.batch(shard)) for shard in self.need_whole(num)])
        return samples if at_most is None else samples.take(np.arange(num))


def _samples(batch: pa.RecordBatch) -> Samples:
    """Return the sequences of a shard, views of what it is read from."""
    ids = batch["ids"]
    return Samples(*(each.to_numpy() for each in (ids.values, ids.offsets, batch["num_prompt"], batch["log_prob"])))
