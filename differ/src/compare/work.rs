//! Pairs, shared out to threads, and taken in the order of the plan.

use super::glance::{Glance, Values};
use super::pair::{Forms, Judge, Known, Pair};
use super::{Stopped, Until};
use crate::{
    Error,
    judge::{Outcome, Verdict},
    plan::{Place, PositionAt, Step, Steps, Stretch},
};
use bitnet_trace_store::{Located, Stretches};
use std::{
    collections::BTreeMap,
    mem::replace,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Bytes of a run that all threads together have mapped.
const MAPPED: usize = 32 << 20;
/// What a thread takes at a time, at most: enough for few turns, little enough for all threads to end together.
const BYTES: usize = 8 << 20;
/// And at least, however many threads there are.
const LEAST_BYTES: usize = 64 << 10;
/// Steps of it, where they are small: their metadata and outcomes stay in the second cache.
const STEPS: usize = 1024;
/// Steps that a thread judges before it gives pages back, which disturbs the others, if it has not read much before.
const KEPT_STEPS: usize = 32 << 10;
/// Pieces that wait before any thread takes them, and not the first alone.
const MOST_WAITING: usize = 32;
/// The first pieces where the first position at which records diverge may be the last.
const FIRST_BYTES: i64 = 1 << 20;
/// Positions, alike by their places, after which sizes are looked at again: some grow with the position.
const SIZED: usize = 32;

/// Request and seq, in causal order.
type At = (i32, i64);

/// What takes the verdicts on a plan, in its order.
pub(super) trait Take: Send {
    /// Layers and stages, whose numbers go on from those before.
    fn places(&mut self, places: &mut Vec<Place>);

    /// All steps of the next position. Whoever wants the outcomes takes them.
    fn position(&mut self, at: PositionAt, steps: &[Step], outcomes: &mut [Outcome]);
}

/// What is still to do, in causal order: planned as it is taken, so that one thread plans while the others judge.
struct Rest<'a> {
    ahead: Steps<'a>,
    /// What the last piece left of a position.
    left: Option<(PositionAt, Vec<Step>)>,
    /// Bytes of the left values of a position like the last one, and how many positions it was taken for.
    size: (i64, usize),
    /// Pieces and layers with stages that were taken.
    pieces: usize,
    places: usize,
}

/// Steps that one thread judges.
#[derive(Default)]
struct Piece {
    /// Pieces before it.
    number: usize,
    stretch: Stretch,
    outcomes: Vec<Outcome>,
    /// Layers and stages that are met in it first.
    places: Vec<Place>,
    /// Whether its last position goes on in the next piece.
    goes_on: bool,
}

/// Verdicts in order.
struct InOrder<T> {
    taker: T,
    /// Pieces that were taken.
    taken: usize,
    /// The first steps of a position that goes on.
    held: (Vec<Step>, Vec<Outcome>),
    /// Steps after the last position that is wanted.
    beyond: usize,
}

/// Pieces that were judged and wait to be taken, and such as were taken, for their room.
#[derive(Default)]
struct Waiting {
    judged: BTreeMap<usize, Piece>,
    spare: Vec<Piece>,
}

/// What the threads share.
struct Work<'a> {
    judge: &'a Judge<'a>,
    rest: Mutex<Rest<'a>>,
    end: Mutex<End>,
    /// Bytes of a piece, and bytes that a thread reads before it gives pages back.
    bytes: i64,
    kept: usize,
}

/// What ends the work early. Pieces are taken in order: what stands before either was judged, whatever the threads did.
#[derive(Default)]
struct End {
    /// The first position at which a record diverged, where that is the end.
    position: Option<At>,
    /// The first position at which a step failed: the piece, the step in it, the position, and the error.
    failed: Option<(usize, usize, At, Error)>,
}

