//! Which tensor of one run is which of the other, by their values.

use super::{
    classes::Class,
    layouts,
    measure::{Ends, nearest},
};
use crate::mapping::Convention;
use bitnet_trace_store::StoreError;
use std::collections::{BTreeMap, BTreeSet};

/// Largest distance of a pair.
pub const FARTHEST: f64 = 0.3;
/// Largest ratio of a pair's distance to that of the next best candidate.
pub const CLEAR: f64 = 0.6;

/// A class of the left run and one of the right run that are the same tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The left class.
    pub left: usize,
    /// The right class.
    pub right: usize,
    /// The distance between them.
    pub distance: f64,
    /// The distance of the next best candidate, infinite without one.
    pub next: f64,
    /// How the right tensor must be read.
    pub convention: Option<Convention>,
}

/// Why a class has no partner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alone {
    /// Nothing in the other run is near.
    Far,
    /// Two candidates are about as near as each other.
    Unclear {
        /// The class in question.
        best: usize,
        /// Its distance.
        distance: f64,
        /// That of the next best.
        next: f64,
    },
    /// The nearest one belongs to another.
    Taken {
        /// The class in question.
        best: usize,
    },
    /// Too few or too uniform values.
    TellsNothing,
}

/// What was found of the classes of two runs.
#[derive(Debug, Default)]
pub struct Found {
    /// The pairs, by left class.
    pub pairs: Vec<Pair>,
    /// The left classes without a partner.
    pub left: BTreeMap<usize, Alone>,
    /// The right classes without a partner.
    pub right: BTreeMap<usize, Alone>,
}

/// The candidates of a round: pairs of classes, their distance, and how the right one is read.
type Candidates = BTreeMap<(usize, usize), (f64, Option<Convention>)>;

/// Pairs classes: as they lie, then in known orders of their elements, then by a permutation of columns.
///
/// # Errors
/// [`StoreError`] where a record cannot be read.
pub fn pair(ends: &Ends<'_>, left: &[Class], right: &[Class]) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let tells = |classes: &[Class]| -> BTreeSet<usize> {
        let all = classes.iter().enumerate();
        all.filter(|(_, c)| c.tells).map(|(i, _)| i).collect()
    };
    let (mut l, mut r) = (tells(left), tells(right));
    let neighbour = |classes: &[Class]| classes.iter().map(|c| c.nearest).collect();
    let own = [neighbour(left), neighbour(right)];
    for round in [Round::AsTheyLie, Round::KnownLayouts, Round::Permuted] {
        let list = shortlist(ends, left, right, &l, &r, round);
        let measured = ends.parallel(list.len(), &|i| {
            let (a, b) = list[i];
            round.measure(ends, &left[a], &right[b])
        })?;
        let candidates: Candidates = list
            .iter()
            .copied()
            .zip(measured)
            .filter(|(_, (d, _))| d.is_finite())
            .collect();
        // In a later round what lies alike is a rival only: it was judged among all.
        let pairs = accepted(&candidates, &own).into_iter();
        for pair in pairs.filter(|p| round == Round::AsTheyLie || p.convention.is_some()) {
            l.remove(&pair.left);
            r.remove(&pair.right);
            found.pairs.push(pair);
        }
        found.left.extend(alone(&candidates, &l, |k| k));
        found.right.extend(alone(&candidates, &r, |(a, b)| (b, a)));
    }
    found.pairs.sort_by_key(|p| p.left);
    for (all, classes, open) in [(&mut found.left, left, &l), (&mut found.right, right, &r)] {
        all.retain(|class, _| open.contains(class));
        for (class, _) in classes.iter().enumerate().filter(|(_, c)| !c.tells) {
            all.insert(class, Alone::TellsNothing);
        }
        open.iter().for_each(|&class| {
            all.entry(class).or_insert(Alone::Far);
        });
    }
    Ok(found)
}

/// What is tried of a pair of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    AsTheyLie,
    KnownLayouts,
    Permuted,
}

impl Round {
    fn measure(
        self,
        ends: &Ends<'_>,
        left: &Class,
        right: &Class,
    ) -> Result<(f64, Option<Convention>), StoreError> {
        match self {
            Self::AsTheyLie => Ok((ends.distance(left.first(), right.first(), None)?, None)),
            Self::KnownLayouts => layouts::best(ends, left.first(), right.first()),
            Self::Permuted => layouts::permutation(ends, left.first(), right.first()),
        }
    }
}

