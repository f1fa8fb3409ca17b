//! The pass as far as most gates ask for it: sums of products and the largest difference of two tensors that are finite.
//! Where that decides, nothing else is measured. It is as fast as memory is read.

use super::pass::{GROUP, LANES, ahead, total};
use super::{Distance, Element, cosine, ratio};
use std::hint::black_box;

/// What the pass found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Short {
    pub dot: f64,
    pub aa: f64,
    pub bb: f64,
    pub dd: f64,
    /// Rounded to f32.
    pub max_abs: f64,
}

/// Passes over two tensors of the same length, with the machine's widest vectors; none where an element
/// or a difference is not finite in f32.
#[inline]
pub(super) fn distance(a: &[f32], b: &[f32]) -> Option<Distance> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma")]
        fn avx512(a: &[f32], b: &[f32]) -> Option<Distance> {
            sums::<true>(a, b).distance()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2(a: &[f32], b: &[f32]) -> Option<Distance> {
            sums::<true>(a, b).distance()
        }
        let fma = is_x86_feature_detected!("fma");
        if is_x86_feature_detected!("avx512f") && fma {
            // SAFETY: the processor has just been asked for both features
            #[allow(unsafe_code)]
            return unsafe { avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") && fma {
            // SAFETY: the processor has just been asked for both features
            #[allow(unsafe_code)]
            return unsafe { avx2(a, b) };
        }
    }
    sums::<false>(a, b).distance()
}

impl Short {
    /// None where something is not finite: a NaN or an infinity in either tensor is one in its sum of squares, which the
    /// squares of finite f32 never are.
    #[inline(always)]
    pub(super) fn distance(self) -> Option<Distance> {
        let all = [self.aa, self.bb, self.max_abs];
        let (left, right) = (self.aa.sqrt(), self.bb.sqrt());
        all.iter().all(|x| x.is_finite()).then(|| Distance {
            rel_l2: ratio(self.dd.sqrt(), left),
            cosine: cosine(self.dot, self.dd, left, right),
            max_abs: self.max_abs,
            has_nan: false,
        })
    }
}

/// `FMA` says whether the machine multiplies and adds in one instruction: of products of two f32, which f64 holds, the
/// same number.
#[inline(always)]
pub(super) fn sums<const FMA: bool>(mut a: &[f32], b: &[f32]) -> Short {
    let mut sums = Lanes::NONE;
    let mut apart = 0;
    let mut b = &b[..a.len()];
    while !a.is_empty() {
        let group = a.len().min(GROUP);
        let (of_a, of_b) = (&a[..group], &b[..group]);
        sums.add::<FMA>(of_a, of_b);
        apart = apart.max(largest(of_a, of_b));
        (a, b) = (&a[group..], &b[group..]);
    }
    // The compiler makes vectors of what is stored as arrays.
    let sums = black_box(sums);
    Short {
        dot: total(&sums.dot),
        aa: total(&sums.aa),
        bb: total(&sums.bb),
        dd: total(&sums.dd),
        max_abs: f32::from_bits(apart).into(),
    }
}

/// The bits of the largest distance of two elements.
#[inline(always)]
fn largest(a: &[f32], b: &[f32]) -> u32 {
    let mut largest = 0;
    for (&x, &y) in a.iter().zip(b) {
        largest = largest.max(x.apart(y).bits());
    }
    largest
}

#[derive(Clone, Copy)]
struct Lanes {
    dot: [f64; LANES],
    aa: [f64; LANES],
    bb: [f64; LANES],
    dd: [f64; LANES],
}

impl Lanes {
    const NONE: Self = Self {
        dot: [0.0; LANES],
        aa: [0.0; LANES],
        bb: [0.0; LANES],
        dd: [0.0; LANES],
    };

    #[inline(always)]
    fn add<const FMA: bool>(&mut self, a: &[f32], b: &[f32]) {
        let mut s = *self;
        let plus = |sum: f64, x: f64, y: f64| if FMA { x.mul_add(y, sum) } else { sum + x * y };
        let mut step = |lane: usize, x: f64, y: f64| {
            let d = y - x;
            s.dot[lane] = plus(s.dot[lane], x, y);
            s.aa[lane] = plus(s.aa[lane], x, x);
            s.bb[lane] = plus(s.bb[lane], y, y);
            s.dd[lane] += d * d;
        };
        // A line of the cache at a time.
        let (lines_a, tail_a) = a.as_chunks::<{ 2 * LANES }>();
        let (lines_b, tail_b) = b.as_chunks::<{ 2 * LANES }>();
        for (x, y) in lines_a.iter().zip(lines_b) {
            ahead(x.as_ptr());
            ahead(y.as_ptr());
            for lane in 0..LANES {
                step(lane, x[lane].value(), y[lane].value());
            }
            for lane in 0..LANES {
                step(lane, x[LANES + lane].value(), y[LANES + lane].value());
            }
        }
        for (tail_a, tail_b) in tail_a.chunks(LANES).zip(tail_b.chunks(LANES)) {
            // Two zeros add nothing.
            let (mut x, mut y) = ([0.0f32; LANES], [0.0f32; LANES]);
            x[..tail_a.len()].copy_from_slice(tail_a);
            y[..tail_b.len()].copy_from_slice(tail_b);
            for lane in 0..LANES {
                step(lane, x[lane].value(), y[lane].value());
            }
        }
        *self = s;
    }
}
