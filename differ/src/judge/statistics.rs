//! Verdicts without values: what hashes and statistics can tell.

use super::{Outcome, Reason, Verdict};
use crate::{
    records::Elements,
    shape::Layout,
    tolerance::{Broken, Gates},
};
use bitnet_trace_schema::DType;
use bitnet_trace_store::Meta;

/// What hashes and statistics alone can tell: that a gate must be broken, never that it holds.
pub(super) fn by_statistics(left: Meta<'_>, right: Meta<'_>, gates: &Gates, has: (bool, bool)) -> Outcome {
    if let Some(reason) = odd_counts(left, right) {
        return Outcome::diverged(reason, None);
    }
    let hashes = left.hash().is_some() && right.hash().is_some();
    if gates.exact && left.dtype == right.dtype && hashes {
        return Outcome::diverged(Reason::Hash, None);
    }
    if let Some(reason) = bound(left, right, gates) {
        return Outcome::diverged(reason, None);
    }
    no_values(left, right, has)
}

/// A pair of which one side is a hash and an rms. Other bytes are a divergence here, since nothing can show
/// that they are within a tolerance.
pub(super) fn by_hash(
    shapes: Layout,
    left: (Meta<'_>, &Elements),
    right: (Meta<'_>, &Elements),
    gates: &Gates,
) -> Outcome {
    let ((a, x), (b, y)) = (left, right);
    let hashes = hash_as(a, x, b.dtype).zip(hash_as(b, y, a.dtype));
    if shapes == Layout::Same && hashes.as_ref().is_some_and(|(a, b)| a == b) {
        return Outcome::plain(Verdict::Identical);
    }
    if counts_are_known(a)
        && counts_are_known(b)
        && let Some(reason) = odd_counts(a, b)
    {
        return Outcome::diverged(reason, None);
    }
    if let Some(reason) = bound(a, b, gates) {
        return Outcome::diverged(reason, None);
    }
    match hashes {
        Some(_) if shapes == Layout::Same => {
            let rms = rms(a, b);
            Outcome::diverged(Reason::HashAndRms { rms }, None)
        }
        _ => no_values(a, b, (x.values().is_some(), y.values().is_some())),
    }
}

/// The record's hash, if it is of elements of `dtype`, or can be made of elements that were widened to it.
fn hash_as(meta: Meta<'_>, elements: &Elements, dtype: DType) -> Option<[u8; 32]> {
    match elements.values() {
        _ if meta.dtype == dtype => meta.hash(),
        Some(values) if dtype == DType::F32 => {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            Some(*blake3::hash(&bytes).as_bytes())
        }
        // The other side's elements may be the ones to widen: then this hash is of F32 already.
        _ => meta.hash().filter(|_| meta.dtype == DType::F32),
    }
}

/// Whether `nan_count` and `inf_count` were told: a record without moments has no finite element, or is one
/// whose file told its rms alone.
fn counts_are_known(meta: Meta<'_>) -> bool {
    let odd = meta.stats().nan_count.saturating_add(meta.stats().inf_count);
    meta.stats().mean.is_some() || odd == meta.num_elements.unsigned_abs()
}

fn odd_counts(left: Meta<'_>, right: Meta<'_>) -> Option<Reason> {
    let odd = |m: Meta<'_>| (m.stats().nan_count, m.stats().inf_count);
    let (left, right) = (odd(left), odd(right));
    (left != right).then_some(Reason::OddCounts { left, right })
}

/// The gate that the statistics show to be broken.
///
/// They are lower bounds, as the triangle inequality has them: | |a| - |b| | <= |b - a|. Only where all
/// elements are finite: otherwise the moments may be over other elements. Rows of different length keep the
/// norm, not the mean square.
fn bound(left: Meta<'_>, right: Meta<'_>, gates: &Gates) -> Option<Reason> {
    let finite = |m: Meta<'_>| m.stats().nan_count == 0 && m.stats().inf_count == 0;
    if !finite(left) || !finite(right) || left.num_elements != right.num_elements {
        return None;
    }
    let abs_max = left.stats().abs_max.zip(right.stats().abs_max);
    let bounds = [
        ("rel_l2", rms(left, right), gates.rel_l2),
        ("max_abs", abs_max.map(|(a, b)| (a - b).abs()), gates.max_abs),
    ];
    bounds.into_iter().find_map(|(gate, value, limit)| {
        let (value, limit) = (value?, limit?);
        (value > limit * (1.0 + 1e-9) + 1e-12).then_some(Reason::Bound(Broken { gate, value, limit }))
    })
}

fn no_values(left: Meta<'_>, right: Meta<'_>, has: (bool, bool)) -> Outcome {
    Outcome::incomparable(Reason::NoValues {
        left: has.0,
        right: has.1,
        rms: rms(left, right),
    })
}

/// Relative difference of the rms, where both have one.
fn rms(left: Meta<'_>, right: Meta<'_>) -> Option<f64> {
    left.stats()
        .rms
        .zip(right.stats().rms)
        .map(|(a, b)| relative(a, b))
}

fn relative(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (b - a).abs() / a.abs() }
}
