//! Opens bitnet-diff runs, indexes them in SQLite and hands out zero-copy tensors.
