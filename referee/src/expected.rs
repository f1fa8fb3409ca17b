//! How far from the exact result a right engine may be.

use crate::formula::{Formula, formula};
use crate::{Arithmetic, Referee, Rounding, Tried, Turning, weights};
use bitnet_trace_schema::DType;

/// The largest relative L2 distance from the exact result that is an engine's rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// ‖recorded − exact‖ / ‖exact‖.
    pub rel_l2: f64,
    /// The same of one or two records among many: a code that is rounded to its other neighbour has no more than this.
    pub lone: f64,
    /// The dtype of the weights, for products with weights.
    pub weights: Option<DType>,
}

/// Of stages that are computed element by element in f32: measured 2e-8 to 4e-7.
const ELEMENTWISE: f64 = 2e-6;
/// Of products in f32.
const PRODUCT: f64 = 5e-6;
/// Of products whose activations are rounded in a way that explains them to the last bits.
const ROUNDED: f64 = 1e-4;
/// Of one record with such a product in which a code was rounded to its other neighbour.
const LONE: f64 = 1e-3;
/// The most that rounding to 8 bits makes of a product: measured 0.2 to 2 %.
const BY_ROUNDING: f64 = 0.03;
/// For every position and 64 elements that are turned, what RoPE's angles in f32 may be off: they grow with the position,
/// the distance between neighbouring f32 with them, and each pair's angle is that of the pair before times a factor.
const PER_POSITION: f64 = 6e-8;

impl Referee {
    /// How far from the exact result of a stage a right engine may be at position `seq`.
    pub fn expected(&self, stage: &str, layer: i32, seq: i64, arithmetic: &Arithmetic) -> Option<Expected> {
        let formula = formula(&self.spec, &self.gguf, stage, layer).ok()?;
        let plain = |rel_l2| Expected {
            rel_l2,
            lone: rel_l2,
            weights: None,
        };
        Some(match formula {
            Formula::Product { stem, .. } => {
                let info = weights::tensor(&self.gguf, &format!("{stem}.weight")).ok()?;
                let dtype = weights::dtype(info).ok()?;
                Expected {
                    weights: Some(dtype),
                    ..product(arithmetic.products.get(&dtype).unwrap_or(&Tried::NONE))
                }
            }
            Formula::Scores { .. } | Formula::Context { .. } => product(&arithmetic.attention),

            Formula::Rotate { .. } if arithmetic.turning == Turning::F32Steps => plain(ELEMENTWISE),
            Formula::Rotate { .. } => {
                let turned = (self.spec.n_rot as f64 / 64.0).max(1.0);
                plain(ELEMENTWISE.max(PER_POSITION * turned * seq as f64))
            }
            _ => plain(ELEMENTWISE),
        })
    }
}

/// Of a product with activations rounded in this way: where no known way explains them, ten times what was measured.
fn product(tried: &Tried) -> Expected {
    let rel_l2 = match tried.rounding {
        _ if !tried.is_known() => 10.0 * tried.rel_l2,
        Rounding::None => PRODUCT,
        _ => ROUNDED,
    };
    Expected {
        rel_l2,
        lone: match tried.rounding {
            Rounding::None => rel_l2,
            _ => rel_l2.max(LONE),
        },
        weights: None,
    }
}

impl Tried {
    /// Whether the engine's results are explained by this way. Between that and what rounding to 8 bits can do, an
    /// engine rounds in a way that is not known; beyond, it is wrong.
    pub fn is_known(&self) -> bool {
        let explained = match self.rounding {
            Rounding::None => PRODUCT,
            _ => ROUNDED / 10.0,
        };
        self.rel_l2 <= explained || self.rel_l2 > BY_ROUNDING
    }
}