/// Plans and judges, on as many threads as the options say; where a divergence is the end, up to the end of the first
/// position at which one diverged. `progress` is called with the steps done.
pub(super) fn judge<T: Take>(
    judge: &Judge<'_>,
    ahead: Steps<'_>,
    taker: T,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<(T, Option<Stopped>), Error> {
    let most = ahead.left();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = match judge.options.threads {
        0 => cores,
        threads => threads,
    };
    let of_thread = MAPPED / threads;
    let bytes = (of_thread / 2).clamp(LEAST_BYTES, BYTES);
    let work = Work {
        judge,
        bytes: bytes as i64,
        // A piece is as many bytes by what its position had, and may be a little less.
        kept: of_thread.saturating_sub(bytes) / 8 * 7,
        rest: Mutex::new(Rest {
            ahead,
            left: None,
            size: (0, SIZED),
            pieces: 0,
            places: 0,
        }),
        end: Mutex::default(),
    };
    let done = AtomicUsize::new(0);
    let order = Ordered {
        waiting: Mutex::default(),
        in_order: Mutex::new(InOrder {
            taker,
            taken: 0,
            held: Default::default(),
            beyond: 0,
        }),
        end: &work.end,
    };
    let take_all = |is_first: bool| {
        let mut piece = Piece::default();
        let mut room = Room::default();
        while work.next(&mut piece) {
            work.piece(&mut piece, &mut room);
            let steps = piece.stretch.steps.len();
            order.push(&mut piece, is_first);
            progress(done.fetch_add(steps, Ordering::Relaxed) + steps);
        }
        work.give_back(&mut room);
    };
    thread::scope(|scope| {
        // A panic of one of them is a panic here: the caller turns it into an error.
        (1..threads.min(most)).for_each(|_| drop(scope.spawn(|| take_all(false))));
        take_all(true);
    });
    order.take();
    let InOrder { taker, beyond, .. } = inner(order.in_order);
    let Work { rest, end, .. } = work;
    let (rest, end) = (inner(rest), inner(end));
    if let Some((.., at, error)) = end.failed
        && end.position.is_none_or(|last| at <= last)
    {
        return Err(error);
    }
    let stopped = end.position.and_then(|(request, seq)| {
        let planned = rest.left.map_or(0, |(_, steps)| steps.len());
        let not_compared = (beyond + planned + rest.ahead.left()) as u64;
        (not_compared > 0).then_some(Stopped {
            request,
            seq,
            not_compared,
        })
    });
    Ok((taker, stopped))
}

/// The way of pieces from the threads to the taker.
struct Ordered<'a, T> {
    waiting: Mutex<Waiting>,
    in_order: Mutex<InOrder<T>>,
    end: &'a Mutex<End>,
}

impl<T: Take> Ordered<'_, T> {
    /// Leaves a piece to be taken, and an empty one in its place. The first thread takes what can be taken: what the taker
    /// keeps would otherwise go from one processor's cache to the other's with every piece.
    fn push(&self, piece: &mut Piece, is_first: bool) {
        let waiting = {
            let mut waiting = locked(&self.waiting);
            let spare = waiting.spare.pop().unwrap_or_default();
            waiting.judged.insert(piece.number, replace(piece, spare));
            waiting.judged.len()
        };
        if is_first || waiting > MOST_WAITING {
            self.take();
        }
    }

    fn take(&self) {
        let mut in_order = locked(&self.in_order);
        loop {
            let next = locked(&self.waiting).judged.remove(&in_order.taken);
            let Some(mut piece) = next else {
                break;
            };
            // Whatever ends it before this piece has been judged.
            let end = locked(self.end).position;
            in_order.take(&mut piece, end);
            locked(&self.waiting).spare.push(piece);
        }
    }
}

impl<T: Take> InOrder<T> {
    /// Takes the next piece. `end` is the last position that is wanted.
    fn take(&mut self, piece: &mut Piece, end: Option<At>) {
        self.taken += 1;
        self.taker.places(&mut piece.places);
        let last = piece.stretch.positions.len();
        let mut outcomes = &mut piece.outcomes[..];
        for (n, (at, steps)) in (1..).zip(piece.stretch.by_position()) {
            let (of_position, rest) = outcomes.split_at_mut(steps.len());
            outcomes = rest;
            if end.is_some_and(|last| (at.request, at.seq) > last) {
                self.beyond += steps.len();
                continue;
            }
            let goes_on = n == last && piece.goes_on;
            if !goes_on && self.held.0.is_empty() {
                self.taker.position(at, steps, of_position);
                continue;
            }
            let (held, of_held) = &mut self.held;
            held.extend_from_slice(steps);
            of_held.extend(of_position.iter_mut().map(Outcome::take));
            if !goes_on {
                self.taker.position(at, held, of_held);
                held.clear();
                of_held.clear();
            }
        }
    }
}

