//! The pass over both tensors: sums, largest differences, rows, ULP distances and signs.
//!
//! Elements are taken a group at a time, which stays in the first cache while its sums, its ULP distances and their
//! histogram are made. Sums have a fixed number of lanes and no fused multiplication: whatever the machine's
//! vectors, the figures are the same to the bit.

use super::Element;

/// Independent accumulators, so that the compiler can keep them in vector registers.
const LANES: usize = 8;
/// Elements of a group: enough to hide what is done once for each, few enough to search again.
const GROUP: usize = 1024;
/// Buckets of ULP distances: none, and one for each number of binary digits.
const BUCKETS: usize = 65;

/// What the pass found. Sums, rows, distances and signs are of the pairs that are finite on both sides.
pub(super) struct Found {
    pub dot: f64,
    pub aa: f64,
    pub bb: f64,
    pub dd: f64,
    /// Sum of `b - a`.
    pub sum: f64,
    pub max_abs: f64,
    pub max_abs_at: Option<usize>,
    pub max_rel: f64,
    /// The row of the largest `|b - a|^2 / |a|^2`, and that.
    pub worst_row: Option<(usize, f64)>,
    pub max_ulp: u64,
    /// Pairs by the number of binary digits of their ULP distance.
    pub ulps: [u64; BUCKETS],
    pub sign_differs: u64,
    /// Pairs that are not finite on both sides.
    pub odd: u64,
    pub nan_left: u64,
    pub nan_right: u64,
    pub nan_both: u64,
    pub inf_left: u64,
    pub inf_right: u64,
    /// Those of the odd pairs that are neither NaN twice nor the same infinity.
    pub mismatches: u64,
    pub mismatch_at: Option<usize>,
}

/// Passes over two tensors of the same length in rows of `row` elements, with the machine's widest vectors.
pub(super) fn pass<T: Element>(a: &[T], b: &[T], row: usize) -> Found {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
        fn avx512<T: Element>(a: &[T], b: &[T], row: usize) -> Found {
            groups(a, b, row)
        }
        #[target_feature(enable = "avx2")]
        fn avx2<T: Element>(a: &[T], b: &[T], row: usize) -> Found {
            groups(a, b, row)
        }
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if wide {
            // SAFETY: the processor has just been asked for each of the features
            #[allow(unsafe_code)]
            return unsafe { avx512(a, b, row) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been asked for the feature
            #[allow(unsafe_code)]
            return unsafe { avx2(a, b, row) };
        }
    }
    groups(a, b, row)
}

#[inline(always)]
pub(super) fn groups<T: Element>(a: &[T], b: &[T], row: usize) -> Found {
    let row = row.clamp(1, a.len().max(1));
    let mut total = Total::new(row, a.len());
    // As many whole rows as a group holds, or one that is taken in pieces.
    let step = if row > GROUP { row } else { GROUP / row * row };
    for (outer, (a, b)) in a.chunks(step).zip(b.chunks(step)).enumerate() {
        for (inner, (a, b)) in a.chunks(GROUP).zip(b.chunks(GROUP)).enumerate() {
            total.add(outer * step + inner * GROUP, a, b);
        }
    }
    total.finish()
}

/// Sums, a lane for every eighth element.
#[derive(Clone, Copy)]
struct Sums {
    dot: [f64; LANES],
    aa: [f64; LANES],
    bb: [f64; LANES],
    dd: [f64; LANES],
    sum: [f64; LANES],
    max_abs: [f64; LANES],
    /// The largest relative difference, as numerator and denominator.
    rel_d: [f64; LANES],
    rel_m: [f64; LANES],
}

impl Sums {
    const NONE: Self = Self {
        dot: [0.0; LANES],
        aa: [0.0; LANES],
        bb: [0.0; LANES],
        dd: [0.0; LANES],
        sum: [0.0; LANES],
        max_abs: [0.0; LANES],
        rel_d: [0.0; LANES],
        rel_m: [1.0; LANES],
    };

