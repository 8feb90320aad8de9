"""The sample store: token ids on disk, in parquet shards that are written once and verified when read.

A sample set is a directory of shards and a manifest.json, which is written last and so marks the set complete.
`datasets.load_dataset("parquet", data_files=".../shard-*.parquet")` reads the same files.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm.config import UsageError
from llm.files import atomic, read_record, sha256, write_record


@dataclass(frozen=True)
class Samples:
    """n sequences, flat: sequence i is ids[offsets[i]:offsets[i + 1]], prompt first, EOS last if it was emitted.

    ids: [total] unsigned.  offsets: [n + 1] int64.  num_prompt: [n] int64, ids of the prompt, which are not scored.
    log_prob: [n] float64, nats per sequence, of the generated ids under the distribution that they were drawn from.
    """

    ids: np.ndarray
    offsets: np.ndarray
    num_prompt: np.ndarray
    log_prob: np.ndarray

    def __len__(self) -> int:
        return len(self.num_prompt)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """[n] tokens a sequence, prompt included."""
        return np.diff(self.offsets)

    @cached_property
    def num_scored(self) -> np.ndarray:
        """[n] generated tokens a sequence, EOS included."""
        return self.lengths - self.num_prompt

    def take(self, rows: np.ndarray) -> "Samples":
        """The sequences with these row numbers, in their order."""
        ids = np.concatenate([self[i] for i in rows]) if len(rows) else self.ids[:0]
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        return Samples(ids, offsets, self.num_prompt[rows], self.log_prob[rows])

    @classmethod
    def of(cls, sequences: list, num_prompt: int | list[int], log_prob) -> "Samples":
        """From a list of id sequences; num_prompt: of each, or the same of all."""
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
        ids = np.concatenate([np.asarray(s) for s in sequences])
        prompts = np.full(len(sequences), num_prompt, np.int64)
        return cls(ids, offsets, prompts, np.asarray(log_prob, np.float64))


def smallest_unsigned(vocab_size: int) -> np.dtype:
    return np.min_scalar_type(vocab_size - 1)


def shard_path(directory: Path, shard: int) -> Path:
    return directory / f"shard-{shard:05d}.parquet"


def shard_indices(num_sequences: int, shard_size: int) -> list[range]:
    """The sequence indices of each shard."""
    return [range(a, min(a + shard_size, num_sequences)) for a in range(0, num_sequences, shard_size)]


def write_shard(path: Path, samples: Samples, indices: range, vocab_size: int) -> None:
    """One shard: index, ids, num_prompt, log_prob; ids in the smallest unsigned type that holds the vocabulary."""
    ids = samples.ids.astype(smallest_unsigned(vocab_size))
    table = pa.table(
        {
            "index": pa.array(np.arange(indices.start, indices.stop, dtype=np.int64)),
            "ids": pa.ListArray.from_arrays(samples.offsets.astype(np.int32), ids),
            "num_prompt": pa.array(samples.num_prompt.astype(np.int32)),
            "log_prob": pa.array(samples.log_prob),
        }
    )
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_shard(path: Path, indices: range) -> Samples:
    """A shard that holds exactly these indices; UsageError where it does not, or where its bytes are damaged."""
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read().combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    if table.column_names != ["index", "ids", "num_prompt", "log_prob"] or not np.array_equal(
        table["index"], list(indices)
    ):
        raise UsageError(f"{path} does not hold sequences {indices.start} to {indices.stop - 1}")
    ids = table["ids"].combine_chunks()
    return Samples(
        ids.values.to_numpy(),
        ids.offsets.to_numpy().astype(np.int64),
        table["num_prompt"].to_numpy().astype(np.int64),
        table["log_prob"].to_numpy(),
    )


def manifest_path(directory: Path) -> Path:
    return directory / "manifest.json"


def _name(directory: Path) -> str:
    """What tells a sample set from the others of its experiment, wherever that lies: the end of its path."""
    return "/".join(directory.parts[-4:])


def read_manifest(directory: Path) -> dict | None:
    """The manifest of a complete sample set; None where there is none, or it is not as it was written there."""
    return read_record(manifest_path(directory), of=_name(directory))


def write_manifest(directory: Path, num_sequences: int, shard_size: int, drawn: dict) -> None:
    """Verify every shard of a set and mark the set complete. drawn: how it was drawn, kept for the record."""
    rows, num_scored = [], 0
    for shard, indices in enumerate(shard_indices(num_sequences, shard_size)):
        path = shard_path(directory, shard)
        samples = read_shard(path, indices)
        num_scored += int(samples.num_scored.sum())
        rows.append({"name": path.name, "sha256": sha256(path), "sequences": len(samples), "tokens": len(samples.ids)})
    manifest = {
        "of": _name(directory),
        "num_sequences": num_sequences,
        "num_tokens": sum(row["tokens"] for row in rows),
        "num_scored_tokens": num_scored,
        "shard_size": shard_size,
        "drawn": drawn,
        "shards": rows,
    }
    write_record(manifest_path(directory), manifest)


def refuse_foreign(directory: Path, names: set[str]) -> None:
    """UsageError where a sample set's directory holds another file than its shards and its manifest."""
    present = directory.iterdir() if directory.is_dir() else ()
    known = names | {manifest_path(directory).name}
    if foreign := sorted(path.name for path in present if path.name not in known and path.suffix != ".tmp"):
        raise UsageError(f"{directory / foreign[0]} is not part of this sample set: move it away")


