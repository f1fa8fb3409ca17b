//! The local error of every record of one run.

use super::Indexed;
use crate::{Error, plan::Key};
use bitnet_referee::{Activations, Arithmetic, Recorded, Referee, Refusal, Token};
use bitnet_trace_store::Filter;
use std::collections::BTreeMap;

/// Tokens that are recomputed at a time: of logits, a row may have a million elements.
const TOKENS: usize = 32;

/// From how many records of a stage of a layer on none of them is an accident.
const SEVERAL: usize = 3;

/// One record against the exact result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The token.
    pub token: Token,
    /// ‖recorded − exact‖ / ‖exact‖; infinite where the recorded elements are not finite, or not zero as the exact
    /// ones are.
    pub rel_l2: f64,
    /// The same in units of what rounding is expected to do: beyond 1 the record is off.
    pub units: f64,
    expected: f64,
    /// The factor on the exact result, where the recorded one is that and nothing else (a cosine beyond 0.9995).
    pub scale: Option<f64>,
}

/// The records of a stage in one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct StageAudit {
    /// The stage.
    pub stage: &'static str,
    /// Its layer.
    pub layer: i32,
    /// The largest relative L2 that is expected of rounding, at the last of its positions.
    pub expected: f64,
    /// Every record that could be told, by request and position.
    pub records: Vec<Measured>,
    /// How many could not, by reason.
    pub refused: BTreeMap<Refusal, u64>,
}

/// The local errors of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// How the engine computes, as far as its results show it.
    pub arithmetic: Arithmetic,
    /// In the model's causal order.
    pub stages: Vec<StageAudit>,
    /// Records of stages that the model does not have, by stage.
    pub unknown: BTreeMap<String, u64>,
}

impl StageAudit {
    /// The records that are off.
    pub fn off(&self) -> impl Iterator<Item = &Measured> {
        self.records.iter().filter(|record| record.is_off())
    }

    /// The key of one of its records.
    pub fn key(&self, token: Token) -> Key {
        Key {
            request: token.request,
            seq: token.seq,
            layer: self.layer,
            stage: self.stage.into(),
        }
    }
}

impl Measured {
    /// Whether it is further from the exact result than rounding takes it.
    pub fn is_off(&self) -> bool {
        self.units > 1.0
    }

    /// The largest relative L2 that rounding explains.
    pub fn expected(&self) -> f64 {
        self.expected
    }

    fn of(token: Token, recorded: &[f64], exact: &[f64], expected: f64) -> Self {
        let (mut apart, mut size, mut along, mut own) = (0.0, 0.0, 0.0, 0.0);
        for (i, &found) in recorded.iter().enumerate() {
            // Probabilities may have keys beyond the token's own, which must be 0.
            let exact = exact.get(i).copied().unwrap_or(0.0);
            apart += (found - exact).powi(2);
            size += exact * exact;
            along += found * exact;
            own += found * found;
        }
        let rel_l2 = match apart {
            0.0 => 0.0,
            _ => (apart / size).sqrt(),
        };
        let rel_l2 = if rel_l2.is_nan() { f64::INFINITY } else { rel_l2 };
        Self {
            token,
            rel_l2,
            units: rel_l2 / expected,
            expected,
            scale: (along * along > 0.999 * size * own).then(|| along / size),
        }
    }
}

/// Which records are recomputed, and how. Their inputs are looked for among all.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Those that a filter takes.
    pub filter: Filter,
    /// At most so many tokens of each stage, from the first to the last.
    pub sample: Option<usize>,
    /// Which ways of rounding activations are tried.
    pub activations: Activations,
}

impl Which {
    fn tokens(&self, run: &Indexed<'_>, stage: &str, layer: i32) -> Vec<Token> {
        let mut tokens = run.tokens(stage, layer);
        tokens.retain(|&token| {
            let row = run.find(stage, layer, token);
            row.is_some_and(|row| self.filter.takes(run.side.records.meta(row)))
        });
        match self.sample {
            Some(most) if most < tokens.len() => {
                let step = (tokens.len() - 1) as f64 / (most.max(2) - 1) as f64;
                (0..most).map(|i| tokens[(i as f64 * step) as usize]).collect()
            }
            _ => tokens,
        }
    }
}

