"""A sample set whose ids stay on disk: an Arrow file below the run's cache/, made from the shards and memory-mapped.

Its pages are the system's, which shares them among processes and drops them where memory is short. It is no artefact:
it can be deleted whenever no process reads it. `datasets.Dataset.from_file` reads it too. The cache that
`datasets` makes by itself would not do: it is found by the shards' names and time stamps, its bytes are never verified,
and its ids lie in many batches.
"""

import errno
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from llm.distributions import Samples
from llm.store.files import atomic, read_record, sha256, write_record
from llm.store.locks import one_at_a_time
from llm.store.samples import PER_SEQUENCE, SampleFiles, smallest_unsigned

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
MEMORY_PER_SEQUENCE = 100  # bytes at most: what is gathered while the file is made; a training's lengths and order


def mapped(stored: SampleFiles, path: Path) -> Samples:
    """Return a complete set, its shards verified, as views of an Arrow file, which cannot be written to.

    The file is made where there is none, where it is of another state of the set, or not as it was written; by one
    process, for which the others wait. Where nothing may be written, as in a finished run that is shared to be read,
    the set is read into memory. UsageError where the set is not complete.
    """
    stored.need_whole(stored.num_sequences)
    try:
        if not _is_made(stored, path):
            with one_at_a_time(path.with_name(".lock"), path.stem):
                if not _is_made(stored, path):
                    _make(stored, path)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return stored.read(stored.num_sequences)
    with pa.memory_map(str(path)) as file:
        batch = pa.ipc.open_stream(file).read_next_batch()
    ids = batch["ids"]
    return Samples(*(each.to_numpy() for each in (ids.values, ids.offsets, batch["num_prompt"], batch["log_prob"])))


def bytes_to_make(stored: SampleFiles, path: Path, vocab_size: int) -> int:
    """Return the bytes that a complete set's file takes while it is made, the ids twice; 0 where there is one."""
    ids = stored.manifest()["num_tokens"] * smallest_unsigned(vocab_size).itemsize
    return 0 if path.is_file() else 2 * ids + PER_SEQUENCE * stored.num_sequences


def _is_made(stored: SampleFiles, path: Path) -> bool:
    record = read_record(path.with_suffix(".json"), manifest=sha256(stored.manifest_path))
    return record is not None and path.is_file() and sha256(path) == record["arrow"]


def _make(stored: SampleFiles, path: Path) -> None:
    """Write a set as one batch of Arrow's, in which all ids lie one after another, and then the record of its hash.

    Arrow writes a batch at once. So that it is never in memory, the ids are gathered in a file without a name first.
    """
    path.unlink(missing_ok=True)  # what is out of date, before its successor needs the space
    with atomic(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as gathered:
        columns = []
        for shard in range(len(stored.ranges)):
            samples = stored.read_shard(shard)
            gathered.write(samples.ids)
            columns.append((samples.lengths, samples.num_prompt, samples.log_prob))
        gathered.flush()
        lengths, num_prompt, log_prob = map(np.concatenate, zip(*columns, strict=True))
        ids = np.memmap(gathered, samples.ids.dtype, "r")
        lists = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]), ids)
        batch = pa.record_batch({"ids": lists, "num_prompt": num_prompt, "log_prob": log_prob})
        with pa.ipc.new_stream(str(temporary), batch.schema) as writer:
            writer.write_batch(batch)
    write_record(path.with_suffix(".json"), {"manifest": sha256(stored.manifest_path), "arrow": sha256(path)})
