use std::path::PathBuf;

/// What a run holds, once it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// The run's name; empty where the recorder was off.
    pub run: String,
    /// The run's directory.
    pub dir: PathBuf,
    /// Records in the sealed parts.
    pub records: u64,
    /// Number of sealed parts.
    pub parts: u64,
    /// Tensors that were offered but not recorded.
    pub dropped: u64,
}
