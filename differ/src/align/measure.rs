//! Distances between tensors.

use super::{describe::Description, tensors::Tensors};
use crate::mapping::Convention;
use bitnet_trace_store::StoreError;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

/// Candidates of each tensor whose values are read.
const SHORTLIST: usize = 8;
/// Positions that are looked at first.
const SAMPLE: usize = 4;
/// A median at these beyond which the others need not be read: it can neither be a pair nor stand near one.
const HOPELESS: f64 = 0.8;

/// Which run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The left one.
    Left,
    /// The right one.
    Right,
}

/// Sets of common positions that are told apart: tensors that cover a rarer one are not looked at.
const MOST_SETS: usize = 12;

/// The tensors of both runs.
pub struct Ends<'a> {
    /// Of the left run.
    pub left: Tensors<'a>,
    /// Of the right run.
    pub right: Tensors<'a>,
    sets: Sets,
    /// Of each run, the set that each tensor covers.
    covers: [Vec<Option<usize>>; 2],
    /// Descriptions by run, set of positions and tensor.
    descriptions: [HashMap<(usize, usize), Description>; 2],
    threads: usize,
    progress: &'a (dyn Fn(usize, usize) + Sync),
    done: AtomicUsize,
    total: AtomicUsize,
}

impl<'a> Ends<'a> {
    /// Reads and describes the tensors of both runs.
    ///
    /// # Errors
    /// [`StoreError`] where a record cannot be read.
    pub fn new(
        left: Tensors<'a>,
        right: Tensors<'a>,
        threads: usize,
        progress: &'a (dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, StoreError> {
        let mut ends = Self {
            left,
            right,
            sets: Sets::default(),
            covers: Default::default(),
            descriptions: Default::default(),
            threads,
            progress,
            done: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
        };
        for end in [End::Left, End::Right] {
            let counts = ends.parallel(ends.of(end).all.len(), &|i| ends.of(end).counts(i))?;
            let tensors = match end {
                End::Left => &mut ends.left,
                End::Right => &mut ends.right,
            };
            for (tensor, counts) in tensors.all.iter_mut().zip(counts) {
                tensor.counts = counts;
            }
        }
        ends.sets = Sets::of([End::Left, End::Right].map(|end| ends.of(end)));
        for (i, end) in [End::Left, End::Right].into_iter().enumerate() {
            let tensors = 0..ends.of(end).all.len();
            ends.covers[i] = tensors
                .clone()
                .map(|t| ends.sets.find(&ends.cover(end, t)))
                .collect();
            // Over every set of positions that the tensor may have in common with another.
            let of_tensor = |t| ends.sets.within(ends.covers[i][t]).map(move |set| (set, t));
            let wanted: Vec<(usize, usize)> = tensors.flat_map(of_tensor).collect();
            let described = ends.parallel(wanted.len(), &|i| {
                let (set, tensor) = wanted[i];
                let mut values = Vec::new();
                for &at in &ends.sets.all[set] {
                    values.extend(ends.of(end).values(tensor, at, None)?);
                }
                Ok(Description::of(&mut values))
            })?;
            ends.descriptions[i] = wanted.into_iter().zip(described).collect();
        }
        Ok(ends)
    }

