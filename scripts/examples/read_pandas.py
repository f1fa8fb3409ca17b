"""How large are the layers' outputs? python read_pandas.py traces"""

import glob
import sys

import pandas as pd

# A list of parts, because a database also holds files that are not Parquet; run=<name> becomes a column all the same.
parts = sorted(glob.glob(f"{sys.argv[1]}/run=*/*.parquet"))
trace = pd.read_parquet(parts, columns=["run", "seq", "layer", "stage", "rms"], filters=[("stage", "==", "layer_out")])
print(trace.pivot_table(index="layer", columns="run", values="rms"))
