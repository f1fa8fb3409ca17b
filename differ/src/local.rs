//! Local errors: each record against the exact result of its own recorded inputs.
//!
//! [`audit`] has the referee recompute every record of a run; [`JudgeReport`] says of one audit or two which stage of
//! which run is off. What two runs differ by because their inputs differed is no error of either.

mod applied;
mod audit;
mod model;
mod report;
mod side;

pub use applied::{LocalReason, LocalView, RoundingDifference};
pub use audit::{Audit, Measured, StageAudit, Which, audit};
pub use model::{check_model, model_of};
pub use report::{
    Finding, JudgeReport, JudgedRun, ModelView, RefusedView, RoundingView, SideView, StageView, Who,
};
pub use side::Indexed;
