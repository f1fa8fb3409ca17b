"""The largest activation of each stage: python read_polars.py traces"""

import sys

import polars as pl

trace = pl.scan_parquet(f"{sys.argv[1]}/**/*.parquet", hive_partitioning=True)
print(trace.group_by("run", "stage").agg(pl.col("abs_max").max()).sort("abs_max", descending=True).collect())
