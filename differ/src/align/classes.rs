//! Tensors of one run that hold the same values: a projection and the cache that keeps it, a residual that is
//! recorded twice.

use super::measure::{End, Ends};
use bitnet_trace_store::StoreError;

/// Largest distance, at every position, of tensors that count as the same: above the rounding to half precision
/// (2⁻¹¹ at most) that a cache does, below what any stage of a model changes.
const SAME: f64 = 1e-3;

/// Tensors of one run with the same values.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// The tensors, in order of execution; at least one.
    pub members: Vec<usize>,
    /// Distance of the nearest tensor of the run that is not in the class.
    pub nearest: f64,
    /// Whether there is enough in it to know it by.
    pub tells: bool,
}

impl Class {
    /// The tensor that stands for the class.
    pub fn first(&self) -> usize {
        self.members[0]
    }
}

/// The classes of a run, in order of execution.
///
/// # Errors
/// [`StoreError`] where a record cannot be read.
pub fn classes(ends: &Ends<'_>, end: End) -> Result<Vec<Class>, StoreError> {
    let neighbours = ends.neighbours(end)?;
    let mut class: Vec<usize> = (0..neighbours.len()).collect();
    for (tensor, near) in neighbours.iter().enumerate() {
        for other in near.iter().filter(|n| n.same_cover && n.most <= SAME) {
            let (a, b) = (root(&class, tensor), root(&class, other.tensor));
            class[a.max(b)] = a.min(b);
        }
    }
    let mut all: Vec<Class> = Vec::new();
    let mut place = vec![usize::MAX; class.len()];
    for (tensor, near) in neighbours.iter().enumerate() {
        let root = root(&class, tensor);
        if place[root] == usize::MAX {
            place[root] = all.len();
            all.push(Class {
                members: Vec::new(),
                nearest: f64::INFINITY,
                tells: ends.tells(end, root),
            });
        }
        let of = &mut all[place[root]];
        of.members.push(tensor);
        let others = near.iter().filter(|n| self::root(&class, n.tensor) != root);
        of.nearest = others.map(|n| n.median).fold(of.nearest, f64::min);
    }
    Ok(all)
}

fn root(class: &[usize], mut at: usize) -> usize {
    while class[at] != at {
        at = class[at];
    }
    at
}
