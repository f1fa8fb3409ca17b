use crate::{Completeness, Filter, Row, StoreError, TensorRef};
use bitnet_trace_schema::Manifest;
use std::path::{Path, PathBuf};

/// One execution of one engine, opened for reading. `Send` and `Sync`: tensors may be taken from
/// several threads.
#[derive(Debug)]
pub struct Run {
    name: String,
    path: PathBuf,
    manifest: Manifest,
    completeness: Completeness,
}

impl Run {
    /// Opens a run's directory (`…/run=NAME`), or the newest run of a database.
    ///
    /// # Errors
    /// [`StoreError`] if the path is neither, or if the run cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Err(StoreError::NotFound {
            path: path.as_ref().into(),
        })
    }

    /// The run's name: that of its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The run's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `run.json`.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether all that the engine offered is there.
    pub fn completeness(&self) -> &Completeness {
        &self.completeness
    }

    /// The records that `filter` takes, ordered by request, seq, op_index, pass and occurrence.
    ///
    /// # Errors
    /// [`StoreError::Index`], or [`StoreError::Changed`] if parts were replaced since the run was opened.
    pub fn records(&self, filter: &Filter) -> Result<Vec<Row>, StoreError> {
        let _ = filter;
        Err(StoreError::Changed {
            path: self.path.clone(),
        })
    }

    /// The elements of a record of this run.
    ///
    /// # Errors
    /// [`StoreError`] if the part changed since it was indexed, or if `row` is of another run.
    pub fn tensor(&self, row: &Row) -> Result<TensorRef, StoreError> {
        let (part, id) = (row.part, row.id);
        Err(StoreError::ForeignRow {
            path: self.path.clone(),
            part,
            id,
        })
    }
}
