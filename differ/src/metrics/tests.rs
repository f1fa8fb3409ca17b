use super::{pass::groups, *};
use proptest::prelude::*;

/// The textbook formulas, element by element.
fn naive(a: &[f32], b: &[f32]) -> (f64, f64, f64) {
    let pairs: Vec<(f64, f64)> = a.iter().zip(b).map(|(&x, &y)| (x.into(), y.into())).collect();
    let sum = |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(x, y)| f(x, y)).sum::<f64>();
    let max = |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(x, y)| f(x, y)).fold(0.0, f64::max);
    let (aa, bb, dot) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    let dd = sum(&|x, y| (y - x) * (y - x));
    let rel = max(&|x, y| {
        if x == y {
            0.0
        } else {
            (y - x).abs() / x.abs().max(y.abs())
        }
    });
    (
        if dd == 0.0 { 0.0 } else { (dd / aa).sqrt() },
        dot / (aa * bb).sqrt(),
        rel,
    )
}

fn close(x: f64, y: f64) -> bool {
    x == y || (x - y).abs() <= 1e-12 * x.abs().max(y.abs()).max(1e-3)
}

proptest! {
    #[test]
    fn one_pass_agrees_with_the_textbook(
        pairs in proptest::collection::vec((-1e6f32..1e6, -1e6f32..1e6, any::<bool>()), 1..3000)
    ) {
        let a: Vec<f32> = pairs.iter().map(|p| p.0).collect();
        let b: Vec<f32> = pairs.iter().map(|p| if p.2 { p.1 } else { p.0 }).collect();
        let m = measure(&a, &b).expect("same length");
        let (rel_l2, cosine, max_rel) = naive(&a, &b);
        prop_assert!(close(m.rel_l2, rel_l2), "{} {}", m.rel_l2, rel_l2);
        prop_assert!(close(m.cosine, cosine), "{} {}", m.cosine, cosine);
        // Two roundings to f32.
        prop_assert!((m.max_rel - max_rel).abs() <= 1.2e-7 * max_rel, "{} {}", m.max_rel, max_rel);
        let apart: Vec<f64> = a.iter().zip(&b).map(|(x, y)| (y - x).abs().into()).collect();
        prop_assert_eq!(m.max_abs, apart.iter().copied().fold(0.0, f64::max));
        let first = apart.iter().position(|&d| d > 0.0 && d == m.max_abs);
        prop_assert_eq!(m.max_abs_at, first.map(|i| i as u64));
        prop_assert_eq!(m.equal, a == b);
        let d = Distance::between(&a, &b).expect("same length");
        prop_assert!(close(d.rel_l2, rel_l2) && close(d.cosine, cosine), "{d:?}");
        prop_assert_eq!((d.max_abs, d.has_nan), (m.max_abs, false));
    }

    #[test]
    fn any_bits_are_counted_and_never_panic(
        a in proptest::collection::vec(proptest::num::f32::ANY, 0..2100), shift in 0usize..3
    ) {
        let mut b = a.clone();
        let n = b.len().max(1);
        b.rotate_left(shift % n);
        let m = measure(&a, &b).expect("same length");
        let nan = a.iter().filter(|x| x.is_nan()).count() as u64;
        prop_assert_eq!((m.nan_left, m.nan_right), (nan, nan));
        let both = |f: fn(f32) -> bool, x: f32, y: f32| f(x) && f(y);
        let odd = |x: f32, y: f32| x != y && !both(f32::is_finite, x, y) && !both(f32::is_nan, x, y);
        let odd: Vec<usize> = (0..a.len()).filter(|&i| odd(a[i], b[i])).collect();
        prop_assert_eq!(m.nonfinite_mismatches, odd.len() as u64);
        prop_assert_eq!(m.nonfinite_at, odd.first().map(|&i| i as u64));
        prop_assert_eq!(m.cosine.abs() <= 1.0 && m.rel_l2 >= 0.0, odd.is_empty());
        let finite = a.iter().zip(&b).all(|(x, y)| (y - x).is_finite());
        prop_assert_eq!(Distance::between(&a, &b).is_some(), finite);
    }
}

#[test]
fn a_wrong_scale_has_cosine_one_and_a_large_relative_l2() {
    let a: Vec<f32> = (0..5000).map(|i| (i as f32).sin()).collect();
    let b: Vec<f32> = a.iter().map(|x| 10.0 * x).collect();
    let m = measure(&a, &b).expect("same length");
    assert!(m.cosine > 0.999_999_999 && (m.rel_l2 - 9.0).abs() < 1e-6, "{m:?}");
}

#[test]
fn zero_against_zero_is_equal_and_zero_against_something_is_infinitely_far() {
    let zero = measure(&[0f32; 9], &[-0.0f32; 9]).expect("same length");
    assert_eq!((zero.rel_l2, zero.cosine, zero.equal), (0.0, 1.0, true));
    let m = measure(&[0f32; 9], &[1f32; 9]).expect("same length");
    assert_eq!((m.rel_l2, m.cosine, m.max_rel), (f64::INFINITY, 0.0, 1.0));
}

