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
}

impl Case {
    pub fn is_in_one_layer(&self) -> bool {
        self.fault.layer.is_some()
    }
}

/// How wrong. Values are of the size that real bugs have, not of the size that is easy to find.
fn value(class: &FaultClass) -> Option<f32> {
    class.value.map(|_| match class.name {
        "embd-scale" => 0.998, // √d rounded: 33.94 for 34.0
        "rms-eps" => 1e-2,
        "bias" => 0.1,
        "block-scale" => 1.25,
        "rope-base" => 5000.0,
        "rope-scale" => 0.5,
        "attn-scale" => 1.5,
        _ => 2.0,
    })
}

/// All faults that a llama of so many layers can have, for a prompt of so many tokens in one batch.
pub fn cases(layers: usize, prompt_len: usize) -> Vec<Case> {
    // The middle of the prompt, and the second of the tokens that are decoded one by one.
    let (later, decoding) = (prompt_len / 2, prompt_len + DECODED / 2 - 1);
    let middle = layers / 2;
    let mut cases = Vec::new();
    for class in FAULTS {
        // SiLU is llama's own, and it has no sub-norms.
        if ["silu", "missing-sub-norm"].contains(&class.name) {
            continue;
        }
        let of_model = ["embeddings", "logits"].contains(&class.stages[0]);
        // A batch has attention multiply a later token's infinity by 0, so that it shows at earlier tokens.
        let leaks = ["overflow", "nan"].contains(&class.name);
        for (place, layer, from) in [
            (0, Some(0), 0),
            (1, Some(middle), 0),
            (2, Some(layers - 1), 0),
            (3, None, 0),
            (4, Some(middle), if leaks { decoding } else { later }),
            (5, None, decoding),
        ] {
            // A token that is decoded by itself has no future key to see.
            let masked = class.name == "no-causal-mask" && from == decoding;
            if masked || (of_model && layer.is_some()) {
                continue;
            }
            let fault = Fault {
                class,
                value: value(class),
                layer,
                from,
                stage: None,
            };
            cases.push(Case { fault, place });
        }
    }
    cases
}
