"""NumPy reads what `bitnet-diff export` takes out of the runs that the recorders wrote on real engines.

Runs over the database of the environment variable TRACES (default: the demo's), after `make setup`.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRACES = pathlib.Path(os.environ.get("TRACES", ROOT / "target/demo/traces"))
PROGRAM = os.environ.get("BITNET_DIFF", ROOT / "target/release/bitnet-diff")
COLUMNS = ["seq", "layer", "stage", "pass", "occurrence", "values", "shape", "dtype", "blake3"]


def export(run, *flags):
    done = subprocess.run([PROGRAM, "export", run, *flags], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)
    return done.stdout


class Export(unittest.TestCase):
    def test_every_record_of_a_token_is_the_array_that_the_part_holds(self):
        for run in sorted(TRACES.glob("run=*")):
            rows = [r for part in sorted(run.glob("*.parquet")) for r in pq.read_table(part, columns=COLUMNS).to_pylist()]
            key = ("seq", "layer", "stage", "pass", "occurrence")
            known = {tuple(r[k] for k in key): r for r in rows}
            with self.subTest(run=run.name), tempfile.TemporaryDirectory() as folder:
                report = json.loads(export(run, "--seq", "3", "--npy", f"{folder}/a", "--format", "json"))
                self.assertEqual(report["records"], sum(r["seq"] == 3 for r in rows))
                for file in report["files"]:
                    row = known[tuple(file["record"][k] for k in key)]
                    array = np.load(file["path"], allow_pickle=False)
                    self.assertEqual((list(array.shape), array.dtype.name), (row["shape"], file["numpy"]))
                    self.assertTrue(array.flags.c_contiguous)
                    self.assertEqual(array.astype("<f4").tobytes(), np.array(row["values"], "<f4").tobytes())

    def test_a_run_and_its_trace_file_are_the_same(self):
        for run in sorted(TRACES.glob("run=*")):
            with self.subTest(run=run.name), tempfile.TemporaryDirectory() as folder:
                export(run, "--trace", f"{folder}/a.trace")
                done = subprocess.run([PROGRAM, "first", run, folder], capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
