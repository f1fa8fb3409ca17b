//! What a stage should be, from what the engine recorded of its inputs.

use crate::formula::{At, Formula, formula};
use crate::math::{Turn, capped, rms_norm, softmax};
use crate::product::{dot, product};
use crate::rounding::{Rounded, Rounding};
use crate::weights::{self, Matrix};
use crate::{Arithmetic, Recorded, Referee, Refusal, Token};
use bitnet_trace_schema::DType;
use std::collections::BTreeMap;

/// The last position: attention looks at every one before it, and a run can claim any.
const LAST: i64 = 1 << 22;

/// The elements of one token's record, or why they cannot be told.
pub(crate) type Row = Result<Vec<f64>, Refusal>;

/// A referee at work on what one engine recorded.
pub(crate) struct Work<'a> {
    pub(crate) referee: &'a Referee,
    pub(crate) recorded: &'a dyn Recorded,
    pub(crate) arithmetic: &'a Arithmetic,
}

impl Work<'_> {
    /// The exact rows of a stage.
    pub(crate) fn exact(&self, stage: &str, layer: i32, tokens: &[Token]) -> Result<Vec<Row>, Refusal> {
        let spec = &self.referee.spec;
        let formula = formula(spec, &self.referee.gguf, stage, layer)?;
        if tokens.iter().any(|token| token.seq > LAST) {
            return Err(Refusal::Unknown(format!(
                "positions beyond {LAST} are not recomputed"
            )));
        }
        Ok(match formula {
            Formula::Lookup => tokens.iter().map(|&token| self.embedding(token)).collect(),
            Formula::Scale { of, factor } => {
                self.each(of, tokens, |x, _| Ok(x.iter().map(|x| x * factor).collect()))
            }
            Formula::Same { of } => self.inputs(of, tokens),
            Formula::Norm { of, weight, width } => {
                let weight = self.referee.vector(&weight, width)?;
                let weight = weight.ok_or_else(|| Refusal::Weight("norm's weight is missing".to_owned()))?;
                self.each(of, tokens, |x, _| Ok(rms_norm(x, &weight, spec.rms_eps)))
            }
            Formula::Product {
                of,
                stem,
                scaled,
                cap,
            } => self.projection(of, tokens, &stem, scaled, cap)?,
            Formula::Rotate { of, layer } => {
                let factors = self.referee.vector("rope_freqs.weight", spec.n_rot / 2)?;
                let turn = Turn {
                    pairing: spec.pairing,
                    n_rot: spec.n_rot,
                    angles: spec.angles_of(layer),
                    factors: factors.as_deref(),
                    turning: self.arithmetic.turning,
                };
                self.each(of, tokens, |x, token| {
                    Ok(turn.apply(x, spec.head_dim, token.seq as f64))
                })
            }
            Formula::Cached { of } => {
                let rounding = self.cache_rounding()?;
                self.each(of, tokens, |x, _| Ok(rounding.round(x).values))
            }
            Formula::Scores { q, k } => self.scores(q, k, tokens),
            Formula::Probabilities { of, scale, window } => {
                let cap = spec.scores_cap;
                self.each(of, tokens, |x, token| {
                    let keys = x.len() / spec.n_head;
                    let first = window.map_or(0, |window| (token.seq + 1 - window as i64).max(0) as usize);
                    Ok(x.chunks(keys.max(1))
                        .flat_map(|head| softmax(head, scale, cap, first))
                        .collect())
                })
            }
            Formula::Context { probs, v } => self.context(probs, v, tokens),
            Formula::Sum { a, b } => self.two(a, b, tokens, |a, b| a + b),
            Formula::Gated { gate, up } => {
                let gelu = self.arithmetic.gelu;
                self.two(gate, up, tokens, |gate, up| spec.activation.gated(gate, up, gelu))
            }
        })
    }

    /// The recorded rows of an input; where one was not recorded and its own formula multiplies with no weights, what
    /// follows from that one's inputs.
    pub(crate) fn inputs(&self, of: At, tokens: &[Token]) -> Vec<Row> {
        let expected = self.referee.elements(of);
        let check = |token: &Token, values: Vec<f64>| match expected.map(|count| count.of(token)) {
            Some(expected) if !self.fits(of, values.len(), expected) => Err(Refusal::Length {
                stage: of.stage.to_owned(),
                expected,
                found: values.len(),
            }),
            _ => Ok(values),
        };
        let mut rows: Vec<Row> = tokens
            .iter()
            .map(|token| {
                let row = self.recorded.row(of.stage, of.layer, *token);
                let row = row.ok_or_else(|| Refusal::NotRecorded(of.stage.to_owned()));
                row.and_then(|values| check(token, values))
            })
            .collect();
        let missing: Vec<usize> = (0..rows.len())
            .filter(|&i| matches!(rows[i], Err(Refusal::NotRecorded(_))))
            .collect();
        let follows = formula(&self.referee.spec, &self.referee.gguf, of.stage, of.layer);
        if missing.is_empty() || !follows.is_ok_and(|f| !matches!(f, Formula::Product { .. })) {
            return rows;
        }
        let tokens: Vec<Token> = missing.iter().map(|&i| tokens[i]).collect();
        if let Ok(found) = self.exact(of.stage, of.layer, &tokens) {
            for (i, row) in missing.into_iter().zip(found) {
                if row.is_ok() {
                    rows[i] = row;
                }
            }
        }
        rows
    }

    /// Probabilities may have more keys than the token sees.
    fn fits(&self, of: At, found: usize, expected: usize) -> bool {
        match of.stage {
            "attn_probs" => found.is_multiple_of(self.referee.spec.n_head),
            _ => found == expected,
        }
    }

    fn each(&self, of: At, tokens: &[Token], f: impl Fn(&[f64], Token) -> Row) -> Vec<Row> {
        let inputs = self.inputs(of, tokens).into_iter().zip(tokens);
        inputs
            .map(|(row, &token)| row.and_then(|x| f(&x, token)))
            .collect()
    }

    fn two(&self, a: At, b: At, tokens: &[Token], f: impl Fn(f64, f64) -> f64) -> Vec<Row> {
        let pairs = self.inputs(a, tokens).into_iter().zip(self.inputs(b, tokens));
        pairs
            .map(|(a, b)| Ok(a?.into_iter().zip(b?).map(|(a, b)| f(a, b)).collect()))
            .collect()
    }

    fn embedding(&self, token: Token) -> Row {
        let id = self.recorded.id(token).ok_or(Refusal::NoTokenId)?;
        weights::row(
            &self.referee.gguf,
            "token_embd.weight",
            self.referee.spec.n_embd,
            id as usize,
        )
    }

    fn projection(
        &self,
        of: At,
        tokens: &[Token],
        stem: &str,
        scaled: bool,
        cap: Option<f64>,
    ) -> Result<Vec<Row>, Refusal> {
        let inputs = self.inputs(of, tokens);
        let Some(columns) = inputs.iter().flatten().map(Vec::len).next() else {
            return Ok(inputs);
        };
        let matrix = Matrix::read(&self.referee.gguf, &format!("{stem}.weight"), columns)?;
        let rounding = self.arithmetic.product(matrix.dtype);
        let rows: Vec<usize> = (0..matrix.rows).collect();
        let rounded: Vec<Rounded> = inputs.iter().flatten().map(|x| rounding.round(x)).collect();
        let mut products = product(&matrix, &rows, &rounded)?;
        if scaled {
            let scale = self.referee.vector(&format!("{stem}.scale"), 1)?;
            let bias = self.referee.vector(&format!("{stem}.bias"), matrix.rows)?;
            for product in &mut products {
                for (i, y) in product.iter_mut().enumerate() {
                    *y = *y * scale.as_ref().map_or(1.0, |s| s[0]) + bias.as_ref().map_or(0.0, |b| b[i]);
                }
            }
        }
        if cap.is_some() {
            for y in products.iter_mut().flatten() {
                *y = capped(*y, cap);
            }
        }
        let mut products = products.into_iter();
        let row = |input: Row| input.map(|_| products.next().unwrap_or_default());
        Ok(inputs.into_iter().map(row).collect())
    }

    /// What the cache does to keys and values.
    fn cache_rounding(&self) -> Result<Rounding, Refusal> {
        let dtype = self.arithmetic.cache;
        match dtype {
            DType::F32 => Ok(Rounding::None),
            DType::F16 | DType::BF16 | DType::Q8_0 => Ok(Rounding::candidates(dtype)[0]),
            other => Err(Refusal::Unknown(format!(
                "how a cache of {other} rounds is not known"
            ))),
        }
    }

    /// Positions from 0 to `last` of a token's sequence.
    fn history(token: Token, last: usize) -> impl Iterator<Item = Token> {
        (0..=last as i64).map(move |seq| Token { seq, ..token })
    }

    /// The rows of a cache that these tokens read, each once.
    fn cached(&self, of: At, tokens: impl Iterator<Item = Token>) -> BTreeMap<Token, Row> {
        let mut all: Vec<Token> = tokens.collect();
        all.sort_unstable();
        all.dedup();
        let rows = self.inputs(of, &all);
        all.into_iter().zip(rows).collect()
    }

    fn scores(&self, q: At, k: At, tokens: &[Token]) -> Vec<Row> {
        let spec = &self.referee.spec;
        let keys = tokens
            .iter()
            .flat_map(|&token| Self::history(token, token.seq.max(0) as usize));
        let keys = self.cached(k, keys);
        let (dim, group) = (spec.head_dim, spec.n_head / spec.n_head_kv);
        self.each(q, tokens, |q, token| {
            let q = self.arithmetic.attention.rounding.round(q).values;
            let seen: Vec<&[f64]> = Self::history(token, token.seq.max(0) as usize)
                .map(|at| keys[&at].as_deref().map_err(Clone::clone))
                .collect::<Result<_, _>>()?;
            let head = |(head, q): (usize, &[f64])| -> Vec<f64> {
                let from = head / group * dim;
                seen.iter().map(|k| dot(q, &k[from..from + dim])).collect()
            };
            Ok(q.chunks(dim).enumerate().flat_map(head).collect())
        })
    }

    fn context(&self, probs: At, v: At, tokens: &[Token]) -> Vec<Row> {
        let spec = &self.referee.spec;
        let (dim, group) = (spec.head_dim, spec.n_head / spec.n_head_kv);
        let probs = self.inputs(probs, tokens);
        let seen = |(token, row): (&Token, &Row)| -> Vec<Token> {
            let Ok(row) = row else { return Vec::new() };
            let keys = row.len() / spec.n_head;
            let used = |key: &usize| row.iter().skip(*key).step_by(keys).any(|&p| p != 0.0);
            let keys = (0..keys).filter(used);
            keys.map(|key| Token {
                seq: key as i64,
                ..*token
            })
            .collect()
        };
        let needed = tokens.iter().zip(&probs).flat_map(seen);
        let values = self.cached(v, needed);
        let row = |(token, row): (&Token, Row)| {
            let row = row?;
            let keys = row.len() / spec.n_head;
            let weights = self.arithmetic.attention.rounding.round_rows(&row, keys);
            let mut out = vec![0.0; spec.n_head * dim];
            for (head, out) in out.chunks_mut(dim).enumerate() {
                let from = head / group * dim;
                for key in 0..keys {
                    let p = weights[head * keys + key];
                    if p == 0.0 {
                        continue;
                    }
                    let at = Token {
                        seq: key as i64,
                        ..*token
                    };
                    let v = match values.get(&at) {
                        Some(v) => v.as_deref().map_err(Clone::clone)?,
                        None => return Err(Refusal::NotRecorded(v.stage.to_owned())),
                    };
                    for (out, v) in out.iter_mut().zip(&v[from..from + dim]) {
                        *out += p * v;
                    }
                }
            }
            Ok(out)
        };
        tokens.iter().zip(probs).map(row).collect()
    }
}