    /// The tensors of one run.
    pub fn of(&self, end: End) -> &Tensors<'a> {
        match end {
            End::Left => &self.left,
            End::Right => &self.right,
        }
    }

    /// The common positions that a tensor has elements at.
    pub fn cover(&self, end: End, tensor: usize) -> Vec<usize> {
        covered(&self.of(end).all[tensor].counts)
    }

    /// Whether there is enough in a tensor to know it by.
    pub fn tells(&self, end: End, tensor: usize) -> bool {
        let cover = self.covers[end as usize][tensor];
        let description = cover.and_then(|set| self.descriptions[end as usize].get(&(set, tensor)));
        description.is_some_and(Description::tells)
    }

    /// How unlike the descriptions of two tensors are; infinite where their sizes differ.
    pub fn unlike(&self, left: usize, right: usize) -> f64 {
        self.unlike_in((End::Left, left), (End::Right, right))
    }

    fn unlike_in(&self, a: (End, usize), b: (End, usize)) -> f64 {
        let counts = |(end, tensor): (End, usize)| &self.of(end).all[tensor].counts;
        let (x, y) = (counts(a), counts(b));
        if x.iter().zip(y).any(|(x, y)| x != y && *x > 0 && *y > 0) {
            return f64::INFINITY;
        }
        let description =
            |(end, tensor): (End, usize), set| self.descriptions[end as usize].get(&(set, tensor));
        let covers = |(end, tensor): (End, usize)| self.covers[end as usize][tensor];
        let set = self.sets.common(covers(a), covers(b));
        let described = set.and_then(|set| description(a, set).zip(description(b, set)));
        match described {
            Some((a, b)) if a.tells() && b.tells() => a.distance(b),
            _ => f64::INFINITY,
        }
    }

    /// The distance of two tensors: the median over their common positions of `|b - a| / max(|a|, |b|)`. A
    /// median, since one token may have outliers that hide everything else.
    ///
    /// # Errors
    /// [`StoreError`] where a record cannot be read.
    pub fn distance(
        &self,
        left: usize,
        right: usize,
        convention: Option<&Convention>,
    ) -> Result<f64, StoreError> {
        Ok(self.apart((End::Left, left), (End::Right, right), convention)?.0)
    }

    /// Median and maximum over the positions of the distance of two tensors of either run.
    fn apart(
        &self,
        a: (End, usize),
        b: (End, usize),
        convention: Option<&Convention>,
    ) -> Result<(f64, f64), StoreError> {
        let both = common(&self.cover(a.0, a.1), &self.cover(b.0, b.1));
        // From the end: at the first positions there is least to tell.
        let step = both.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<usize> = both.iter().rev().step_by(step).copied().collect();
        let rest = both.iter().filter(|at| !sample.contains(at)).copied();
        let mut all = Vec::with_capacity(both.len());
        for (i, at) in sample.iter().copied().chain(rest).enumerate() {
            if i == sample.len() && median(&mut all) > HOPELESS {
                break;
            }
            let x = self.of(a.0).values(a.1, at, None)?;
            let y = self.of(b.0).values(b.1, at, convention)?;
            all.push(relative(&x, &y));
        }
        let most = all.iter().copied().fold(0.0, f64::max);
        Ok((median(&mut all), most))
    }

    /// Of each tensor of a run, those of the same run that are nearest: their median distance and their largest.
    ///
    /// # Errors
    /// [`StoreError`] where a record cannot be read.
    pub fn neighbours(&self, end: End) -> Result<Vec<Vec<Neighbour>>, StoreError> {
        let n = self.of(end).all.len();
        self.parallel(n, &|i| {
            let others = (0..n).filter(|&j| j != i);
            let unlike = others.map(|j| (self.unlike_in((end, i), (end, j)), j));
            let near = nearest(unlike.filter(|(d, _)| d.is_finite()).collect());
            near.map(|tensor| {
                let (median, most) = self.apart((end, i), (end, tensor), None)?;
                let same_cover = self.cover(end, i) == self.cover(end, tensor);
                Ok(Neighbour {
                    tensor,
                    median,
                    most,
                    same_cover,
                })
            })
            .collect()
        })
    }

    /// `f` of each number below `n`, by all threads, in order.
    ///
    /// # Errors
    /// The first one of `f`.
    pub fn parallel<T: Send>(
        &self,
        n: usize,
        f: &(dyn Fn(usize) -> Result<T, StoreError> + Sync),
    ) -> Result<Vec<T>, StoreError> {
        let total = self.total.fetch_add(n, Ordering::Relaxed) + n;
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            let mut mine = Vec::new();
            while !failed.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    break;
                }
                let made = f(i);
                failed.fetch_or(made.is_err(), Ordering::Relaxed);
                mine.push((i, made));
                (self.progress)(self.done.fetch_add(1, Ordering::Relaxed) + 1, total);
            }
            mine
        };
        let mut all = thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads.min(n)).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            for other in others {
                // A panic here is a panic there: the caller turns it into an error.
                all.extend(
                    other
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                );
            }
            all
        });
        all.sort_by_key(|&(i, _)| i);
        all.into_iter().map(|(_, made)| made).collect()
    }
}

