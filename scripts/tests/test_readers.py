"""DuckDB, pandas and Polars read the parts that the recorders wrote on real engines.

Runs over the database of the environment variable TRACES (default: the demo's), after `make setup`.
"""

import glob
import json
import os
import pathlib
import subprocess
import sys
import unittest

import duckdb
import numpy as np
import pandas as pd
import polars as pl

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRACES = pathlib.Path(os.environ.get("TRACES", ROOT / "target/demo/traces"))
KEY = ["run", "request", "seq", "layer", "stage", "pass", "occurrence"]


def rms(values):
    x = np.asarray(values, dtype=np.float64)
    x = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(x * x))) if x.size else None


class Readers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.runs = {p.name.removeprefix("run="): json.loads((p / "run.json").read_text()) for p in TRACES.glob("run=*")}
        if not cls.runs:
            raise RuntimeError(f"no runs in {TRACES}; record some with `make demo`")
        cls.records = sum(m["records"] for m in cls.runs.values())
        cls.glob = f"{TRACES}/**/*.parquet"
        cls.duck = duckdb.connect()
        cls.duck.execute(f"CREATE VIEW t AS SELECT * FROM read_parquet('{cls.glob}', hive_partitioning = true)")

    def test_duckdb_counts_every_record_of_every_run(self):
        rows = dict(self.duck.sql("SELECT run, count(*) FROM t GROUP BY run").fetchall())
        self.assertEqual(rows, {name: m["records"] for name, m in self.runs.items()})

    def test_duckdb_finds_no_key_twice(self):
        twice = self.duck.execute(f"SELECT count(*) FROM (SELECT 1 FROM t GROUP BY {','.join(KEY)} HAVING count(*) > 1)")
        self.assertEqual(twice.fetchone()[0], 0)

    def test_duckdb_recomputes_every_rms_from_the_values(self):
        checked, worst = self.duck.execute("""
            SELECT count(*), max(abs(rms - sqrt(list_sum(list_transform(values, lambda x: x::DOUBLE * x)) / len(values))) / rms)
            FROM t WHERE rms > 0 AND nan_count + inf_count = 0
        """).fetchone()
        self.assertGreater(checked, self.records * 0.9)
        self.assertLess(worst, 1e-12)

    def test_pandas_reads_the_same_keys_and_recomputes_every_rms(self):
        frame = pd.read_parquet(sorted(glob.glob(self.glob, recursive=True)), columns=[*KEY, "values", "rms", "num_elements"])
        self.assertEqual(len(frame), self.records)
        self.assertFalse(frame.duplicated(KEY).any())
        self.assertTrue((frame["values"].map(len) == frame["num_elements"]).all())
        worst = max(abs(rms(v) - r) for v, r in zip(frame["values"], frame["rms"], strict=True))
        self.assertLess(worst, 1e-9)

    def test_polars_reads_the_same_keys_and_recomputes_every_rms(self):
        frame = pl.scan_parquet(self.glob, hive_partitioning=True)
        self.assertEqual(frame.select(pl.len()).collect().item(), self.records)
        self.assertEqual(frame.select(KEY).unique().select(pl.len()).collect().item(), self.records)
        square = pl.element().cast(pl.Float64) ** 2
        worst = frame.select((pl.col("values").list.eval(square).list.mean().sqrt() - pl.col("rms")).abs().max())
        self.assertLess(worst.collect().item(), 1e-9)

    def test_the_examples_run(self):
        for script in ("read_pandas.py", "read_polars.py"):
            out = subprocess.run(
                [sys.executable, ROOT / "scripts/examples" / script, TRACES], capture_output=True, text=True, check=False
            )
            self.assertEqual(out.returncode, 0, out.stderr)
            self.assertTrue(out.stdout.strip())
        sql = (ROOT / "scripts/examples/duckdb.sql").read_text().replace("traces/", f"{TRACES}/")
        duckdb.connect().execute(sql)


if __name__ == "__main__":
    unittest.main()