/// Recomputes the records of `run` that `which` takes and whose stage the model has; `progress` is told stages done and
/// in all.
///
/// # Errors
/// [`Error::Store`] where a record cannot be read.
pub fn audit(
    referee: &Referee,
    run: &Indexed<'_>,
    which: &Which,
    progress: &dyn Fn(usize, usize),
) -> Result<Audit, Error> {
    let arithmetic = referee.try_roundings(&run.all_tokens(), run, run.cache(), which.activations);
    run.release(|_, _| true);
    let all = referee.stages();
    let mut stages = Vec::new();
    let mut at = None;
    for (done, &(layer, stage)) in all.iter().enumerate() {
        progress(done, all.len());
        if let Some(before) = at.replace(layer).filter(|&before| before != layer) {
            run.release(|_, of| of == before);
        }
        let tokens = which.tokens(run, stage, layer);
        if !tokens.is_empty() {
            stages.push(stage_audit(referee, run, &arithmetic, (stage, layer), &tokens));
        }
        run.check()?;
    }
    run.release(|_, _| true);
    let known = |stage: &str, layer: i32| all.iter().any(|&(l, s)| (s, l) == (stage, layer));
    let mut unknown = BTreeMap::new();
    for (stage, layer, count) in run.stages() {
        if !known(stage, layer) {
            *unknown.entry(stage.to_owned()).or_default() += count as u64;
        }
    }
    Ok(Audit {
        arithmetic,
        stages,
        unknown,
    })
}

fn stage_audit(
    referee: &Referee,
    run: &Indexed<'_>,
    arithmetic: &Arithmetic,
    (stage, layer): (&'static str, i32),
    tokens: &[Token],
) -> StageAudit {
    let limits = |seq| referee.expected(stage, layer, seq, arithmetic);
    let expected = |seq| limits(seq).map_or(0.0, |e| e.rel_l2);
    let mut audit = StageAudit {
        stage,
        layer,
        expected: expected(tokens.last().map_or(0, |token| token.seq)),
        records: Vec::with_capacity(tokens.len()),
        refused: BTreeMap::new(),
    };
    for tokens in tokens.chunks(TOKENS) {
        let exact = match referee.exact(stage, layer, tokens, run, arithmetic) {
            Ok(exact) => exact,
            Err(refusal) => {
                *audit.refused.entry(refusal).or_default() += tokens.len() as u64;
                continue;
            }
        };
        for (&token, exact) in tokens.iter().zip(exact) {
            let told = exact.and_then(|exact| {
                let recorded = run.row(stage, layer, token);
                let recorded =
                    recorded.ok_or_else(|| Refusal::NotRecorded(format!("{stage} (its values)")))?;
                let longer = stage == "attn_probs" && recorded.len() > exact.len();
                let exact = match longer {
                    true => by_keys(&exact, recorded.len(), referee.spec().n_head),
                    false => exact,
                };
                if recorded.len() != exact.len() {
                    return Err(Refusal::Length {
                        stage: stage.to_owned(),
                        expected: exact.len(),
                        found: recorded.len(),
                    });
                }
                if exact.iter().any(|x| !x.is_finite()) {
                    return Err(Refusal::Unknown("its inputs are not finite".to_owned()));
                }
                Ok(Measured::of(token, &recorded, &exact, expected(token.seq)))
            });
            match told {
                Ok(measured) => audit.records.push(measured),
                Err(refusal) => *audit.refused.entry(refusal).or_default() += 1,
            }
        }
    }
    // A code that was rounded to its other neighbour is no fault, unless that happens again and again.
    let lone = |record: &Measured| limits(record.token.seq).map_or(0.0, |e| e.lone);
    if audit.off().count() < SEVERAL {
        for record in &mut audit.records {
            record.expected = lone(record);
            record.units = record.rel_l2 / record.expected;
        }
    }
    audit
}

/// Rows of fewer keys as rows of more, with zeros for the others.
fn by_keys(rows: &[f64], len: usize, heads: usize) -> Vec<f64> {
    let (from, to) = (rows.len() / heads, len / heads);
    let mut wide = vec![0.0; len];
    for (wide, row) in wide.chunks_mut(to.max(1)).zip(rows.chunks(from.max(1))) {
        wide[..row.len()].copy_from_slice(row);
    }
    wide
}