#[test]
fn an_infinity_equals_only_the_same_infinity() {
    let (inf, neg) = (f32::INFINITY, f32::NEG_INFINITY);
    let m = measure(&[inf, inf, 1.0], &[inf, neg, 1.0]).expect("same length");
    assert_eq!(
        (m.nonfinite_mismatches, m.nonfinite_at, m.max_abs),
        (1, Some(1), 0.0)
    );
    assert!(!m.equal);
}

#[test]
fn differences_beyond_the_range_of_f32_are_measured() {
    let m = measure(&[f32::MAX, 1.0], &[f32::MIN, 3.0]).expect("same length");
    assert_eq!(
        (m.max_abs, m.max_abs_at, m.max_rel),
        (2.0 * f64::from(f32::MAX), Some(0), 2.0)
    );
    assert_eq!((m.nonfinite_mismatches, m.sign_agreement), (0, Some(0.5)));
}

#[test]
fn f64_beyond_the_range_of_squares_is_measured() {
    for unit in [1e300, 1e-300, 1.0] {
        let m = measure_f64(&[3.0 * unit, 4.0 * unit], &[3.0 * unit, 4.5 * unit], 2).expect("same length");
        assert!((m.rel_l2 - 0.1).abs() < 1e-12, "{m:?}");
        assert!((m.max_abs / unit - 0.5).abs() < 1e-12, "{m:?}");
    }
}

#[test]
fn lengths_that_differ_are_not_measured() {
    assert!(measure(&[1f32], &[1f32, 2.0]).is_none());
}

