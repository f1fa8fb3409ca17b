//! The referee's part in `first` and `compare`, and in `judge`.

use super::{
    args::{CompareArgs, Filters, JudgeArgs, Local},
    open,
    output::Failure,
    progress::Progress,
};
use bitnet_diff::{
    Error,
    compare::{Comparison, Verdicts},
    local::{Audit, Indexed, Which, audit, check_model, model_of},
    records::Side,
};
use bitnet_referee::Referee;
use std::path::{Path, PathBuf};

/// A referee for a comparison.
pub struct Wanted {
    model: PathBuf,
    referee: Referee,
    which: Which,
    always: bool,
}

impl Wanted {
    /// The referee that the arguments ask for; none where none is asked for, or none can be had and need not.
    pub fn of(
        judge: &JudgeArgs,
        compare: &CompareArgs,
        sides: [&Side<'_>; 2],
    ) -> Result<Option<Self>, Failure> {
        if !judge.wants_local(compare) {
            return Ok(None);
        }
        // A model that is given is meant.
        let always = judge.local == Local::Always || judge.model.is_some();
        match referee(judge.model.as_deref(), &sides) {
            Ok((model, referee)) => Ok(Some(Self {
                model,
                referee,
                which: Which {
                    filter: compare.filters.filter(),
                    ..Which::default()
                },
                always,
            })),
            Err(failure) if always => Err(failure),
            Err(_) => Ok(None),
        }
    }

    /// Whether it has a say, whatever the runs differ by.
    pub fn is_asked_always(&self) -> bool {
        self.always
    }

    /// Whether it has a say: nothing need be recomputed of runs that are the same.
    pub fn is_needed(&self, comparison: &Comparison<'_>) -> bool {
        let counts = &comparison.counts;
        self.always || counts.diverged > 0 || (comparison.floor.is_some() && counts.within > 0)
    }

    /// Judges the pairs of two runs. The runs are opened again where these are not all of their records,
    /// since inputs are looked for among all.
    pub fn judge(
        &self,
        pairs: &mut Verdicts<'_>,
        paths: (&Path, &Path),
        names: open::Names<'_>,
    ) -> Result<(), Failure> {
        let all = Filters::default();
        let whole = match names.filters.text().is_empty() {
            true => None,
            false => Some(open::both(
                paths.0,
                paths.1,
                open::Names {
                    filters: &all,
                    ..names
                },
            )?),
        };
        let whole = whole.as_ref().map(|(left, right)| (left.side(), right.side()));
        let (left, right) = match &whole {
            Some((left, right)) => (left, right),
            None => (pairs.left, pairs.right),
        };
        let runs = [Indexed::new(left), Indexed::new(right)];
        let audits = audits(&self.referee, &runs, &self.which)?;
        pairs.judge_locally(
            self.model.display().to_string(),
            (&runs[0], &audits[0]),
            (&runs[1], &audits[1]),
        );
        Ok(())
    }
}

/// The referee of the model at `given`, or of the one that the runs name.
pub fn referee(given: Option<&Path>, sides: &[&Side<'_>]) -> Result<(PathBuf, Referee), Failure> {
    if let Some(side) = sides.iter().find(|side| side.manifest.replay.is_some()) {
        let message = format!(
            "{} went on with the tensors of another run, so that what it recorded of a stage's inputs is not what the \
             stage was given; `bitnet-diff cross` or `first` tells its local errors",
            side.name
        );
        return Err(Failure::new("replayed", message));
    }
    let model = given.map(Path::to_owned).or_else(|| model_of(sides));
    let model = model.ok_or_else(|| {
        let message = "the runs name no model file that is there; give the GGUF with --model";
        Failure::new("no_model", message.to_owned())
    })?;
    check_model(&model, sides)?;
    let referee = Referee::open(&model).map_err(Error::from)?;
    Ok((model, referee))
}

/// The local errors of each run, with a bar where it takes long.
pub fn audits(referee: &Referee, runs: &[Indexed<'_>], which: &Which) -> Result<Vec<Audit>, Failure> {
    let progress = Progress::of("stages");
    let audit = |(i, run)| {
        let told = audit(referee, run, which, &|done, total| {
            progress.update(i * total + done, runs.len() * total);
        });
        Ok(told?)
    };
    runs.iter().enumerate().map(audit).collect()
}
