"""`python -m benchmarks.hash_source FOLDER COLUMN`: the seconds that it takes to read a column of bytes, and to hash it.

The least that telling whether a source has changed can cost, if one does not trust the names and times of its files: each
Parquet file of the folder is read, and each value hashed by sha256, one after the other. Prints a JSON line: `seconds` (the
start of the process does not count), `rows` and `bytes`.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq


def main() -> None:
    """See the module."""
    folder, column = Path(sys.argv[1]), sys.argv[2]
    started = time.perf_counter()
    rows = size = 0
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            for value in file.read_row_group(group, columns=[column]).column(0):
                image = memoryview(value.as_buffer())
                hashlib.sha256(image).hexdigest()
                rows, size = rows + 1, size + len(image)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": round(seconds, 3), "rows": rows, "bytes": size}), flush=True)


if __name__ == "__main__":
    main()
