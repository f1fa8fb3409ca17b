"""How large are the layers' outputs? python read_pandas.py traces"""

import sys

import pandas as pd

trace = pd.read_parquet(sys.argv[1], columns=["run", "seq", "layer", "stage", "rms"], filters=[("stage", "==", "layer_out")])
print(trace.pivot_table(index="layer", columns="run", values="rms"))
