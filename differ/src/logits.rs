//! Distances between two rows of logits.

/// How two rows of logits compare as distributions over the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitDistance {
    /// Kullback-Leibler divergence of softmax(left) to softmax(right), in nats; infinite where the right
    /// side gives no probability to what the left side gives some. None where a row holds NaN or +inf, or
    /// nothing but -inf.
    pub kl: Option<f64>,
    /// The same of softmax(right) to softmax(left).
    pub kl_reverse: Option<f64>,
    /// How much the largest left logit is above the next one; none of fewer than two, or where either is not finite.
    pub top2_gap: Option<f64>,
    /// Index of the largest left logit (the lowest of equal ones); none where all are NaN.
    pub top1_left: Option<u64>,
    /// Index of the largest right logit.
    pub top1_right: Option<u64>,
    /// Share of the k largest that both sides have among theirs, from 0 to 1.
    pub top_k_overlap: Option<f64>,
}

/// Compares two rows of the same length, with `k` for the overlap.
///
/// ```
/// use bitnet_diff::logits::distance;
/// let d = distance(&[0.0, 1.0, 2.0], &[0.0, 1.0, 2.0], 2);
/// assert_eq!((d.kl, d.top1_left, d.top_k_overlap), (Some(0.0), Some(2), Some(1.0)));
/// ```
pub fn distance(left: &[f32], right: &[f32], k: usize) -> LogitDistance {
    let (top_left, top_right) = (top(left, k.max(1)), top(right, k.max(1)));
    let [first, second] = [0, 1].map(|n| top(left, 2).get(n).map(|&i| f64::from(left[i as usize])));
    let gap = first.zip(second).map(|(first, second)| first - second);
    let common = top_left.iter().filter(|i| top_right.contains(i)).count();
    let most = top_left.len().max(top_right.len());
    LogitDistance {
        kl: kl(left, right),
        kl_reverse: kl(right, left),
        top2_gap: gap.filter(|gap| gap.is_finite()),
        top1_left: top_left.first().copied(),
        top1_right: top_right.first().copied(),
        top_k_overlap: (most > 0).then(|| common as f64 / most as f64),
    }
}

/// Indices of the `k` largest, largest first; NaN is none of them.
fn top(row: &[f32], k: usize) -> Vec<u64> {
    let mut best: Vec<(f32, u64)> = Vec::with_capacity(k.min(row.len()) + 1);
    for (i, &x) in row.iter().enumerate() {
        if x.is_nan() || (best.len() == k && best.last().is_some_and(|&(least, _)| x <= least)) {
            continue;
        }
        let at = best.partition_point(|&(y, _)| y >= x);
        best.insert(at, (x, i as u64));
        best.truncate(k);
    }
    best.into_iter().map(|(_, i)| i).collect()
}

/// log(sum(exp(row))), shifted by the largest so that nothing overflows.
fn log_sum_exp(row: &[f32]) -> Option<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if row.iter().any(|x| x.is_nan()) || !largest.is_finite() {
        return None;
    }
    let largest = f64::from(largest);
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    Some(largest + sum.ln())
}

fn kl(left: &[f32], right: &[f32]) -> Option<f64> {
    let (p, q) = (log_sum_exp(left)?, log_sum_exp(right)?);
    if left.len() != right.len() {
        return None;
    }
    let terms = left.iter().zip(right).map(|(&x, &y)| {
        let log_p = f64::from(x) - p;
        // 0 log 0 is 0.
        if x == f32::NEG_INFINITY {
            0.0
        } else {
            log_p.exp() * (log_p - (f64::from(y) - q))
        }
    });
    // Rounding may leave a hair below zero.
    Some(terms.sum::<f64>().max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;

    #[test]
    fn kl_agrees_with_the_textbook() {
        let (a, b) = ([0.5f32, 1.5, -2.0, 3.0], [0.4f32, 1.9, -1.0, 2.0]);
        let softmax = |v: [f32; 4]| {
            let e = v.map(|x| f64::from(x).exp());
            e.map(|x| x / e.iter().sum::<f64>())
        };
        let (p, q) = (softmax(a), softmax(b));
        let textbook: f64 = (0..4).map(|i| p[i] * (p[i] / q[i]).ln()).sum();
        let kl = distance(&a, &b, 2).kl.expect("finite");
        assert!((kl - textbook).abs() < 1e-12, "{kl} {textbook}");
        let both = distance(&a, &b, 2);
        assert_eq!(both.kl_reverse, distance(&b, &a, 2).kl);
        assert_eq!(
            (both.top2_gap, distance(&[1.0], &[1.0], 1).top2_gap),
            (Some(1.5), None)
        );
    }

    #[test]
    fn large_logits_do_not_overflow_and_a_shift_changes_nothing() {
        let d = distance(&[1e30, 1e30], &[-1e30, -1e30], 1);
        assert_eq!(d.kl, Some(0.0));
        let a: Vec<f32> = (0..100).map(|i| (i as f32).cos() * 8.0).collect();
        let b: Vec<f32> = a.iter().map(|x| x + 64.0).collect();
        assert!(distance(&a, &b, 5).kl.expect("finite") < 1e-6);
    }

    #[test]
    fn impossible_tokens_and_nan_have_their_own_answers() {
        assert_eq!(distance(&[0.0, -INF], &[0.0, -INF], 1).kl, Some(0.0));
        assert_eq!(distance(&[0.0, 0.0], &[0.0, -INF], 1).kl, Some(f64::INFINITY));
        for bad in [[f32::NAN, 0.0], [INF, 0.0], [-INF, -INF]] {
            assert_eq!(distance(&bad, &[0.0, 0.0], 1).kl, None);
        }
        assert_eq!(distance(&[f32::NAN; 2], &[0.0; 2], 1).top1_left, None);
        assert_eq!(distance(&[], &[], 3).top_k_overlap, None);
    }

    #[test]
    fn top_k_keeps_the_largest_and_the_lowest_of_equal_ones() {
        assert_eq!(top(&[1.0, 3.0, 2.0, 3.0, f32::NAN], 3), [1, 3, 2]);
        let d = distance(&[5.0, 4.0, 3.0, 0.0], &[5.0, 4.0, 0.0, 3.0], 3);
        assert_eq!((d.top1_left, d.top1_right), (Some(0), Some(0)));
        assert!((d.top_k_overlap.expect("some") - 2.0 / 3.0).abs() < 1e-12);
    }
}
