//! The pass over both tensors: sums, largest differences, rows, ULP distances and signs.
//!
//! Elements are taken a group at a time, which stays in the first cache while three short loops go over it: of the bits,
//! of the sums, of the histogram. Largest differences are looked for in the element's own type, where a vector holds
//! more of them. Sums have a fixed number of lanes: whatever
//! the machine's vectors, the figures are the same to the bit.

use super::Element;
use std::hint::black_box;

/// Independent accumulators, so that the compiler can keep them in vector registers.
pub(super) const LANES: usize = 8;
/// Elements of a group: enough to hide what is done once for each, few enough to stay in the first cache.
pub(super) const GROUP: usize = 256;
/// Pairs whose digits are counted together, several groups: enough to hide what is done once for each bucket.
const COUNTED: usize = 1024;
/// Elements from what is computed to what is fetched.
const AHEAD: usize = 1024;
/// Digits that are counted at a time.
const WIDE: usize = 64;
/// Buckets of ULP distances: none, and one for each number of binary digits.
const BUCKETS: usize = 65;
/// What stands behind a group's digits: a number that no distance has.
const NO_DIGITS: u8 = u8::MAX;

/// What the pass found. Sums, rows, distances and signs are of the pairs that are finite on both sides.
pub(super) struct Found {
    pub dot: f64,
    pub aa: f64,
    pub bb: f64,
    pub dd: f64,
    /// Sum of `b - a`.
    pub sum: f64,
    /// The largest distance, rounded as the element's type does, and the first that is that.
    pub max_abs: f64,
    pub max_abs_at: Option<usize>,
    /// Rounded as the element's type does.
    pub max_rel: f64,
    /// The row of the largest `|b - a|^2 / |a|^2`, and that.
    pub worst_row: Option<(usize, f64)>,
    pub max_ulp: u64,
    /// Pairs by the number of binary digits of their ULP distance, where they are counted.
    pub ulps: Vec<u64>,
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

impl Found {
    const NOTHING: Self = Self {
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
        ulps: Vec::new(),
        sign_differs: 0,
        odd: 0,
        nan_left: 0,
        nan_right: 0,
        nan_both: 0,
        inf_left: 0,
        inf_right: 0,
        mismatches: 0,
        mismatch_at: None,
    };
}

/// Passes over two tensors of the same length in rows of `row` elements, with the machine's widest vectors.
/// With `ALL`, it counts ULP distances and signs, too, which no gate asks for.
pub(super) fn pass<T: Element, const ALL: bool>(a: &[T], b: &[T], row: usize) -> Found {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma")]
        fn avx512<T: Element, const ALL: bool>(a: &[T], b: &[T], row: usize) -> Found {
            groups::<T, true, ALL>(a, b, row)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<T: Element, const ALL: bool>(a: &[T], b: &[T], row: usize) -> Found {
            groups::<T, true, ALL>(a, b, row)
        }
        let fma = is_x86_feature_detected!("fma");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if wide && fma {
            // SAFETY: the processor has just been asked for each of the features
            #[allow(unsafe_code)]
            return unsafe { avx512::<T, ALL>(a, b, row) };
        }
        if is_x86_feature_detected!("avx2") && fma {
            // SAFETY: the processor has just been asked for the features
            #[allow(unsafe_code)]
            return unsafe { avx2::<T, ALL>(a, b, row) };
        }
    }
    groups::<T, false, ALL>(a, b, row)
}

/// The pass; `FMA` says whether the machine multiplies and adds in one instruction.
#[inline(always)]
pub(super) fn groups<T: Element, const FMA: bool, const ALL: bool>(a: &[T], b: &[T], row: usize) -> Found {
    let row = row.clamp(1, a.len().max(1));
    let mut total = Total::<T, ALL>::new(row, a.len());
    // As many whole rows as a group holds, or one that is taken in pieces.
    let step = if row > GROUP { row } else { GROUP / row * row };
    for (outer, (a, b)) in a.chunks(step).zip(b.chunks(step)).enumerate() {
        for (inner, (a, b)) in a.chunks(GROUP).zip(b.chunks(GROUP)).enumerate() {
            total.add::<FMA>(outer * step + inner * GROUP, a, b);
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
}

impl Sums {
    const NONE: Self = Self {
        dot: [0.0; LANES],
        aa: [0.0; LANES],
        bb: [0.0; LANES],
        dd: [0.0; LANES],
        sum: [0.0; LANES],
    };

    #[inline(always)]
    fn add<T: Element, const FMA: bool>(&mut self, a: &[T], b: &[T]) {
        let mut s = *self;
        // Of exact products the same number, whether rounded once or twice.
        let plus = |sum: f64, x: f64, y: f64| {
            if FMA && T::EXACT_PRODUCTS {
                x.mul_add(y, sum)
            } else {
                sum + x * y
            }
        };
        let mut step = |lane: usize, x: f64, y: f64| {
            let d = y - x;
            s.dot[lane] = plus(s.dot[lane], x, y);
            s.aa[lane] = plus(s.aa[lane], x, x);
            s.bb[lane] = plus(s.bb[lane], y, y);
            s.dd[lane] += d * d;
            s.sum[lane] += d;
        };
        let (chunks_a, tail_a) = a.as_chunks::<LANES>();
        let (chunks_b, tail_b) = b.as_chunks::<LANES>();
        for (x, y) in chunks_a.iter().zip(chunks_b) {
            ahead(x.as_ptr());
            ahead(y.as_ptr());
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

/// Has the processor fetch what stands further on, while it computes: there it is read from memory.
#[inline(always)]
pub(super) fn ahead<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program could see, and of an address that is not mapped nothing
        #[allow(unsafe_code)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The sum of all lanes, halved until one is left.
#[inline(always)]
pub(super) fn total(lanes: &[f64; LANES]) -> f64 {
    let mut sums = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// What a group's bits tell.
#[derive(Clone, Copy)]
struct Bits<U> {
    max_ulp: U,
    /// The largest magnitude.
    largest: U,
    /// The least magnitude.
    least: U,
    /// Where a sign bit differs, the sign bit is set.
    signs: U,
    /// The largest distance of two elements, rounded to their type.
    apart: U,
    /// The largest relative distance, so rounded.
    relative: U,
}

/// The ULP distance by the bits of both: through zero where the signs differ; 0 and -0 are one number.
#[inline(always)]
fn ulps<T: Element>(top: T::Bits, low: T::Bits, signs: T::Bits) -> T::Bits {
    let through = low & T::sign_mask(signs);
    top - low + through + through
}

#[inline(always)]
fn bits<T: Element, const ALL: bool>(a: &[T], b: &[T], digits: &mut [u8]) -> Bits<T::Bits> {
    let zero = T::Bits::default();
    let (mut max_ulp, mut largest, mut signs, mut apart, mut relative) = (zero, zero, zero, zero, zero);
    let mut least = T::ORDINARY;
    for (digits, (&x, &y)) in digits.iter_mut().zip(a.iter().zip(b)) {
        let (m, n) = (x.magnitude(), y.magnitude());
        let (top, low) = (m.max(n), m.min(n));
        let sign = x.bits() ^ y.bits();
        let distance = ulps::<T>(top, low, sign);
        let d = x.apart(y);
        // Two zeros are as far apart as a zero and the least number.
        let r = d.over(T::of_bits(top.max(T::LEAST)));
        max_ulp = max_ulp.max(distance);
        largest = largest.max(top);
        least = least.min(low);
        signs = signs | sign;
        apart = apart.max(d.bits());
        relative = relative.max(r.bits());
        if ALL {
            *digits = T::digits(distance);
        }
    }
    Bits {
        max_ulp,
        largest,
        least,
        signs,
        apart,
        relative,
    }
}

/// Whether one is negative, zero or positive and the other is not.
#[inline(always)]
fn sign_differs<T: Element>(x: T, y: T) -> bool {
    let zero = T::default();
    ((x > zero) != (y > zero)) | ((x < zero) != (y < zero))
}

/// The first place whose distance is `apart` when it is rounded to the type.
#[inline(always)]
fn place<T: Element>(a: &[T], b: &[T], apart: T::Bits) -> usize {
    // All of them and no way out, a vector at a time; counted down, so that a place is never 0.
    let (mut place, mut left) = (0, a.len() as u32);
    for (&x, &y) in a.iter().zip(b) {
        let is = x.apart(y).bits() == apart;
        place = place.max(if is { left } else { 0 });
        left -= 1;
    }
    a.len() - place as usize
}

/// Adds numbers of binary digits, of which `most` is the largest, to a histogram: one short loop a bucket.
#[inline(always)]
fn count(digits: &[u8], elements: usize, most: u8, histogram: &mut [u64]) {
    let (chunks, _) = digits.as_chunks::<WIDE>();
    let mut left = elements as u64;
    for bucket in (0..=most).rev() {
        if left == 0 {
            break;
        }
        // A number of 8 bits to the compiler: as the loop's counter it would be widened to 64, and all digits with it.
        let number = black_box(bucket);
        // There are fewer chunks than fit into the counters.
        let mut counts = [0u8; WIDE];
        for chunk in chunks {
            for lane in 0..WIDE {
                counts[lane] += u8::from(chunk[lane] == number);
            }
        }
        let found = u64::from(counts.iter().map(|&n| u32::from(n)).sum::<u32>());
        histogram[usize::from(bucket)] += found;
        left -= found;
    }
}

struct Total<T: Element, const ALL: bool> {
    row: usize,
    elements: usize,
    /// `aa` and `dd` are of the row so far.
    sums: Sums,
    /// The largest distance so far, rounded to the type.
    apart: T::Bits,
    /// The numbers of binary digits that were not counted yet, how many, and the largest of them; none where nothing is
    /// counted.
    digits: Vec<u8>,
    held: usize,
    most: u8,
    found: Found,
}

impl<T: Element, const ALL: bool> Total<T, ALL> {
    fn new(row: usize, elements: usize) -> Self {
        Self {
            row,
            elements,
            sums: Sums::NONE,
            apart: T::Bits::default(),
            digits: vec![0; if ALL { COUNTED } else { 0 }],
            held: 0,
            most: 0,
            found: Found {
                ulps: vec![0; if ALL { BUCKETS } else { 0 }],
                ..Found::NOTHING
            },
        }
    }

    /// What the bits of a group tell.
    #[inline(always)]
    fn bits(&mut self, a: &[T], b: &[T]) -> Bits<T::Bits> {
        if ALL {
            bits::<T, true>(a, b, &mut self.digits[self.held..])
        } else {
            bits::<T, false>(a, b, &mut [0; GROUP])
        }
    }

    /// Adds a group: whole rows, or a piece of one.
    #[inline(always)]
    fn add<const FMA: bool>(&mut self, start: usize, a: &[T], b: &[T]) {
        if ALL && self.held + a.len() > COUNTED {
            self.count();
        }
        let of = self.bits(a, b);
        if of.largest >= T::ORDINARY {
            self.add_odd::<FMA>(start, a, b);
            return;
        }
        if of.apart > self.apart {
            let at = place(a, b, of.apart);
            self.further(of.apart, start + at, T::of_bits(of.apart).value());
        }
        self.found.max_rel = larger(self.found.max_rel, T::of_bits(of.relative).value());
        self.add_finite::<FMA>(start, a, b, &of);
    }

    /// Adds pairs that are finite, but for their largest distances.
    #[inline(always)]
    fn add_finite<const FMA: bool>(&mut self, start: usize, a: &[T], b: &[T], of: &Bits<T::Bits>) {
        for (i, (a, b)) in a.chunks(self.row).zip(b.chunks(self.row)).enumerate() {
            self.sums.add::<T, FMA>(a, b);
            let end = start + i * self.row + a.len();
            if end.is_multiple_of(self.row) || end == self.elements {
                self.end_row((end - 1) / self.row);
            }
        }
        let found = &mut self.found;
        found.max_ulp = found.max_ulp.max(of.max_ulp.into());
        if !ALL {
            return;
        }
        if of.least == T::Bits::default() || T::sign_mask(of.signs) > T::Bits::default() {
            let differ = a.iter().zip(b).map(|(&x, &y)| u32::from(sign_differs(x, y)));
            found.sign_differs += u64::from(differ.sum::<u32>());
        }
        self.held += a.len();
        self.most = self.most.max(T::digits(of.max_ulp));
    }

    /// Counts the digits that are held.
    #[inline(always)]
    fn count(&mut self) {
        let end = self.held.next_multiple_of(WIDE);
        self.digits[self.held..end].fill(NO_DIGITS);
        count(&self.digits[..end], self.held, self.most, &mut self.found.ulps);
        (self.held, self.most) = (0, 0);
    }

    #[inline(always)]
    fn further(&mut self, apart: T::Bits, at: usize, max_abs: f64) {
        self.apart = apart;
        self.found.max_abs = max_abs;
        self.found.max_abs_at = Some(at);
    }

    #[inline(always)]
    fn end_row(&mut self, row: usize) {
        let (aa, dd) = (total(&self.sums.aa), total(&self.sums.dd));
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

    /// A group with elements that are not finite: these are counted, and zero on both sides stands for them. The others
    /// may be so large that their difference overflows the type.
    #[inline(never)]
    fn add_odd<const FMA: bool>(&mut self, start: usize, a: &[T], b: &[T]) {
        let (mut left, mut right) = ([T::default(); GROUP], [T::default(); GROUP]);
        let mut odd = 0;
        for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
            let (x, y) = (a.value(), b.value());
            let found = &mut self.found;
            if x.is_finite() && y.is_finite() {
                (left[i], right[i]) = (a, b);
                let d = (y - x).abs();
                if d > 0.0 {
                    found.max_rel = larger(found.max_rel, d / larger(x.abs(), y.abs()));
                    if d > found.max_abs {
                        self.further(a.apart(b).bits(), start + i, d);
                    }
                }
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
        self.found.odd += odd;
        let (left, right) = (&left[..a.len()], &right[..b.len()]);
        let of = self.bits(left, right);
        self.add_finite::<FMA>(start, left, right, &of);
    }

    #[inline(always)]
    fn finish(&mut self) -> Found {
        if ALL {
            self.count();
            self.found.ulps[0] -= self.found.odd;
        }
        let (sums, found) = (&self.sums, &mut self.found);
        (found.dot, found.bb, found.sum) = (total(&sums.dot), total(&sums.bb), total(&sums.sum));
        std::mem::replace(found, Found::NOTHING)
    }
}

#[inline(always)]
fn larger(x: f64, y: f64) -> f64 {
    if y > x { y } else { x }
}
