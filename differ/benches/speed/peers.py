"""Compares two runs with the programs that a user of Parquet has at hand. For each word on standard input, `duckdb` or
`pandas`, it compares them once and writes the seconds that took."""

import glob
import sys
import time

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

left, right, threads = sys.argv[1:]
KEY = ["request", "seq", "layer", "stage", "pass", "occurrence"]


def with_duckdb():
    sql = duckdb.connect()
    sql.execute(f"SET threads = {threads}")
    return sql.execute(
        f"""SELECT count(*), min(list_cosine_similarity(l."values", r."values"))
            FROM read_parquet('{left}/*.parquet') l JOIN read_parquet('{right}/*.parquet') r
            USING ({", ".join(f'"{column}"' for column in KEY)})"""
    ).fetchone()


def with_pandas():
    def read(run):
        parts = sorted(glob.glob(f"{run}/*.parquet"))
        table = pa.concat_tables(pq.ParquetFile(part, memory_map=True).read(columns=KEY + ["values"]) for part in parts)
        values = table["values"].combine_chunks()
        rows = table.select(KEY).to_pandas()
        rows["start"] = values.offsets.to_numpy()[:-1]
        rows["end"] = values.offsets.to_numpy()[1:]
        return rows, values.values.to_numpy()

    (a, x), (b, y) = read(left), read(right)
    pairs = a.merge(b, on=KEY)
    least = 1.0
    places = zip(pairs.start_x, pairs.end_x, pairs.start_y, pairs.end_y)
    for start_x, end_x, start_y, end_y in places:
        u, v = x[start_x:end_x], y[start_y:end_y]
        least = min(least, np.dot(u, v) / (np.linalg.norm(u) * np.linalg.norm(v)))
    return len(pairs), least


for line in sys.stdin:
    start = time.perf_counter()
    count, least = {"duckdb": with_duckdb, "pandas": with_pandas}[line.strip()]()
    seconds = time.perf_counter() - start
    print(seconds, count, least, flush=True)