/// What a thread keeps from piece to piece.
#[derive(Default)]
struct Room<'a> {
    known: Forms<'a>,
    /// Steps of which a glance told their values, and where these are.
    seen: Vec<(usize, Pair<'a>, Values<'a>)>,
    stretches: [Stretches; 2],
    /// The others whose elements are to be read, the rows of both records, and where their values are.
    open: Vec<(usize, Pair<'a>)>,
    left: Vec<usize>,
    right: Vec<usize>,
    located: [Located<'a>; 2],
    /// Of both runs, what was read and not given back, and for how many steps.
    read: [Stretches; 2],
    judged: usize,
}

impl Room<'_> {
    fn clear(&mut self) {
        self.seen.clear();
        self.open.clear();
        self.left.clear();
        self.right.clear();
    }
}

impl<'a> Work<'a> {
    /// The next piece; false where there is no more, or no more is wanted.
    fn next(&self, piece: &mut Piece) -> bool {
        let mut rest = locked(&self.rest);
        let rest = &mut *rest;
        // What ends the work while a piece is taken ends it after that piece.
        let ends = {
            let end = locked(&self.end);
            [end.position, end.failed.as_ref().map(|f| f.2)]
        };
        let is_wanted = |at: &PositionAt| ends.iter().flatten().all(|last| (at.request, at.seq) <= *last);
        let most = match self.judge.options.until() {
            Until::End => self.bytes,
            Until::Divergence => self.bytes.min(FIRST_BYTES << rest.pieces.min(8)),
        };
        let stretch = &mut piece.stretch;
        stretch.clear();
        piece.goes_on = false;
        let mut bytes = 0;
        if let Some((at, steps)) = rest.left.take() {
            if !is_wanted(&at) {
                rest.left = Some((at, steps));
                return false;
            }
            stretch.positions.push(PositionAt { first: 0, ..at });
            stretch.steps.extend(steps);
            bytes = self.cut(piece, 0, rest, most);
        }
        while !piece.goes_on && bytes < most && piece.stretch.steps.len() < STEPS {
            let first = piece.stretch.steps.len();
            let Some(planned) = rest.ahead.next_into(&mut piece.stretch) else {
                break;
            };
            let at = piece.stretch.positions[piece.stretch.positions.len() - 1];
            if !is_wanted(&at) {
                piece.stretch.positions.pop();
                rest.left = Some((at, piece.stretch.steps.split_off(first)));
                break;
            }
            let (size, times) = &mut rest.size;
            if planned.is_as_before && *times < SIZED && *size < most {
                *times += 1;
                bytes += *size;
            } else {
                let of_position = self.cut(piece, first, rest, most);
                rest.size = (of_position, 0);
                bytes += of_position;
            }
        }
        if piece.stretch.steps.is_empty() {
            return false;
        }
        piece.places.clear();
        piece.places.extend(rest.ahead.places_from(rest.places));
        rest.places += piece.places.len();
        piece.number = rest.pieces;
        rest.pieces += 1;
        true
    }

    /// Leaves of the last position, whose steps begin at `first`, what is too much for one piece. Returns the bytes of the
    /// rest.
    fn cut(&self, piece: &mut Piece, first: usize, rest: &mut Rest<'_>, most: i64) -> i64 {
        let left = self.judge.left.records;
        let mut bytes = 0i64;
        for at in first..piece.stretch.steps.len() {
            if at > first && (bytes >= most || at - first >= STEPS) {
                let position = piece.stretch.positions[piece.stretch.positions.len() - 1];
                rest.left = Some((position, piece.stretch.steps.split_off(at)));
                piece.goes_on = true;
                break;
            }
            let elements = piece.stretch.steps[at]
                .left()
                .map_or(0, |row| left.num_elements(row));
            bytes = elements.max(0).saturating_mul(4).saturating_add(bytes);
        }
        bytes
    }