/// A tensor of the same run.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour {
    /// The tensor.
    pub tensor: usize,
    /// Median distance over the positions.
    pub median: f64,
    /// The largest.
    pub most: f64,
    /// Whether both cover the same positions.
    pub same_cover: bool,
}

/// Sets of common positions: those that tensors cover, and those that two of them have in common.
#[derive(Default)]
struct Sets {
    all: Vec<Vec<usize>>,
    number: HashMap<Vec<usize>, usize>,
    common: HashMap<(usize, usize), usize>,
}

impl Sets {
    fn of(tensors: [&Tensors<'_>; 2]) -> Self {
        let mut covers: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        for tensor in tensors.into_iter().flat_map(|t| &t.all) {
            *covers.entry(covered(&tensor.counts)).or_default() += 1;
        }
        covers.remove(&Vec::new());
        let mut covers: Vec<_> = covers.into_iter().collect();
        covers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        covers.truncate(MOST_SETS);
        let mut sets = Self::default();
        for (cover, _) in &covers {
            sets.add(cover.clone());
        }
        for a in 0..covers.len() {
            for b in 0..covers.len() {
                let both = common(&covers[a].0, &covers[b].0);
                if !both.is_empty() {
                    let number = sets.add(both);
                    sets.common.insert((a, b), number);
                }
            }
        }
        sets
    }

    fn add(&mut self, set: Vec<usize>) -> usize {
        let all = &mut self.all;
        *self.number.entry(set).or_insert_with_key(|set| {
            all.push(set.clone());
            all.len() - 1
        })
    }

    fn find(&self, set: &[usize]) -> Option<usize> {
        self.number.get(set).copied()
    }

    fn common(&self, a: Option<usize>, b: Option<usize>) -> Option<usize> {
        self.common.get(&(a?, b?)).copied()
    }

    /// The sets that a tensor that covers `cover` may be compared over.
    fn within(&self, cover: Option<usize>) -> impl Iterator<Item = usize> + use<> {
        let of_cover = self.common.iter().filter(|((a, _), _)| Some(*a) == cover);
        let sets: BTreeSet<usize> = of_cover.map(|(_, set)| *set).collect();
        sets.into_iter()
    }
}

/// The positions at which there are elements.
fn covered(counts: &[usize]) -> Vec<usize> {
    let counts = counts.iter().enumerate();
    counts.filter(|(_, n)| **n > 0).map(|(i, _)| i).collect()
}

/// The few nearest of these.
pub fn nearest(mut all: Vec<(f64, usize)>) -> impl Iterator<Item = usize> {
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all.into_iter().take(SHORTLIST).map(|(_, which)| which)
}

/// Positions of both sorted lists.
fn common(a: &[usize], b: &[usize]) -> Vec<usize> {
    a.iter()
        .filter(|at| b.binary_search(at).is_ok())
        .copied()
        .collect()
}

/// The median, the lower one of two; infinite of nothing.
pub fn median(all: &mut [f64]) -> f64 {
    if all.is_empty() {
        return f64::INFINITY;
    }
    let middle = (all.len() - 1) / 2;
    *all.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// `|b - a| / max(|a|, |b|)`: 0 where both are zero, infinite where lengths differ.
pub fn relative(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let (mut dd, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x), f64::from(y));
        dd += (y - x) * (y - x);
        aa += x * x;
        bb += y * y;
    }
    if dd == 0.0 {
        0.0
    } else {
        (dd / f64::max(aa, bb)).sqrt()
    }
}