def damaged(directory: Path, manifest: dict) -> list[str]:
    """Names of the shards whose bytes are not those of the manifest. UsageError for a file that is not of the set."""
    refuse_foreign(directory, {row["name"] for row in manifest["shards"]})
    return [
        row["name"]
        for row in manifest["shards"]
        if not (directory / row["name"]).is_file() or sha256(directory / row["name"]) != row["sha256"]
    ]


def read(directory: Path, at_most: int | None = None) -> Samples:
    """A complete sample set, or its first sequences, every shard verified against the manifest.

    UsageError where one is missing or damaged.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise UsageError(f"{directory} is not a complete sample set: run the scripts again, in order")
    if bad := damaged(directory, manifest):
        raise UsageError(
            f"{directory / bad[0]} is missing or damaged: the script that made it makes it again, and it alone"
        )
    num = manifest["num_sequences"] if at_most is None else min(at_most, manifest["num_sequences"])
    ids, offsets, rest = None, [np.zeros(1, np.int64)], []
    for shard, indices in enumerate(shard_indices(manifest["num_sequences"], manifest["shard_size"])):
        if indices.start >= num:
            break
        part = read_shard(shard_path(directory, shard), indices)
        if ids is None:  # once, so that no more than one shard is ever in memory twice
            ids = np.empty(manifest["num_tokens"], part.ids.dtype)
        first = offsets[-1][-1]
        ids[first : first + len(part.ids)] = part.ids
        offsets.append(first + part.offsets[1:])
        rest.append((part.num_prompt, part.log_prob))
    offsets = np.concatenate(offsets)[: num + 1]
    return Samples(ids[: offsets[-1]], offsets, *(np.concatenate(parts)[:num] for parts in zip(*rest, strict=True)))


def is_complete(directory: Path) -> bool:
    """Whether a set has its manifest and every shard is as the manifest says."""
    manifest = read_manifest(directory)
    return manifest is not None and not damaged(directory, manifest)


def is_whole(path: Path, indices: range) -> bool:
    """Whether a file is a readable shard of these indices."""
    try:
        return bool(len(read_shard(path, indices)))
    except UsageError:
        return False


def missing_shards(directory: Path, num_sequences: int, shard_size: int) -> list[int]:
    """The shards of a set that are absent or not whole. UsageError for a file that is not of the set."""
    ranges = shard_indices(num_sequences, shard_size)
    refuse_foreign(directory, {shard_path(directory, shard).name for shard in range(len(ranges))})
    return [k for k, indices in enumerate(ranges) if not is_whole(shard_path(directory, k), indices)]


def discard_damaged(directory: Path) -> list[Path]:
    """Remove the shards that are not as the manifest says, then the manifest, so that the set is to be completed again.

    Nothing where there is no manifest, or all is as it says. Returns the paths of the bad shards.
    """
    manifest = read_manifest(directory)
    bad = [] if manifest is None else [directory / name for name in damaged(directory, manifest)]
    for path in bad:
        path.unlink(missing_ok=True)
    if bad:
        manifest_path(directory).unlink()
    return bad