    #[inline(always)]
    fn add<T: Element>(&mut self, a: &[T], b: &[T]) {
        let mut s = *self;
        let mut step = |lane: usize, x: f64, y: f64| {
            let signed = y - x;
            let d = signed.abs();
            let m = if x.abs() > y.abs() { x.abs() } else { y.abs() };
            s.dot[lane] += x * y;
            s.aa[lane] += x * x;
            s.bb[lane] += y * y;
            s.dd[lane] += d * d;
            s.sum[lane] += signed;
            s.max_abs[lane] = if d > s.max_abs[lane] { d } else { s.max_abs[lane] };
            // d/m > rel_d/rel_m without a division
            let more = d * s.rel_m[lane] > s.rel_d[lane] * m;
            s.rel_d[lane] = chosen(more, d, s.rel_d[lane]);
            s.rel_m[lane] = chosen(more, m, s.rel_m[lane]);
        };
        let (chunks_a, tail_a) = a.as_chunks::<LANES>();
        let (chunks_b, tail_b) = b.as_chunks::<LANES>();
        for (x, y) in chunks_a.iter().zip(chunks_b) {
            for lane in 0..LANES {
                step(lane, x[lane].value(), y[lane].value());
            }
        }
        if !tail_a.is_empty() {
            // Two zeros add nothing. An index that is not a constant would keep the sums out of registers.
            let (mut x, mut y) = ([T::default(); LANES], [T::default(); LANES]);
            x[..tail_a.len()].copy_from_slice(tail_a);
            y[..tail_b.len()].copy_from_slice(tail_b);
            for lane in 0..LANES {
                step(lane, x[lane].value(), y[lane].value());
            }
        }
        *self = s;
    }
}

#[inline(always)]
fn folded(lanes: &[f64; LANES], f: impl Fn(f64, f64) -> f64) -> f64 {
    lanes.iter().skip(1).fold(lanes[0], |x, &y| f(x, y))
}

/// `x` or `y`, by their bits: a condition would make a masked store of it, for which the next load has to wait.
#[inline(always)]
fn chosen(first: bool, x: f64, y: f64) -> f64 {
    let mask = u64::from(first).wrapping_neg();
    f64::from_bits((x.to_bits() & mask) | (y.to_bits() & !mask))
}

#[inline(always)]
fn larger(x: f64, y: f64) -> f64 {
    if y > x { y } else { x }
}

/// What a group's bits tell.
struct Bits<U> {
    /// The number of binary digits of each ULP distance.
    digits: [u8; GROUP],
    max_ulp: U,
    sign_differs: u32,
    finite: bool,
}

#[inline(always)]
fn bits<T: Element>(a: &[T], b: &[T]) -> Bits<T::Bits> {
    let mut digits = [0; GROUP];
    let mut max_ulp = T::Bits::default();
    let mut largest = T::Bits::default();
    let mut sign_differs = 0;
    for (digits, (&x, &y)) in digits.iter_mut().zip(a.iter().zip(b)) {
        let distance = x.ulps(y);
        max_ulp = max_ulp.max(distance);
        largest = largest.max(x.magnitude()).max(y.magnitude());
        *digits = T::digits(distance);
        sign_differs += u32::from(x.sign_differs(y));
    }
    Bits {
        digits,
        max_ulp,
        sign_differs,
        finite: largest < T::INFINITY,
    }
}

/// Adds the numbers of binary digits to a histogram, in turns to several, of which each waits less for its last store.
#[inline(always)]
fn count(digits: &[u8], histogram: &mut [u64; BUCKETS]) {
    const TURNS: usize = 8;
    // A power of two, so that an index needs no check; a group's elements fit into the counters.
    const WIDE: usize = 128;
    let mut counts = [[0u16; WIDE]; TURNS];
    let (chunks, tail) = digits.as_chunks::<TURNS>();
    for chunk in chunks {
        for (counts, &digits) in counts.iter_mut().zip(chunk) {
            counts[usize::from(digits) % WIDE] += 1;
        }
    }
    for &digits in tail {
        counts[0][usize::from(digits) % WIDE] += 1;
    }
    for counts in counts {
        for (all, count) in histogram.iter_mut().zip(counts) {
            *all += u64::from(count);
        }
    }
}

struct Total {
    row: usize,
    elements: usize,
    /// `aa` and `dd` are of the row so far.
    sums: Sums,
    found: Found,
}

