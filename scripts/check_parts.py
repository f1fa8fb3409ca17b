#!/usr/bin/env python3
"""Recomputes the statistics of every record below a directory with DuckDB, pyarrow and Polars.

    python scripts/check_parts.py DIR

Exit 0 if the three agree with the parts on every rms, 1 if not. Only records with values count: the
original bytes of F64, I32 and I64 are opaque to SQL.
"""

import pathlib
import sys

import duckdb
import polars
import pyarrow.compute as pc
import pyarrow.parquet as pq

TOLERANCE = 1e-9


def duck(parts):
    rms = "sqrt(list_sum(list_transform(values, lambda x: x::DOUBLE * x::DOUBLE)) / len(values))"
    return duckdb.sql(
        f"SELECT count(*), max(abs({rms} - rms) / rms) FROM read_parquet({parts!r}) WHERE len(values) > 0 AND rms > 0"
    ).fetchall()[0]


def arrow(parts):
    rows, worst = 0, 0.0
    for part in parts:
        table = pq.read_table(part, columns=["values", "rms"])
        for values, rms in zip(table["values"], table["rms"].to_pylist()):
            if values.is_valid and len(values) and rms:
                floats = values.values.cast("double")
                found = (pc.sum(pc.multiply(floats, floats)).as_py() / len(floats)) ** 0.5
                rows, worst = rows + 1, max(worst, abs(found - rms) / rms)
    return rows, worst


def frames(parts):
    frame = polars.read_parquet(parts, columns=["values", "rms"]).filter(
        polars.col("values").list.len() > 0, polars.col("rms") > 0
    )
    x = polars.element().cast(polars.Float64)
    found = (polars.col("values").list.eval(x * x).list.sum() / polars.col("values").list.len()).sqrt()
    return len(frame), frame.select(((found - polars.col("rms")) / polars.col("rms")).abs().max()).item()


def main():
    parts = sorted(str(p) for p in pathlib.Path(sys.argv[1]).rglob("part-*.parquet"))
    if not parts:
        print(f"no parts in {sys.argv[1]}", file=sys.stderr)
        return 1
    results = {"DuckDB": duck(parts), "pyarrow": arrow(parts), "Polars": frames(parts)}
    for name, (rows, worst) in results.items():
        print(f"{name}: {rows} records of {len(parts)} parts, rms off by at most {worst or 0:.1e}")
    same = len({rows for rows, _ in results.values()}) == 1
    return 0 if same and all(rows and worst <= TOLERANCE for rows, worst in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