/// For each open class of either run, the few of the other run whose descriptions are nearest.
fn shortlist(
    ends: &Ends<'_>,
    left: &[Class],
    right: &[Class],
    l: &BTreeSet<usize>,
    r: &BTreeSet<usize>,
    round: Round,
) -> Vec<(usize, usize)> {
    let mut list = BTreeSet::new();
    let mut of_right: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
    for &a in l {
        let mut of_left = Vec::new();
        for &b in r {
            let d = ends.unlike(left[a].first(), right[b].first());
            // A permutation keeps the quantiles, up to noise.
            if d.is_finite() && (round != Round::Permuted || d < FARTHEST) {
                of_left.push((d, b));
                of_right.entry(b).or_default().push((d, a));
            }
        }
        list.extend(nearest(of_left).map(|b| (a, b)));
    }
    for (b, all) in of_right {
        list.extend(nearest(all).map(|a| (a, b)));
    }
    list.into_iter().collect()
}

/// The best and the next best distance of each class, and the best candidate.
fn best(
    candidates: &Candidates,
    turned: impl Fn((usize, usize)) -> (usize, usize),
) -> BTreeMap<usize, (f64, usize, f64)> {
    let mut best: BTreeMap<usize, (f64, usize, f64)> = BTreeMap::new();
    for (&key, &(d, _)) in candidates {
        let (one, other) = turned(key);
        let entry = best.entry(one).or_insert((f64::INFINITY, other, f64::INFINITY));
        *entry = match *entry {
            (first, _, _) if d < first => (d, other, first),
            (first, b, next) => (first, b, next.min(d)),
        };
    }
    best
}

/// Mutual best pairs that are near, with whatever comes next well behind: other candidates of either one, and
/// each one's nearest neighbour in its own run, since the true partner may be missing.
fn accepted(candidates: &Candidates, own: &[Vec<f64>; 2]) -> Vec<Pair> {
    let of_left = best(candidates, |k| k);
    let of_right = best(candidates, |(a, b)| (b, a));
    let mut pairs = Vec::new();
    for (&left, &(distance, right, next_left)) in &of_left {
        let Some(&(_, _, next_right)) = of_right.get(&right).filter(|r| r.1 == left) else {
            continue;
        };
        let next = next_left.min(next_right).min(own[0][left]).min(own[1][right]);
        if distance < FARTHEST && distance <= CLEAR * next {
            let convention = candidates[&(left, right)].1.clone();
            pairs.push(Pair {
                left,
                right,
                distance,
                next,
                convention,
            });
        }
    }
    pairs
}

/// Why those that are still open were not paired in this round; none for those that nothing is near to.
fn alone(
    candidates: &Candidates,
    open: &BTreeSet<usize>,
    turned: impl Fn((usize, usize)) -> (usize, usize) + Copy,
) -> BTreeMap<usize, Alone> {
    let of_one = best(candidates, turned);
    let of_other = best(candidates, |k| {
        let (a, b) = turned(k);
        (b, a)
    });
    let near = of_one
        .into_iter()
        .filter(|(one, (d, _, _))| open.contains(one) && *d < FARTHEST);
    near.map(|(one, (distance, best, next))| {
        let mutual = of_other.get(&best).is_some_and(|other| other.1 == one);
        let why = if mutual {
            Alone::Unclear { best, distance, next }
        } else {
            Alone::Taken { best }
        };
        (one, why)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(candidates: &[(usize, usize, f64)], own: [f64; 2]) -> Vec<(usize, usize)> {
        let candidates: Candidates = candidates.iter().map(|&(a, b, d)| ((a, b), (d, None))).collect();
        let own = [vec![own[0]; 9], vec![own[1]; 9]];
        accepted(&candidates, &own)
            .iter()
            .map(|p| (p.left, p.right))
            .collect()
    }

    const NONE: [f64; 2] = [f64::INFINITY; 2];

    #[test]
    fn a_pair_is_mutual_near_and_clear() {
        assert_eq!(
            pairs(&[(0, 0, 0.1), (0, 1, 0.2), (1, 1, 0.05)], NONE),
            [(0, 0), (1, 1)]
        );
        assert_eq!(pairs(&[(0, 0, 0.31)], NONE), []);
        assert_eq!(pairs(&[(0, 0, 0.1), (0, 1, 0.15)], NONE), []);
        assert_eq!(pairs(&[(0, 0, 0.1), (1, 0, 0.15)], NONE), []);
        // 1 is nearest to what is 0's.
        assert_eq!(pairs(&[(0, 0, 0.0), (1, 0, 0.1), (1, 1, 0.2)], NONE), [(0, 0)]);
    }

    #[test]
    fn a_neighbour_in_its_own_run_that_is_as_near_speaks_against_a_pair() {
        assert_eq!(pairs(&[(0, 0, 0.1)], [0.12, 1.0]), []);
        assert_eq!(pairs(&[(0, 0, 0.1)], [1.0, 0.12]), []);
        assert_eq!(pairs(&[(0, 0, 0.1)], [0.2, 0.2]), [(0, 0)]);
    }
}
