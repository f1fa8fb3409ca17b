//! How far from the exact result a right engine may be.

use crate::formula::{Formula, formula};
use crate::{Arithmetic, Referee, Rounding, weights};
use bitnet_trace_schema::DType;

/// The largest relative L2 distance from the exact result that is an engine's rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// ‖recorded − exact‖ / ‖exact‖.
    pub rel_l2: f64,
    /// The dtype of the weights, for products with weights.
    pub weights: Option<DType>,
}

/// Of stages that are computed element by element in f32: measured 2e-8 to 4e-7.
const ELEMENTWISE: f64 = 2e-6;
/// Of products in f32.
const PRODUCT: f64 = 5e-6;
/// Of products whose activations are rounded in a way that explains them to the last bits.
const ROUNDED: f64 = 1e-4;
/// Of products whose activations are rounded in a way that is known but for some ties.
const NEARLY: f64 = 1e-3;
/// For every position, what RoPE's angles in f32 may be off: they grow with it, and the distance between neighbouring
/// f32 with them.
const PER_POSITION: f64 = 6e-8;

impl Referee {
    /// How far from the exact result of a stage a right engine may be at position `seq`.
    pub fn expected(&self, stage: &str, layer: i32, seq: i64, arithmetic: &Arithmetic) -> Option<Expected> {
        let formula = formula(&self.spec, &self.gguf, stage, layer).ok()?;
        let elementwise = |rel_l2| Expected {
            rel_l2,
            weights: None,
        };
        Some(match formula {
            Formula::Product { stem, .. } => {
                let info = weights::tensor(&self.gguf, &format!("{stem}.weight")).ok()?;
                let dtype = weights::dtype(info).ok()?;
                Expected {
                    rel_l2: arithmetic
                        .products
                        .get(&dtype)
                        .map_or(PRODUCT, |tried| tried.expected()),
                    weights: Some(dtype),
                }
            }
            Formula::Scores { .. } | Formula::Context { .. } => {
                elementwise(of(arithmetic.attention.rounding, arithmetic.attention.rel_l2))
            }
            Formula::Rotate { .. } => elementwise(ELEMENTWISE.max(PER_POSITION * seq as f64)),
            _ => elementwise(ELEMENTWISE),
        })
    }
}

/// Of a product with this rounding of its activations, which came so near where it was tried.
pub(crate) fn of(rounding: Rounding, rel_l2: f64) -> f64 {
    match rounding {
        Rounding::None => PRODUCT,
        _ if rel_l2 <= ROUNDED / 10.0 => ROUNDED,
        _ => NEARLY,
    }
}
