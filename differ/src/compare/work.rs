//! Pairs, shared out to threads.

use super::{Judge, Until};
use crate::{
    Error,
    judge::{Outcome, Verdict},
    plan::Step,
    records::Records,
};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What a thread takes at a time: enough for few turns, little enough for all threads to end together.
const BYTES: i64 = 2 << 20;
/// Pairs of it, where they are small.
const PAIRS: usize = 1024;

/// What is still to do: always the rest of the steps, in causal order.
struct Rest<'a> {
    start: usize,
    steps: &'a [Step],
    outcomes: &'a mut [Outcome],
}

/// Steps that one thread judges, and where they begin.
struct Piece<'a> {
    start: usize,
    steps: &'a [Step],
    outcomes: &'a mut [Outcome],
}

impl<'a> Rest<'a> {
    fn take(&mut self, left: &dyn Records) -> Piece<'a> {
        let (mut pairs, mut bytes) = (0, 0);
        while pairs < self.steps.len().min(PAIRS) && bytes < BYTES {
            let row = self.steps[pairs].left;
            let elements = row.map_or(0, |row| left.meta(row).num_elements);
            bytes = elements.max(0).saturating_mul(4).saturating_add(bytes);
            pairs += 1;
        }
        let start = self.start;
        self.start += pairs;
        let (steps, rest) = self.steps.split_at(pairs);
        self.steps = rest;
        let (outcomes, rest) = std::mem::take(&mut self.outcomes).split_at_mut(pairs);
        self.outcomes = rest;
        Piece {
            start,
            steps,
            outcomes,
        }
    }
}

/// What the threads share.
struct Work<'a> {
    judge: &'a Judge<'a>,
    steps: &'a [Step],
    rest: Mutex<Rest<'a>>,
    /// Steps from here on need not be judged. It only ever moves towards the start, and pieces are taken in order: what
    /// stands before its last place was judged, whatever the threads did.
    end: AtomicUsize,
    /// The first step that failed.
    failed: Mutex<Option<(usize, Error)>>,
}

/// Judges steps, on as many threads as the options say; where a divergence is the end, up to the end of the first
/// position at which one diverged. `progress` is called with the steps done.
pub(super) fn judge(
    judge: &Judge<'_>,
    steps: &[Step],
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = vec![Outcome::plain(Verdict::MissingRight); steps.len()];
    let work = Work {
        judge,
        steps,
        rest: Mutex::new(Rest {
            start: 0,
            steps,
            outcomes: &mut outcomes,
        }),
        end: AtomicUsize::new(steps.len()),
        failed: Mutex::new(None),
    };
    let done = AtomicUsize::new(0);
    let take_all = || {
        while let Some(piece) = work.next() {
            let pairs = piece.steps.len();
            work.piece(piece);
            progress(done.fetch_add(pairs, Ordering::Relaxed) + pairs);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = match judge.options.threads {
        0 => cores,
        threads => threads,
    };
    thread::scope(|scope| {
        // A panic of one of them is a panic here: the caller turns it into an error.
        (1..threads.min(steps.len())).for_each(|_| drop(scope.spawn(take_all)));
        take_all();
    });
    let Work { end, failed, .. } = work;
    let end = end.into_inner();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((at, error)) if at < end => Err(error),
        _ => {
            outcomes.truncate(end);
            Ok(outcomes)
        }
    }
}

impl<'a> Work<'a> {
    fn next(&self) -> Option<Piece<'a>> {
        let mut rest = locked(&self.rest);
        let open = rest.start < self.end.load(Ordering::Relaxed);
        open.then(|| rest.take(self.judge.left.records))
    }

    fn piece(&self, piece: Piece<'_>) {
        let (left, right) = (self.judge.left.records, self.judge.right.records);
        let verify = self.judge.options.verify;
        // What cannot be told at once is read, all of it together.
        let (mut open, mut l, mut r) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (step, outcome)) in piece.steps.iter().zip(&mut *piece.outcomes).enumerate() {
            let known = self.judge.at_once(step);
            if known.is_none() || verify {
                open.push(i);
                l.extend(step.left);
                r.extend(step.right);
            }
            if let Some(known) = known {
                *outcome = known;
            }
        }
        left.ahead(&l);
        right.ahead(&r);
        for i in open {
            let at = piece.start + i;
            if at >= self.end.load(Ordering::Relaxed) {
                break;
            }
            self.one(at, &piece.steps[i], &mut piece.outcomes[i]);
        }
        left.done(&l);
        right.done(&r);
    }

    /// Judges a step by its elements, if its outcome is not that which was told at once.
    fn one(&self, at: usize, step: &Step, outcome: &mut Outcome) {
        let judged = match (self.judge.options.verify, step.left, step.right) {
            (true, ..) => self.judge.verified(step),
            (false, Some(l), Some(r)) => self.judge.by_elements(step, l, r),
            _ => return,
        };
        match judged {
            Ok(judged) => *outcome = judged,
            Err(error) => {
                self.end.fetch_min(at + 1, Ordering::Relaxed);
                let mut failed = locked(&self.failed);
                if failed.as_ref().is_none_or(|(first, _)| at < *first) {
                    *failed = Some((at, error));
                }
                return;
            }
        }
        if outcome.verdict == Verdict::Diverged && self.judge.options.until == Until::Divergence {
            self.end.fetch_min(self.end_of_position(at), Ordering::Relaxed);
        }
    }

    fn end_of_position(&self, at: usize) -> usize {
        let position = |step: &Step| (step.key.request, step.key.seq);
        let rest = self.steps[at..].iter();
        at + rest
            .take_while(|step| position(step) == position(&self.steps[at]))
            .count()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
