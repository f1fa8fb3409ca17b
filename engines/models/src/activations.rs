//! What a product with a quantised weight does to its activations.

use std::fmt;
use std::str::FromStr;

/// The arithmetic of a product with a quantised weight. Products with F32, F16 and BF16 weights are in f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// As the reference engine: the activations are rounded to 8 bits. For `I2_S`, `TQ1_0` and `TQ2_0` every bit is
    /// bitnet.cpp's (on x86-64), its overflow of 16-bit sums included; for other types the rounding is ggml's and sums
    /// may differ in the last bits.
    #[default]
    Reference,
    /// The same where the reference's compiler fuses products and sums in f32 (gcc does with `-mfma` or `-march=native`, as in
    /// this project's own builds of them; clang does not). Of no consequence but for the ternary types.
    ReferenceFma,
    /// In f32: weights are dequantised when they are loaded (4 bytes an element), activations are not rounded.
    Exact,
}

impl Activations {
    /// Every kind, by the name that selects it.
    pub const ALL: [(&'static str, Self); 3] = [
        ("reference", Self::Reference),
        ("reference-fma", Self::ReferenceFma),
        ("exact", Self::Exact),
    ];

    /// The name that selects it, which also stands in a run's manifest.
    pub fn name(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(_, kind)| *kind == self);
        entry.map_or("", |(name, _)| name)
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entry = Self::ALL.iter().find(|(name, _)| *name == text);
        entry.map(|(_, kind)| *kind).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("{text:?} is none of {names}")
        })
    }
}
