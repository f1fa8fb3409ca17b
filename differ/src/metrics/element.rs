use std::fmt::Debug;

/// An element that f64 holds exactly.
pub trait Element: Copy + Default {
    /// As many bits as the element has, unsigned.
    type Bits: Copy + Debug + Default + Ord + Into<u64>;

    /// The magnitude of an infinity.
    const INFINITY: Self::Bits;

    /// The element's value.
    fn value(self) -> f64;

    /// The bits without the sign: in the order of absolute values, with infinity and NaN last.
    fn magnitude(self) -> Self::Bits;

    /// Numbers of the type from this one to `other`, in units in the last place; 0 and -0 are one number. Of no
    /// meaning for NaN.
    fn ulps(self, other: Self) -> Self::Bits;

    /// Number of binary digits of a distance, 0 for 0.
    fn digits(distance: Self::Bits) -> u8;

    /// Whether one is negative, zero or positive and the other is not.
    fn sign_differs(self, other: Self) -> bool;
}

macro_rules! element {
    ($float:ty, $unsigned:ty, $signed:ty) => {
        impl Element for $float {
            type Bits = $unsigned;

            const INFINITY: Self::Bits = <$float>::INFINITY.to_bits();

            #[inline(always)]
            fn value(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn magnitude(self) -> Self::Bits {
                self.abs().to_bits()
            }

            #[inline(always)]
            fn ulps(self, other: Self) -> Self::Bits {
                // Integers in the order of the numbers.
                let rank = |x: $float| {
                    let bits = x.to_bits() as $signed;
                    if bits < 0 {
                        <$signed>::MIN.wrapping_sub(bits)
                    } else {
                        bits
                    }
                };
                rank(self).abs_diff(rank(other))
            }

            #[inline(always)]
            fn digits(distance: Self::Bits) -> u8 {
                (<$unsigned>::BITS - distance.leading_zeros()) as u8
            }

            #[inline(always)]
            fn sign_differs(self, other: Self) -> bool {
                ((self > 0.0) != (other > 0.0)) | ((self < 0.0) != (other < 0.0))
            }
        }
    };
}

element!(f32, u32, i32);
element!(f64, u64, i64);
