//! Which faults are planted, and where.

use crate::lab::DECODED;
use bitnet_models::{FAULTS, Fault, FaultClass};

/// Where in the model, and from when: the columns of the table.
pub const PLACES: [&str; 6] = [
    "first layer",
    "middle layer",
    "last layer",
    "all layers",
    "middle layer, later",
    "all layers, decoding",
];

/// One fault of the corpus.
pub struct Case {
    pub fault: Fault,
    /// Index in [`PLACES`].
    pub place: usize,
    /// Whether its value was drawn.
    pub is_drawn: bool,
}

impl Case {
    pub fn is_in_one_layer(&self) -> bool {
        self.fault.layer.is_some()
    }
}

/// How wrong, where a class has a number: of the size that real bugs have, not of the size that is easy to find.
struct Sizes {
    /// One that is planted always.
    fixed: f32,
    /// Another is drawn between these two,
    range: (f32, f32),
    /// and not between these, which would hardly be a fault.
    outside: (f32, f32),
}

const fn sizes(fixed: f32, range: (f32, f32), outside: (f32, f32)) -> Sizes {
    Sizes {
        fixed,
        range,
        outside,
    }
}

/// The fixtures' own epsilon is 1e-5, and their RoPE's base 10,000 and 100,000.
fn values(class: &FaultClass) -> Sizes {
    let none = (1.0, 1.0);
    match class.name {
        "embd-scale" => sizes(0.998, (0.99, 1.01), (0.9995, 1.0005)), // √d rounded: 33.94 for 34.0
        "rms-eps" => sizes(1e-2, (1e-6, 1e-2), (9e-6, 1.1e-5)),
        "bias" => sizes(0.1, (0.01, 0.3), none),
        "block-scale" => sizes(1.25, (1.05, 1.5), none),
        "rope-base" => sizes(5000.0, (2e3, 5e5), (9e3, 1.1e5)),
        "rope-scale" => sizes(0.5, (0.25, 4.0), (0.98, 1.02)),
        "attn-scale" => sizes(1.5, (0.8, 1.5), (0.98, 1.02)),
        _ => sizes(2.0, (0.5, 2.0), (0.98, 1.02)),
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    /// In 0..1.
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A value whose logarithm is uniform, to four digits.
    fn value(&mut self, sizes: &Sizes) -> f32 {
        let (from, to) = (sizes.range.0.ln(), sizes.range.1.ln());
        loop {
            let value = (from + self.unit() * (to - from)).exp();
            let value = format!("{value:.3e}").parse().unwrap_or(value);
            if !(sizes.outside.0..=sizes.outside.1).contains(&value) {
                return value;
            }
        }
    }
}

/// All faults that a model of architecture `arch` with so many layers can have, for a prompt of so many tokens in one
/// batch; of each class with a number, one with a fixed one and one with another that `seed` decides.
pub fn cases(arch: &str, layers: usize, prompt_len: usize, seed: u64) -> Vec<Case> {
    // The middle of the prompt, and the second of the tokens that are decoded one by one.
    let (later, decoding) = (prompt_len / 2, prompt_len + DECODED / 2 - 1);
    let (middle, last) = (layers / 2, layers - 1);
    let own: &[&str] = match arch {
        "llama" => &["silu", "missing-sub-norm"],
        _ => &["squared-relu"],
    };
    let mut random = Random(seed);
    let mut cases = Vec::new();
    for class in FAULTS {
        let sizes = values(class);
        // Drawn for every class, so that each model has the same.
        let drawn = random.value(&sizes);
        if own.contains(&class.name) {
            continue;
        }
        let values = match class.value {
            Some(_) => vec![(Some(sizes.fixed), false), (Some(drawn), true)],
            None => vec![(None, false)],
        };
        let of_model = ["embeddings", "logits"].contains(&class.stages[0]);
        // A batch has attention multiply a later token's infinity by 0, so that it shows at earlier tokens.
        let leaks = ["overflow", "nan"].contains(&class.name);
        for (value, is_drawn) in values {
            for (place, layer, from) in [
                (0, Some(0), 0),
                (1, Some(middle), 0),
                (2, Some(last), 0),
                (3, None, 0),
                (4, Some(middle), if leaks { decoding } else { later }),
                (5, None, decoding),
            ] {
                // A token that is decoded by itself has no future key to see.
                let masked = class.name == "no-causal-mask" && from == decoding;
                // In a model of two layers the middle one is the last.
                let again = place == 2 && middle == last;
                if masked || again || (of_model && layer.is_some()) {
                    continue;
                }
                let fault = Fault {
                    class,
                    value,
                    layer,
                    from,
                    stage: None,
                };
                cases.push(Case {
                    fault,
                    place,
                    is_drawn,
                });
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_value_is_in_its_range_and_is_the_same_for_each_model() {
        for seed in 0..50 {
            let drawn = |arch: &str, layers| -> Vec<(&str, Option<f32>)> {
                let cases = cases(arch, layers, 20, seed);
                let drawn = cases.iter().filter(|case| case.is_drawn);
                let mut all: Vec<_> = drawn
                    .map(|case| (case.fault.class.name, case.fault.value))
                    .collect();
                all.dedup();
                all
            };
            let all = drawn("llama", 30);
            assert_eq!(all, drawn("bitnet-b1.58", 2));
            assert_eq!(all.len(), 8);
            for (name, value) in all {
                let class = FAULTS.iter().find(|class| class.name == name).unwrap();
                let (sizes, value) = (values(class), value.unwrap());
                assert!((sizes.range.0 * 0.999..=sizes.range.1 * 1.001).contains(&value));
                assert!(!(sizes.outside.0..=sizes.outside.1).contains(&value));
            }
        }
        let of = |seed| cases("llama", 30, 20, seed)[2].fault.value;
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn a_fault_is_planted_once_in_a_model_of_two_layers() {
        let cases = cases("bitnet-b1.58", 2, 20, 1);
        let mut specs: Vec<String> = cases.iter().map(|case| case.fault.to_string()).collect();
        assert!(specs.iter().any(|spec| spec.starts_with("missing-sub-norm")));
        assert!(!specs.iter().any(|spec| spec.starts_with("squared-relu")));
        let count = specs.len();
        specs.sort();
        specs.dedup();
        assert_eq!(specs.len(), count);
    }
}
