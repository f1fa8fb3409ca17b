use serde::{Deserialize, Serialize};

/// Relative differences of this size are rounding of f32 sums: it is added to errors before they are divided by each
/// other, and to their floor.
pub const TINY: f64 = 1e-6;
/// How many times the highest scan of a sound run's prompt a scan may come to.
pub const MARGIN: f64 = 2.0;
/// How many standard deviations (of its logarithm) beyond the highest it may lie, where that is more.
pub const SPREADS: f64 = 3.0;
/// How many times the largest of all sound records a single record may come to.
pub const LONE_MARGIN: f64 = 6.0;

/// What sound runs show of an error or a gain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Median of all records.
    pub median: f64,
    /// The largest [`scan`](super::scan::scan) of a prompt.
    pub high: f64,
    /// Standard deviation of the natural logarithm of the prompts' scans.
    pub spread: f64,
    /// The largest of a record.
    pub max: f64,
}

impl Level {
    /// What the scan of a run may come to.
    pub fn limit(&self) -> f64 {
        (self.high + TINY) * MARGIN.max((SPREADS * self.spread).exp())
    }

    /// What a single record may come to.
    pub fn limit_of_one(&self) -> f64 {
        ((self.max + TINY) * LONE_MARGIN).max(self.limit())
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let all = [self.median, self.high, self.spread, self.max];
        if !all.iter().all(|x| x.is_finite() && *x >= 0.0) {
            return Err("a number is negative or not finite");
        }
        if self.high > self.max || self.median > self.max {
            return Err("max is not the largest");
        }
        // Nothing would ever be beyond it.
        if !self.limit_of_one().is_finite() {
            return Err("the limit that follows from it is not finite");
        }
        Ok(())
    }

    /// From the scans of each prompt and all records; none without one.
    pub(super) fn of(scans: &[f64], records: &mut [f64]) -> Option<Self> {
        let largest = |x: &[f64]| x.iter().copied().fold(0.0, f64::max);
        let logs: Vec<f64> = scans.iter().map(|x| (x + TINY).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / logs.len() as f64;
        Some(Self {
            median: super::scan::median(records)?,
            high: largest(scans),
            spread: variance.sqrt(),
            max: largest(records),
        })
    }
}