    fn piece(&self, piece: &mut Piece, room: &mut Room<'a>) {
        let judge = self.judge;
        let (left, right) = (judge.left.records, judge.right.records);
        self.sift(piece, room);
        // What is not known by now is read, all of it together.
        let [l, r] = &mut room.located;
        left.locate(&room.left, l);
        right.locate(&room.right, r);
        for (side, stretches) in [
            (left, [&l.stretches, &room.stretches[0]]),
            (right, [&r.stretches, &room.stretches[1]]),
        ] {
            stretches.into_iter().for_each(|stretches| side.ahead(stretches));
        }
        if judge.options.verify {
            for (i, step) in piece.stretch.steps.iter().enumerate() {
                if let Err(error) = judge.verify(step) {
                    self.failed((piece.number, i), place(piece.stretch.at(i)), error);
                    break;
                }
            }
        }
        self.measure(piece, room);
        room.judged += piece.stretch.steps.len();
        for (i, read) in room.read.iter_mut().enumerate() {
            read.append(&mut room.stretches[i]);
            read.append(&mut room.located[i].stretches);
        }
        let most = room.read.iter().map(Stretches::bytes).max().unwrap_or(0);
        if most >= self.kept || room.judged >= KEPT_STEPS {
            self.give_back(room);
        }
    }

    /// Gives the outcomes that need no element, and finds the pairs that do.
    fn sift(&self, piece: &mut Piece, room: &mut Room<'a>) {
        let judge = self.judge;
        let (left, right) = (judge.left.records, judge.right.records);
        let Piece {
            stretch, outcomes, ..
        } = piece;
        room.clear();
        outcomes.clear();
        outcomes.reserve_exact(stretch.steps.len());
        for (at, steps) in stretch.by_position() {
            let glance = Glance::at(judge, steps);
            for step in steps {
                let i = outcomes.len();
                let (l, r) = match judge.rows(at, step) {
                    Ok(rows) => rows,
                    Err(known) => {
                        outcomes.push(known);
                        continue;
                    }
                };
                outcomes.push(Outcome::plain(Verdict::Incomparable));
                let seen = glance
                    .as_ref()
                    .and_then(|glance| glance.pair(step.place, (l, r), &room.known, &mut room.stretches));
                if let Some((pair, values)) = seen {
                    room.seen.push((i, pair, values));
                    continue;
                }
                let heads = (left.head(l), right.head(r));
                match judge.open(step.place, (l, r), heads, &mut room.known) {
                    Known::Outcome(outcome) => outcomes[i] = outcome,
                    Known::Pair(pair) => {
                        room.open.push((i, pair));
                        room.left.push(l);
                        room.right.push(r);
                    }
                }
            }
        }
    }

    /// Gives the outcomes of the pairs that were found.
    fn measure(&self, piece: &mut Piece, room: &Room<'_>) {
        let judge = self.judge;
        let (stretch, outcomes) = (&piece.stretch, &mut piece.outcomes);
        let seen = room.seen.iter();
        let seen = seen.map(|&(i, pair, (x, y))| (i, pair, (Some(x), Some(y))));
        let located = room.located[0].values.iter().zip(&room.located[1].values);
        let open = room.open.iter().zip(located);
        let open = open.map(|(&(i, pair), (&x, &y))| (i, pair, (x, y)));
        for (i, pair, values) in seen.chain(open) {
            let outcome = &mut outcomes[i];
            if let Some(distance) = pair.within(values) {
                outcome.verdict = Verdict::Within;
                outcome.distance = Some(distance);
                continue;
            }
            let at = stretch.at(i);
            let Ok(rows) = judge.rows(at, &stretch.steps[i]) else {
                continue;
            };
            match judge.by_elements(rows, values, false) {
                Ok(judged) => *outcome = judged,
                Err(error) => {
                    self.failed((piece.number, i), place(at), error);
                    continue;
                }
            }
            // They are taken again of what is told in full.
            outcome.metrics = None;
            if outcome.verdict == Verdict::Diverged && judge.options.until() == Until::Divergence {
                let mut end = locked(&self.end);
                end.position = Some(end.position.map_or(place(at), |last| last.min(place(at))));
            }
        }
    }

    /// Gives back the pages that were read.
    fn give_back(&self, room: &mut Room<'_>) {
        let sides = [self.judge.left, self.judge.right];
        for (side, read) in sides.into_iter().zip(&mut room.read) {
            side.records.done(read);
            read.clear();
        }
        room.judged = 0;
    }

    fn failed(&self, (piece, step): (usize, usize), at: At, error: Error) {
        let mut end = locked(&self.end);
        let before = end.failed.as_ref().map(|(piece, step, ..)| (*piece, *step));
        if before.is_none_or(|first| (piece, step) < first) {
            end.failed = Some((piece, step, at, error));
        }
    }
}

fn place(at: PositionAt) -> At {
    (at.request, at.seq)
}

fn inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