/// Any f32, values that an engine gives more often than others.
fn element() -> impl Strategy<Value = f32> {
    let odd = [
        0.0,
        -0.0,
        1e-45,
        -1e-40,
        f32::MAX,
        f32::MIN,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    prop_oneof![20 => -4f32..4.0, 2 => proptest::num::f32::ANY, 1 => proptest::sample::select(odd.to_vec())]
}

/// Numbers of f32 from `x` to `y`, by walking through zero.
fn ulps(x: f32, y: f32) -> u64 {
    let from_zero = |x: f32| u64::from(x.abs().to_bits());
    if (x < 0.0) == (y < 0.0) {
        from_zero(x).abs_diff(from_zero(y))
    } else {
        from_zero(x) + from_zero(y)
    }
}

fn signum(x: f32) -> i32 {
    i32::from(x > 0.0) - i32::from(x < 0.0)
}

proptest! {
    #[test]
    fn every_measure_agrees_with_a_plain_loop_over_the_finite_pairs(
        pairs in proptest::collection::vec((element(), element(), 0..4), 1..2600), row in 1usize..1400
    ) {
        let a: Vec<f32> = pairs.iter().map(|p| p.0).collect();
        let b: Vec<f32> = pairs.iter().map(|p| match p.2 {
            0 => p.1,
            1 => p.0 * 1.000_001,
            _ => p.0,
        }).collect();
        let m = measure_rows(&a, &b, row).expect("same length");
        let finite = |&i: &usize| a[i].is_finite() && b[i].is_finite();
        let at: Vec<usize> = (0..a.len()).filter(finite).collect();
        let wide = |i: usize| (f64::from(a[i]), f64::from(b[i]));
        let sum = |of: &dyn Fn(f64, f64) -> f64| at.iter().map(|&i| of(wide(i).0, wide(i).1)).sum::<f64>();
        let (aa, dd) = (sum(&|x, _| x * x), sum(&|x, y| (y - x) * (y - x)));
        prop_assert!(close(m.left_norm, aa.sqrt()), "{} {}", m.left_norm, aa.sqrt());
        prop_assert!(close(m.right_norm, sum(&|_, y| y * y).sqrt()));
        prop_assert!(close(m.diff_norm, dd.sqrt()), "{} {}", m.diff_norm, dd.sqrt());
        let magnitude = sum(&|x, y| (y - x).abs());
        prop_assert!((m.diff_sum - sum(&|x, y| y - x)).abs() <= 1e-12 * magnitude);
        if m.nonfinite_mismatches == 0 && aa > 0.0 {
            let error = m.scale.expect("a scale") - sum(&|x, y| x * y) / aa;
            prop_assert!(error.abs() <= 1e-12 * sum(&|x, y| (x * y).abs()) / aa);
            prop_assert!(close(m.nmse, dd / aa));
        }

        let distances: Vec<u64> = at.iter().map(|&i| ulps(a[i], b[i])).collect();
        prop_assert_eq!(m.max_ulp, distances.iter().copied().max().unwrap_or(0));
        let mut histogram = vec![0u64; 65];
        for d in &distances {
            histogram[(64 - d.leading_zeros()) as usize] += 1;
        }
        histogram.truncate(histogram.iter().rposition(|&n| n > 0).map_or(0, |i| i + 1));
        prop_assert_eq!(&m.ulp_histogram, &histogram);
        let agree = at.iter().filter(|&&i| signum(a[i]) == signum(b[i])).count() as f64;
        match m.sign_agreement {
            Some(found) => prop_assert!(close(found, agree / at.len() as f64)),
            None => prop_assert!(at.is_empty()),
        }

        let rows = a.len().div_ceil(row);
        prop_assert_eq!(m.rows, rows as u64);
        let of_row = |r: usize| {
            let (mut aa, mut dd) = (0.0, 0.0);
            for (x, y) in at.iter().filter(|&&i| i / row == r).map(|&i| wide(i)) {
                (aa, dd) = (aa + x * x, dd + (y - x) * (y - x));
            }
            if dd == 0.0 { 0.0 } else { (dd / aa).sqrt() }
        };
        let worst = (0..rows).map(of_row).fold(0.0, f64::max);
        prop_assert_eq!(m.worst_row.is_some(), rows > 1 && worst > 0.0);
        if let Some((at, found)) = m.worst_row.zip(m.worst_row_rel_l2) {
            prop_assert!(close(found, worst) && close(of_row(at as usize), worst), "{found} {worst}");
        }
    }

    #[test]
    fn a_scale_is_found_and_told_whatever_it_is(
        a in proptest::collection::vec(0.1f32..4.0, 2..300), scale in prop_oneof![-8f32..-0.1, 0.1f32..0.9, 1.1f32..80.0]
    ) {
        let b: Vec<f32> = a.iter().map(|x| x * scale).collect();
        let m = measure(&a, &b).expect("same length");
        let found = m.wrong_scale().expect("a scale");
        prop_assert!((found / f64::from(scale) - 1.0).abs() < 1e-6, "{found} {scale}");
        prop_assert!((m.rel_l2 - (f64::from(scale) - 1.0).abs()).abs() < 1e-5 * m.rel_l2.max(1.0));
    }
}

#[test]
fn nothing_but_a_scale_looks_like_one() {
    let a: Vec<f32> = (0..500).map(|i| (i as f32).sin()).collect();
    let told = |f: fn(f32) -> f32| {
        let b: Vec<f32> = a.iter().map(|&x| f(x)).collect();
        measure(&a, &b).expect("same length").wrong_scale()
    };
    assert_eq!(told(|x| x), None);
    assert_eq!(told(|x| x + 1e-3), None);
    assert_eq!(told(|x| if x > 0.999 { f32::NAN } else { 1.25 * x }), None);
    assert_eq!(told(|_| 0.0), None);
    assert!(told(|x| 1.25 * x).is_some());
}

#[test]
fn derived_measures_of_equal_and_of_empty_tensors_are_defined() {
    let m = measure(&[1f32, -2.0], &[1.0, -2.0]).expect("same length");
    assert_eq!(
        (m.nmse, m.snr_db, m.scale, m.diff_sum),
        (0.0, f64::INFINITY, Some(1.0), 0.0)
    );
    assert_eq!(
        (m.max_ulp, m.ulp_histogram, m.sign_agreement),
        (0, vec![2], Some(1.0))
    );
    let zero = measure(&[0f32; 3], &[-0.0; 3]).expect("same length");
    assert_eq!(
        (zero.scale, zero.max_ulp, zero.sign_agreement),
        (None, 0, Some(1.0))
    );
    let empty = measure::<f32>(&[], &[]).expect("same length");
    assert_eq!(
        (empty.elements, empty.ulp_histogram, empty.sign_agreement),
        (0, vec![], None)
    );
    let noise = measure(&[10f32], &[11.0]).expect("same length");
    assert!((noise.snr_db - 20.0).abs() < 1e-9, "{}", noise.snr_db);
}

#[test]
fn subnormals_are_told_apart_and_counted_through_zero() {
    let least = f32::from_bits(1);
    let m = measure(&[least, least, 0.0], &[-least, 3.0 * least, least]).expect("same length");
    assert_eq!((m.max_ulp, m.ulp_histogram), (2, vec![0, 1, 2]));
    assert!((m.max_abs / f64::from(least) - 2.0).abs() < 1e-12 && m.diff_norm > 0.0);
}

#[test]
fn vectors_of_any_width_give_the_same_figures_to_the_bit() {
    let a: Vec<f32> = (0..3001).map(|i| (i as f32).sin()).collect();
    let b: Vec<f32> = a.iter().map(|x| x + 1e-3 * x.cos()).collect();
    let (wide, plain) = (
        pass::<_, true>(&a, &b, 70),
        groups::<f32, false, true>(&a, &b, 70),
    );
    let sums = |f: &Found| [f.dot, f.aa, f.bb, f.dd, f.sum, f.max_abs, f.max_rel].map(f64::to_bits);
    assert_eq!(sums(&wide), sums(&plain));
    assert_eq!((wide.ulps, wide.worst_row), (plain.ulps, plain.worst_row));
    assert_eq!(short::distance(&a, &b), short::sums::<false>(&a, &b).distance());
}
