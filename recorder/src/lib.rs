//! Records every tensor of an inference engine to Parquet.
