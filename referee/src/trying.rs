//! Which way an engine rounds: each that is known is tried on a few rows of a few products.

use crate::exact::Work;
use crate::formula::{Formula, formula};
use crate::math::{Gelu, Turning};
use crate::product::product;
use crate::rounding::{Rounded, Rounding};
use crate::spec::Activation;
use crate::weights::Matrix;
use crate::{Arithmetic, Recorded, Referee, Refusal, Token};
use bitnet_trace_schema::DType;
use std::collections::BTreeMap;

/// Tokens of each stage that are tried.
const TOKENS: usize = 32;
/// Rows of each weight matrix that are tried.
const ROWS: usize = 64;
/// Stages of each weight dtype that are tried.
const STAGES: usize = 12;

/// A way of rounding, and how well it agreed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// The way.
    pub rounding: Rounding,
    /// The median of the relative L2 distances of those stages that were tried.
    pub rel_l2: f64,
}

/// Which ways of rounding activations are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Each that is known.
    #[default]
    Found,
    /// None: what rounding does to products is part of their error, and ten times what was measured is expected.
    Exact,
}

impl Activations {
    fn candidates(self, dtype: DType) -> Vec<Rounding> {
        match self {
            Self::Found => Rounding::candidates(dtype),
            Self::Exact => vec![Rounding::None],
        }
    }
}

impl Tried {
    /// Nothing is rounded.
    pub const NONE: Self = Self {
        rounding: Rounding::None,
        rel_l2: 0.0,
    };
}

impl Referee {
    /// Finds out how an engine rounds, from records of `tokens`, among the ways that `activations` allows.
    pub fn try_roundings(
        &self,
        tokens: &[Token],
        recorded: &dyn Recorded,
        cache: DType,
        activations: Activations,
    ) -> Arithmetic {
        let mut arithmetic = Arithmetic::exact(cache);
        arithmetic.products = self.try_products(tokens, recorded, &arithmetic, activations);
        let best = |stage: &str, ways: Vec<Arithmetic>| -> Option<(f64, Arithmetic)> {
            let of = |way: &Arithmetic| -> Vec<f64> {
                let layers = spread(self.spec.n_layer, 4);
                layers
                    .flat_map(|layer| self.errors(stage, layer as i32, tokens, recorded, way))
                    .collect()
            };
            let errors: Vec<Vec<f64>> = ways.iter().map(of).collect();
            let (i, rel_l2) = nearest(&errors)?;
            Some((rel_l2, ways[i].clone()))
        };
        let ways = |base: &Arithmetic| {
            let candidates = activations.candidates(cache).into_iter();
            let way = |rounding| Arithmetic {
                attention: Tried {
                    rounding,
                    rel_l2: 0.0,
                },
                ..base.clone()
            };
            candidates.map(way).collect()
        };
        // A fused kernel shows its result alone.
        let scores = || best("attn_scores", ways(&arithmetic));
        if let Some((rel_l2, found)) = scores().or_else(|| best("attn_ctx", ways(&arithmetic))) {
            let rounding = found.attention.rounding;
            arithmetic.attention = Tried { rounding, rel_l2 };
        }
        let turnings = [Turning::Exact, Turning::F32Steps].map(|turning| Arithmetic {
            turning,
            ..arithmetic.clone()
        });
        if let Some((_, found)) = best("q_rope", turnings.into()) {
            arithmetic = found;
        }
        if self.spec.activation == Activation::Gelu {
            let ways = Gelu::ALL.map(|gelu| Arithmetic {
                gelu,
                ..arithmetic.clone()
            });
            if let Some((_, found)) = best("ffn_act", ways.into()) {
                arithmetic = found;
            }
        }
        arithmetic
    }

    /// Local errors of a stage at a few of the tokens.
    fn errors(
        &self,
        stage: &str,
        layer: i32,
        tokens: &[Token],
        recorded: &dyn Recorded,
        arithmetic: &Arithmetic,
    ) -> Vec<f64> {
        let tokens = some_of(tokens, stage, layer, recorded);
        let Ok(rows) = self.exact(stage, layer, &tokens, recorded, arithmetic) else {
            return Vec::new();
        };
        let pairs = rows.into_iter().zip(&tokens);
        pairs
            .filter_map(|(exact, &token)| rel_l2(&recorded.row(stage, layer, token)?, &exact.ok()?))
            .collect()
    }

