//! Pairs, shared out to threads.

use super::{Judge, Known, Stopped, Until};
use crate::{
    Error,
    judge::{Outcome, Verdict},
    plan::{Step, Steps},
};
use std::{
    collections::BTreeMap,
    mem::replace,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// What a thread takes at a time: enough for few turns, little enough for all threads to end together.
const BYTES: i64 = 8 << 20;
/// Pairs of it, where they are small.
const PAIRS: usize = 8192;

/// A position, in causal order.
type Place = (i32, i64);

fn place(step: &Step) -> Place {
    (step.key.request, step.key.seq)
}

/// What is still to do, in causal order: planned as it is taken, so that one thread plans while the others judge.
struct Rest<'a> {
    ahead: Steps<'a>,
    /// What the last piece left of a position.
    planned: Vec<Step>,
    /// Steps that were taken.
    taken: usize,
    /// Steps of the last piece: about as many are in the next.
    room: usize,
}

/// Steps that one thread judges, and where they begin.
struct Piece {
    start: usize,
    steps: Vec<Step>,
    outcomes: Vec<Outcome>,
}

/// What was judged, from the first step on: a piece that comes early waits for those before it.
struct InOrder {
    steps: Vec<Step>,
    outcomes: Vec<Outcome>,
    early: BTreeMap<usize, Piece>,
}

impl InOrder {
    fn push(&mut self, piece: Piece) {
        self.early.insert(piece.start, piece);
        while let Some(mut next) = self.early.remove(&self.steps.len()) {
            self.steps.append(&mut next.steps);
            self.outcomes.append(&mut next.outcomes);
        }
    }
}

/// What the threads share.
struct Work<'a> {
    judge: &'a Judge<'a>,
    rest: Mutex<Rest<'a>>,
    end: Mutex<End>,
}

/// What ends the work early. Pieces are taken in order: what stands before either was judged, whatever the threads did.
#[derive(Default)]
struct End {
    /// The first position at which a record diverged, where that is the end.
    position: Option<Place>,
    /// The first step that failed, and its position.
    failed: Option<(usize, Place, Error)>,
}

/// The steps that were judged, an outcome for each, and where that ended early.
type Judged = (Vec<Step>, Vec<Outcome>, Option<Stopped>);

/// Plans and judges, on as many threads as the options say; where a divergence is the end, up to the end of the first
/// position at which one diverged. `progress` is called with the steps done.
pub(super) fn judge(
    judge: &Judge<'_>,
    ahead: Steps<'_>,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Judged, Error> {
    let most = ahead.left();
    let work = Work {
        judge,
        rest: Mutex::new(Rest {
            ahead,
            planned: Vec::new(),
            taken: 0,
            room: 0,
        }),
        end: Mutex::default(),
    };
    let done = AtomicUsize::new(0);
    let judged = Mutex::new(InOrder {
        steps: Vec::with_capacity(most),
        outcomes: Vec::with_capacity(most),
        early: BTreeMap::new(),
    });
    let take_all = || {
        while let Some(mut piece) = work.next() {
            work.piece(&mut piece);
            let pairs = piece.steps.len();
            locked(&judged).push(piece);
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
        (1..threads.min(most)).for_each(|_| drop(scope.spawn(take_all)));
        take_all();
    });
    let Work { rest, end, .. } = work;
    let (rest, end) = (inner(rest), inner(end));
    if let Some((_, at, error)) = end.failed
        && end.position.is_none_or(|last| at <= last)
    {
        return Err(error);
    }
    let InOrder {
        mut steps,
        mut outcomes,
        ..
    } = inner(judged);
    let stopped = end.position.and_then(|last| {
        let kept = steps.partition_point(|step| place(step) <= last);
        let not_compared = steps.len() - kept + rest.planned.len() + rest.ahead.left();
        steps.truncate(kept);
        outcomes.truncate(kept);
        let (request, seq) = last;
        (not_compared > 0).then_some(Stopped {
            request,
            seq,
            not_compared: not_compared as u64,
        })
    });
    Ok((steps, outcomes, stopped))
}

impl Work<'_> {
    /// The next piece; none where there is no more, or no more is wanted.
    fn next(&self) -> Option<Piece> {
        let left = self.judge.left.records;
        let mut rest = locked(&self.rest);
        // What ends the work while a piece is taken ends it after that piece.
        let ends = {
            let end = locked(&self.end);
            [end.position, end.failed.as_ref().map(|f| f.1)]
        };
        let wanted = |step: &Step| ends.iter().flatten().all(|last| place(step) <= *last);
        let room = Vec::with_capacity(rest.room);
        let mut steps = replace(&mut rest.planned, room);
        let (mut taken, mut bytes) = (0, 0);
        while taken < PAIRS && bytes < BYTES {
            if taken == steps.len() && !rest.ahead.next_into(&mut steps) {
                break;
            }
            let step = &steps[taken];
            if !wanted(step) {
                break;
            }
            let elements = step.left().map_or(0, |row| left.num_elements(row));
            bytes = elements.max(0).saturating_mul(4).saturating_add(bytes);
            taken += 1;
        }
        rest.planned.extend(steps.drain(taken..));
        let start = rest.taken;
        rest.taken += steps.len();
        rest.room = steps.len();
        drop(rest);
        (!steps.is_empty()).then(|| Piece {
            start,
            outcomes: Vec::with_capacity(steps.len()),
            steps,
        })
    }

    fn piece(&self, piece: &mut Piece) {
        let (left, right) = (self.judge.left.records, self.judge.right.records);
        // What is not known at once is read, all of it together.
        let steps = piece.steps.len();
        let mut open = Vec::with_capacity(steps);
        let (mut l, mut r) = (Vec::with_capacity(steps), Vec::with_capacity(steps));
        for (i, step) in piece.steps.iter().enumerate() {
            let (known, pair) = match self.judge.open(step) {
                Known::Outcome(known) => (known, None),
                Known::Pair(pair) => (Outcome::plain(Verdict::Incomparable), Some(pair)),
            };
            piece.outcomes.push(known);
            if pair.is_some() || self.judge.options.verify {
                open.push((i, pair));
                l.extend(step.left());
                r.extend(step.right());
            }
        }
        let (l, r) = (left.locate(&l), right.locate(&r));
        left.ahead(&l.stretches);
        right.ahead(&r.stretches);
        // A pair has a row, and so an entry, on both sides; without verifying, nothing else is open.
        let mut located = l.values.iter().zip(&r.values);
        for (i, pair) in open {
            let step = &piece.steps[i];
            let judged = match pair {
                Some(pair) if !self.judge.options.verify => {
                    let values = located.next().map_or((None, None), |(x, y)| (*x, *y));
                    self.judge.by_located(step, &pair, values)
                }
                _ => self.judge.verified(step),
            };
            match judged {
                Ok(judged) => {
                    piece.outcomes[i] = Outcome {
                        metrics: None,
                        ..judged
                    }
                }
                Err(error) => {
                    self.failed(piece.start + i, place(step), error);
                    break;
                }
            }
            if piece.outcomes[i].verdict == Verdict::Diverged
                && self.judge.options.until() == Until::Divergence
            {
                let mut end = locked(&self.end);
                end.position = Some(end.position.map_or(place(step), |last| last.min(place(step))));
            }
        }
        left.done(&l.stretches);
        right.done(&r.stretches);
    }

    fn failed(&self, at: usize, place: Place, error: Error) {
        let mut end = locked(&self.end);
        if end.failed.as_ref().is_none_or(|(first, ..)| at < *first) {
            end.failed = Some((at, place, error));
        }
    }
}

fn inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