impl Total {
    fn new(row: usize, elements: usize) -> Self {
        Self {
            row,
            elements,
            sums: Sums::NONE,
            found: Found {
                dot: 0.0,
                aa: 0.0,
                bb: 0.0,
                dd: 0.0,
                sum: 0.0,
                max_abs: 0.0,
                max_abs_at: None,
                max_rel: 0.0,
                worst_row: None,
                max_ulp: 0,
                ulps: [0; BUCKETS],
                sign_differs: 0,
                odd: 0,
                nan_left: 0,
                nan_right: 0,
                nan_both: 0,
                inf_left: 0,
                inf_right: 0,
                mismatches: 0,
                mismatch_at: None,
            },
        }
    }

    /// Adds a group: whole rows, or a piece of one.
    #[inline(always)]
    fn add<T: Element>(&mut self, start: usize, a: &[T], b: &[T]) {
        let bits = bits(a, b);
        if bits.finite {
            self.add_finite(start, a, b, &bits);
        } else {
            self.add_odd(start, a, b);
        }
    }

    #[inline(always)]
    fn add_finite<T: Element>(&mut self, start: usize, a: &[T], b: &[T], bits: &Bits<T::Bits>) {
        for (i, (a, b)) in a.chunks(self.row).zip(b.chunks(self.row)).enumerate() {
            self.sums.add(a, b);
            let end = start + i * self.row + a.len();
            if end.is_multiple_of(self.row) || end == self.elements {
                self.end_row((end - 1) / self.row);
            }
        }
        let found = &mut self.found;
        let max_abs = folded(&self.sums.max_abs, larger);
        if max_abs > found.max_abs {
            let mut pairs = a.iter().zip(b);
            let at = pairs.position(|(x, y)| (y.value() - x.value()).abs() == max_abs);
            found.max_abs = max_abs;
            found.max_abs_at = at.map(|at| start + at);
        }
        found.max_ulp = found.max_ulp.max(bits.max_ulp.into());
        found.sign_differs += u64::from(bits.sign_differs);
        count(&bits.digits[..a.len()], &mut found.ulps);
    }

    #[inline(always)]
    fn end_row(&mut self, row: usize) {
        let aa = folded(&self.sums.aa, |x, y| x + y);
        let dd = folded(&self.sums.dd, |x, y| x + y);
        self.sums.aa = [0.0; LANES];
        self.sums.dd = [0.0; LANES];
        self.found.aa += aa;
        self.found.dd += dd;
        if dd > 0.0 {
            let nmse = dd / aa;
            let worst = self.found.worst_row.map_or(0.0, |(_, worst)| worst);
            if nmse > worst {
                self.found.worst_row = Some((row, nmse));
            }
        }
    }

    /// A group with elements that are not finite: these are counted, and zero on both sides stands for them.
    #[inline(never)]
    fn add_odd<T: Element>(&mut self, start: usize, a: &[T], b: &[T]) {
        let (mut left, mut right) = ([T::default(); GROUP], [T::default(); GROUP]);
        let found = &mut self.found;
        let mut odd = 0;
        for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
            let (x, y) = (a.value(), b.value());
            if x.is_finite() && y.is_finite() {
                (left[i], right[i]) = (a, b);
                continue;
            }
            odd += 1;
            found.nan_left += u64::from(x.is_nan());
            found.nan_right += u64::from(y.is_nan());
            found.inf_left += u64::from(x.is_infinite());
            found.inf_right += u64::from(y.is_infinite());
            if x.is_nan() && y.is_nan() {
                found.nan_both += 1;
            } else if x != y {
                found.mismatches += 1;
                found.mismatch_at.get_or_insert(start + i);
            }
        }
        found.odd += odd;
        let (left, right) = (&left[..a.len()], &right[..b.len()]);
        self.add_finite(start, left, right, &bits(left, right));
    }

    fn finish(self) -> Found {
        let Self { sums, mut found, .. } = self;
        let sum = |lanes| folded(lanes, |x, y| x + y);
        (found.dot, found.bb, found.sum) = (sum(&sums.dot), sum(&sums.bb), sum(&sums.sum));
        for (d, m) in sums.rel_d.into_iter().zip(sums.rel_m) {
            found.max_rel = larger(found.max_rel, d / m);
        }
        found.ulps[0] -= found.odd;
        found
    }
}