    fn try_products(
        &self,
        tokens: &[Token],
        recorded: &dyn Recorded,
        arithmetic: &Arithmetic,
        activations: Activations,
    ) -> BTreeMap<DType, Tried> {
        let mut stages: BTreeMap<DType, Vec<(i32, &str)>> = BTreeMap::new();
        for (layer, stage) in self.stages() {
            let weights = self.expected(stage, layer, 0, arithmetic).and_then(|e| e.weights);
            if let Some(dtype) = weights {
                stages.entry(dtype).or_default().push((layer, stage));
            }
        }
        let work = Work {
            referee: self,
            recorded,
            arithmetic,
        };
        let mut tried = BTreeMap::new();
        for (dtype, stages) in stages {
            let candidates = activations.candidates(dtype);
            let mut errors = vec![Vec::new(); candidates.len()];
            for at in spread(stages.len(), STAGES) {
                let (layer, stage) = stages[at];
                let Ok(sample) = work.sample(stage, layer, tokens) else {
                    continue;
                };
                for (errors, candidate) in errors.iter_mut().zip(&candidates) {
                    errors.extend(sample.errors(*candidate).unwrap_or_default());
                }
            }
            if let Some((i, rel_l2)) = nearest(&errors) {
                let rounding = candidates[i];
                tried.insert(dtype, Tried { rounding, rel_l2 });
            }
        }
        tried
    }
}

/// A few rows of a product, as recorded and as inputs.
struct Sample {
    matrix: Matrix,
    rows: Vec<usize>,
    /// Inputs, and of the recorded outputs those of `rows`.
    tokens: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Work<'_> {
    fn sample(&self, stage: &str, layer: i32, tokens: &[Token]) -> Result<Sample, Refusal> {
        let none = || Refusal::NotRecorded(stage.to_owned());
        let formula = formula(&self.referee.spec, &self.referee.gguf, stage, layer)?;
        let Formula::Product { of, stem, scaled, .. } = formula else {
            return Err(none());
        };
        // Where something else is done to the product, only rounding is not to be seen.
        let more = |part: &str| scaled && self.referee.gguf.tensor(&format!("{stem}.{part}")).is_some();
        if more("scale") || more("bias") {
            return Err(none());
        }
        let at = some_of(tokens, stage, layer, self.recorded);
        let inputs = self.inputs(of, &at);
        let columns = inputs.iter().flatten().map(Vec::len).next().ok_or_else(none)?;
        let matrix = Matrix::read(&self.referee.gguf, &format!("{stem}.weight"), columns)?;
        let rows: Vec<usize> = spread(matrix.rows, ROWS).collect();
        let pairs = inputs.into_iter().zip(at);
        let tokens = pairs.filter_map(|(input, token)| {
            // One at a time: of logits, a row may have a million elements.
            let output = self.recorded.row(stage, layer, token)?;
            let output = rows.iter().map(|&row| output.get(row).copied());
            Some((input.ok()?, output.collect::<Option<_>>()?))
        });
        Ok(Sample {
            tokens: tokens.collect(),
            matrix,
            rows,
        })
    }
}

impl Sample {
    fn errors(&self, rounding: Rounding) -> Result<Vec<f64>, Refusal> {
        let rounded: Vec<Rounded> = self.tokens.iter().map(|(x, _)| rounding.round(x)).collect();
        let exact = product(&self.matrix, &self.rows, &rounded)?;
        let pairs = self.tokens.iter().zip(&exact);
        Ok(pairs.filter_map(|((_, y), exact)| rel_l2(y, exact)).collect())
    }
}

/// A few of the tokens that have a record of a stage.
fn some_of(tokens: &[Token], stage: &str, layer: i32, recorded: &dyn Recorded) -> Vec<Token> {
    let has = |token: &&Token| recorded.has(stage, layer, **token);
    let tokens: Vec<Token> = tokens.iter().filter(has).copied().collect();
    spread(tokens.len(), TOKENS).map(|i| tokens[i]).collect()
}

/// The way that comes nearest, by the errors of each, and its median error. Of those that are as near but for noise, it
/// is the one whose errors are far beyond that most seldom: two ways may differ in ties alone.
fn nearest(errors: &[Vec<f64>]) -> Option<(usize, f64)> {
    let medians: Vec<Option<f64>> = errors.iter().map(|errors| median(errors.clone())).collect();
    let best = medians.iter().flatten().copied().min_by(f64::total_cmp)?;
    let outliers = |i: &usize| errors[*i].iter().filter(|&&e| e > 20.0 * best).count();
    let near = (0..errors.len()).filter(|&i| medians[i].is_some_and(|m| m <= 2.0 * best));
    let nearest = near.min_by_key(outliers)?;
    Some((nearest, medians[nearest]?))
}

/// At most `most` of `0..count`, from the first to the last.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let take = count.min(most);
    (0..take).map(move |i| i * (count - 1) / (take.max(2) - 1))
}

/// ‖found − exact‖ / ‖exact‖; none of nothing, or where it is no number.
fn rel_l2(found: &[f64], exact: &[f64]) -> Option<f64> {
    let (mut apart, mut size) = (0.0, 0.0);
    for (found, exact) in found.iter().zip(exact) {
        apart += (found - exact).powi(2);
        size += exact * exact;
    }
    Some((apart / size).sqrt()).filter(|x| x.is_finite())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
