use std::fmt::Debug;
use std::ops::{Add, BitAnd, BitOr, BitXor, Sub};

/// An element that f64 holds exactly.
pub trait Element: Copy + Default + PartialOrd {
    /// As many bits as the element has, unsigned.
    type Bits: Copy
        + Debug
        + Default
        + Ord
        + Into<u64>
        + Add<Output = Self::Bits>
        + Sub<Output = Self::Bits>
        + BitAnd<Output = Self::Bits>
        + BitOr<Output = Self::Bits>
        + BitXor<Output = Self::Bits>;

    /// Magnitudes below this one are of finite numbers whose differences are finite in the type, too.
    const ORDINARY: Self::Bits;

    /// The least magnitude that is not zero.
    const LEAST: Self::Bits;

    /// Whether f64 holds the product of two elements exactly, so that adding it with one rounding or with two is the
    /// same.
    const EXACT_PRODUCTS: bool;

    /// The element's value.
    fn value(self) -> f64;

    /// The element's bits.
    fn bits(self) -> Self::Bits;

    /// The bits without the sign: in the order of absolute values, with infinity and NaN last.
    fn magnitude(self) -> Self::Bits;

    /// The element of these bits.
    fn of_bits(bits: Self::Bits) -> Self;

    /// All ones where the sign bit is set, else 0.
    fn sign_mask(bits: Self::Bits) -> Self::Bits;

    /// The distance to `other`, rounded to the type.
    fn apart(self, other: Self) -> Self;

    /// `self / divisor`, rounded to the type.
    fn over(self, divisor: Self) -> Self;

    /// Number of binary digits of a distance, 0 for 0.
    fn digits(distance: Self::Bits) -> u8;
}

macro_rules! element {
    ($float:ty, $unsigned:ty, $signed:ty, $exact:expr) => {
        impl Element for $float {
            type Bits = $unsigned;

            const ORDINARY: Self::Bits = (<$float>::MAX / 4.0).to_bits();
            const LEAST: Self::Bits = 1;
            const EXACT_PRODUCTS: bool = $exact;

            #[inline(always)]
            fn value(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn bits(self) -> Self::Bits {
                self.to_bits()
            }

            #[inline(always)]
            fn magnitude(self) -> Self::Bits {
                self.abs().to_bits()
            }

            #[inline(always)]
            fn of_bits(bits: Self::Bits) -> Self {
                Self::from_bits(bits)
            }

            #[inline(always)]
            fn sign_mask(bits: Self::Bits) -> Self::Bits {
                (bits as $signed >> (<$signed>::BITS - 1)) as $unsigned
            }

            #[inline(always)]
            fn apart(self, other: Self) -> Self {
                (other - self).abs()
            }

            #[inline(always)]
            fn over(self, divisor: Self) -> Self {
                self / divisor
            }

            #[inline(always)]
            fn digits(distance: Self::Bits) -> u8 {
                (<$unsigned>::BITS - distance.leading_zeros()) as u8
            }
        }
    };
}

element!(f32, u32, i32, true);
element!(f64, u64, i64, false);
