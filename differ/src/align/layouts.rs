//! Known orders of elements, and unknown permutations of columns.

use super::measure::{End, Ends, median, relative};
use crate::mapping::Convention;
use bitnet_trace_store::StoreError;

/// Usual sizes of a head, tried beside those that shapes tell.
const HEAD_SIZES: [usize; 12] = [16, 32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256];
/// Most elements that may be one head of an unusual size.
const LARGEST_HEAD: usize = 256;

/// Fewest positions that can tell columns apart.
const FEWEST_POSITIONS: usize = 8;
/// Most columns that are held against each other.
const MOST_COLUMNS: usize = 4096;
/// Columns that are tried before all are.
const SAMPLE: usize = 48;
/// Largest median distance of sampled columns to their nearest, beyond which the others are not tried.
const HOPELESS: f64 = 0.4;
/// Least part of the columns that must be each other's nearest.
const MUTUAL: f64 = 0.9;

/// The known order in which the right tensor is nearest to the left one, and its distance; as they lie, where that is
/// nearest.
///
/// # Errors
/// [`StoreError`] where a record cannot be read.
pub fn best(ends: &Ends<'_>, left: usize, right: usize) -> Result<(f64, Option<Convention>), StoreError> {
    let mut found = (ends.distance(left, right, None)?, None);
    let Some(columns) = columns(ends, left, right) else {
        return Ok(found);
    };
    let batched = ends.right.is_batched(right);
    for heads in heads(ends, left, right, columns) {
        let mut all = vec![
            Convention::RopeInterleaved { heads },
            Convention::RopeHalves { heads },
            Convention::Transposed { heads },
        ];
        if batched {
            all.push(Convention::HeadMajor { heads });
        }
        for convention in all.into_iter().filter(|c| c.fits(columns)) {
            let distance = ends.distance(left, right, Some(&convention))?;
            if distance < found.0 {
                found = (distance, Some(convention));
            }
        }
    }
    Ok(found)
}

/// Elements of a position, where all have as many.
fn columns(ends: &Ends<'_>, left: usize, right: usize) -> Option<usize> {
    let (x, y) = (&ends.left.all[left].counts, &ends.right.all[right].counts);
    let mut all = x.iter().zip(y).filter(|(x, y)| **x > 0 && **y > 0);
    let (&first, _) = all.next()?;
    all.all(|(x, y)| (*x, *y) == (first, first)).then_some(first)
}

/// Numbers of heads to try: those that a shape of either run tells, and those of usual sizes.
fn heads(ends: &Ends<'_>, left: usize, right: usize, columns: usize) -> Vec<usize> {
    let told = [ends.left.all[left].heads, ends.right.all[right].heads];
    let usual = HEAD_SIZES.into_iter().filter(|&d| columns.is_multiple_of(d));
    let one = (columns <= LARGEST_HEAD).then_some(1);
    let mut all: Vec<usize> = told
        .into_iter()
        .flatten()
        .chain(usual.map(|d| columns / d))
        .chain(one)
        .collect();
    all.retain(|&h| h > 0 && columns.is_multiple_of(h));
    all.sort_unstable();
    all.dedup();
    all
}

/// The permutation of columns under which the right tensor is nearest to the left one: columns that are each
/// other's nearest over all positions, and the few that are left, by distance. Infinite where they are too many.
///
/// # Errors
/// [`StoreError`] where a record cannot be read.
pub fn permutation(
    ends: &Ends<'_>,
    left: usize,
    right: usize,
) -> Result<(f64, Option<Convention>), StoreError> {
    let far = (f64::INFINITY, None);
    let (a, b) = (ends.cover(End::Left, left), ends.cover(End::Right, right));
    let both: Vec<usize> = a.into_iter().filter(|at| b.contains(at)).collect();
    let Some(columns) = columns(ends, left, right).filter(|&c| c <= MOST_COLUMNS) else {
        return Ok(far);
    };
    if both.len() < FEWEST_POSITIONS {
        return Ok(far);
    }
    let read = |end: End, tensor| {
        let of = ends.of(end);
        both.iter()
            .map(|&at| of.values(tensor, at, None))
            .collect::<Result<Vec<_>, _>>()
    };
    let (x, y) = (read(End::Left, left)?, read(End::Right, right)?);
    let Some(order) = order(&x, &y, columns) else {
        return Ok(far);
    };
    let mut all: Vec<f64> = x
        .iter()
        .zip(&y)
        .map(|(x, y)| relative(x, &order.apply(y)))
        .collect();
    Ok((median(&mut all), Some(order)))
}

fn order(x: &[Vec<f32>], y: &[Vec<f32>], columns: usize) -> Option<Convention> {
    let (x, y) = (turned(x, columns), turned(y, columns));
    let tokens = x.len() / columns;
    let column = |all: &[f32], i: usize| -> Vec<f32> { all[i * tokens..][..tokens].to_vec() };
    let sample = (0..columns).step_by(columns.div_ceil(SAMPLE).max(1));
    let mut sampled: Vec<f64> = sample.map(|i| nearest(&column(&x, i), &y).1).collect();
    if median(&mut sampled) > HOPELESS {
        return None;
    }
    let there: Vec<usize> = (0..columns).map(|i| nearest(&column(&x, i), &y).0).collect();
    let back: Vec<usize> = (0..columns).map(|i| nearest(&column(&y, i), &x).0).collect();
    let mutual = |i: usize| back[there[i]] == i;
    let count = (0..columns).filter(|&i| mutual(i)).count();
    if (count as f64) < MUTUAL * columns as f64 {
        return None;
    }
    let mut order: Vec<Option<usize>> = (0..columns).map(|i| mutual(i).then_some(there[i])).collect();
    let mut free = vec![true; columns];
    order.iter().flatten().for_each(|&at| free[at] = false);
    for (i, place) in order.iter_mut().enumerate().filter(|(_, p)| p.is_none()) {
        let one = column(&x, i);
        let left = (0..columns).filter(|&at| free[at]);
        let at = left.min_by(|&a, &b| {
            let d = |at| square(&one, &y[at * tokens..][..tokens]);
            d(a).total_cmp(&d(b))
        })?;
        free[at] = false;
        *place = Some(at);
    }
    let order: Vec<u32> = order.into_iter().flatten().map(|at| at as u32).collect();
    Some(Convention::Permuted { order: order.into() })
}

/// The columns one after the other, each position in units of its own rms: a token with outliers would decide alone.
fn turned(rows: &[Vec<f32>], columns: usize) -> Vec<f32> {
    let mut all = vec![0.0; rows.len() * columns];
    for (t, row) in rows.iter().enumerate() {
        let square: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let rms = (square / columns as f64).sqrt();
        for (i, &v) in row.iter().enumerate().take(columns) {
            all[i * rows.len() + t] = if rms > 0.0 {
                (f64::from(v) / rms) as f32
            } else {
                0.0
            };
        }
    }
    all
}

/// The column of `all` that is nearest to `one`, and the distance relative to it.
fn nearest(one: &[f32], all: &[f32]) -> (usize, f64) {
    let squares = all
        .chunks_exact(one.len())
        .map(|other| square(one, other))
        .enumerate();
    let (at, d) = squares.fold(
        (0, f32::INFINITY),
        |best, (i, d)| if d < best.1 { (i, d) } else { best },
    );
    let size: f32 = one.iter().map(|v| v * v).sum();
    (at, f64::from(d / size.max(f32::MIN_POSITIVE)).sqrt())
}

fn square(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}
