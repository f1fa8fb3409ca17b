//! How far two records may be apart and still match.
//!
//! A [`Tolerance`] is a list of rules; the last rule that matches a record gives its [`Gates`], all of
//! which must hold. It is printed with every verdict that it gave. A tolerance file is TOML:
//!
//! ```toml
//! [default]               # where no rule matches; without it, rel_l2 = 1e-4
//! rel_l2 = 1e-4
//!
//! [[rule]]                # the last rule that matches replaces all gates of those before it
//! stage = "attn_*"        # glob of the stage; leave a condition out to match all
//! dtype = "F16"           # dtype of either side
//! layer = "0-5"           # a layer, or a range of them
//! rel_l2 = 1e-2           # |b - a| / |a|, Euclidean norms, a = left
//! max_abs = 0.5           # largest |b - a| of an element
//! max_rel = 0.1           # largest |b - a| / max(|a|, |b|) of an element
//! ulp = 4                 # largest distance of an element in units in the last place
//! cosine = 0.999          # smallest cosine similarity
//!
//! [[rule]]
//! stage = "embeddings"
//! exact = true            # every element equal in value
//! ```

use crate::{
    metrics::{Distance, Metrics},
    num,
    select::Span,
};
use bitnet_trace_schema::{DType, selection::glob};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The built-in largest relative L2: for F32 weights, about 100 times what two right engines differ by.
pub const DEFAULT_REL_L2: f64 = 1e-4;

/// Limits that must all hold. At least one is set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Gates {
    /// Every element must be equal in value.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// Largest [`Metrics::rel_l2`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rel_l2: Option<f64>,
    /// Largest [`Metrics::max_abs`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f64>,
    /// Largest [`Metrics::max_rel`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rel: Option<f64>,
    /// Largest [`Metrics::max_ulp`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ulp: Option<u64>,
    /// Smallest [`Metrics::cosine`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
}

/// A gate that does not hold: the measure's name, its value and the limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Broken {
    /// `exact`, `rel_l2`, `max_abs`, `max_rel`, `ulp` or `cosine`.
    pub gate: &'static str,
    /// What was measured.
    #[serde(serialize_with = "num::json")]
    pub value: f64,
    /// What was allowed.
    #[serde(serialize_with = "num::json")]
    pub limit: f64,
}

/// Why a tolerance cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ToleranceError {
    /// Not TOML, or with a key or value that is not known. The message names the key and the line.
    #[error("the tolerance file is not valid: {0}")]
    Toml(#[from] toml::de::Error),
    /// A limit that nothing, or everything, would satisfy.
    #[error("{place}: {gate} = {value} is not a limit; it must be {range}")]
    Value {
        /// The table, or the flag.
        place: String,
        /// The gate.
        gate: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed, in words.
        range: &'static str,
    },
    /// A rule without a limit.
    #[error("{0} sets no limit; give one of exact = true, rel_l2, max_abs, max_rel, ulp, cosine")]
    NoGate(String),
    /// A condition that is not one.
    #[error("{place}: {message}")]
    Condition {
        /// The table.
        place: String,
        /// What is wrong.
        message: String,
    },
}

impl Gates {
    /// Only [`Gates::rel_l2`].
    pub fn rel_l2(limit: f64) -> Self {
        Self {
            rel_l2: Some(limit),
            ..Self::default()
        }
    }

    /// Checks that there is a limit, and that each one can be broken and kept.
    ///
    /// # Errors
    /// [`ToleranceError::NoGate`] and [`ToleranceError::Value`]; `place` names the table or flag.
    pub fn check(self, place: &str) -> Result<Self, ToleranceError> {
        if self == Self::default() {
            return Err(ToleranceError::NoGate(place.to_owned()));
        }
        let distances = [
            ("rel_l2", self.rel_l2),
            ("max_abs", self.max_abs),
            ("max_rel", self.max_rel),
        ];
        let value = |gate, value, range| ToleranceError::Value {
            place: place.to_owned(),
            gate,
            value,
            range,
        };
        for (gate, limit) in distances {
            if let Some(x) = limit.filter(|x| !x.is_finite() || *x < 0.0) {
                return Err(value(gate, x, "a finite number, 0 or more"));
            }
        }
        match self.cosine.filter(|x| !(-1.0..=1.0).contains(x)) {
            Some(x) => Err(value("cosine", x, "from -1 to 1")),
            None => Ok(self),
        }
    }

    /// Whether a distance without NaN is enough to tell that every gate holds.
    pub(crate) fn hold(&self, d: &Distance) -> bool {
        self.max_rel.is_none()
            && self.ulp.is_none()
            && self.rel_l2.is_none_or(|limit| d.rel_l2 <= limit)
            && self.max_abs.is_none_or(|limit| d.max_abs <= limit)
            && self.cosine.is_none_or(|limit| d.cosine >= limit)
            && (!self.exact || d.max_abs == 0.0)
    }

    /// The gates that `m` does not pass. A measure that is NaN passes none.
    pub fn broken(&self, m: &Metrics) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut gate = |gate, value: f64, limit: Option<f64>, holds: fn(f64, f64) -> bool| {
            if let Some(limit) = limit.filter(|&limit| !holds(value, limit)) {
                broken.push(Broken { gate, value, limit });
            }
        };
        let at_most = |value, limit| value <= limit;
        gate("rel_l2", m.rel_l2, self.rel_l2, at_most);
        gate("max_abs", m.max_abs, self.max_abs, at_most);
        gate("max_rel", m.max_rel, self.max_rel, at_most);
        let ulp = self.ulp.map(|limit| limit as f64);
        gate("ulp", m.max_ulp as f64, ulp, at_most);
        gate("cosine", m.cosine, self.cosine, |value, limit| value >= limit);
        if self.exact && !m.equal {
            broken.push(Broken {
                gate: "exact",
                value: m.max_abs,
                limit: 0.0,
            });
        }
        broken
    }
}

impl fmt::Display for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.exact {
            parts.push("exact".to_owned());
        }
        let distances = [
            ("relative L2", self.rel_l2),
            ("max |Δ|", self.max_abs),
            ("max relative Δ", self.max_rel),
        ];
        for (name, limit) in distances {
            if let Some(limit) = limit {
                parts.push(format!("{name} <= {}", num::sci(limit)));
            }
        }
        if let Some(limit) = self.ulp {
            parts.push(format!("max ULP <= {limit}"));
        }
        if let Some(limit) = self.cosine {
            parts.push(format!("cosine >= {limit}"));
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = num::sci_beside(self.value, self.limit);
        let limit = num::sci(self.limit);
        match self.gate {
            "rel_l2" => write!(f, "relative L2 {beside} > {limit}"),
            "max_abs" => write!(f, "max |Δ| {beside} > {limit}"),
            "max_rel" => write!(f, "max relative Δ {beside} > {limit}"),
            "ulp" => write!(f, "max ULP {} > {}", self.value, self.limit),
            "cosine" => write!(f, "cosine {} < {}", num::cosine(self.value), self.limit),
            _ => write!(f, "not exactly equal, max |Δ| {}", num::sci(self.value)),
        }
    }
}

/// Which gates hold for which records.
#[derive(Debug, Clone, PartialEq)]
pub struct Tolerance {
    default: Gates,
    default_source: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq)]
struct Rule {
    stage: Option<String>,
    dtype: Option<DType>,
    layer: Option<Span>,
    gates: Gates,
    source: String,
}

/// The gates of one record, and where they come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Applied {
    /// The gates.
    #[serde(flatten)]
    pub gates: Gates,
    /// `default`, the flags, or the rule of the file.
    pub source: String,
    /// Both, as people read them.
    pub text: String,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self::all(Gates::rel_l2(DEFAULT_REL_L2), "default")
    }
}

impl Tolerance {
    /// The same gates for every record; `source` says where they come from.
    pub fn all(gates: Gates, source: &str) -> Self {
        Self {
            default: gates,
            default_source: source.to_owned(),
            rules: Vec::new(),
        }
    }

    /// Reads a tolerance file; `file` is its name in messages and verdicts.
    ///
    /// # Errors
    /// [`ToleranceError`], one variant for each way the file can be unusable.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, ToleranceError> {
        let parsed: File = toml::from_str(text)?;
        let mut tolerance = Self::default();
        if let Some(default) = parsed.default {
            tolerance.default = default.gates().check("[default]")?;
            tolerance.default_source = format!("[default] of {file}");
        }
        for (i, entry) in parsed.rule.into_iter().enumerate() {
            let place = format!("[[rule]] number {}", i + 1);
            let condition = |message: String| ToleranceError::Condition {
                place: place.clone(),
                message,
            };
            let dtype = entry.dtype.as_deref().map(str::parse::<DType>).transpose();
            let layer = match &entry.layer {
                None => None,
                Some(Layer::Number(n)) => Some(Span::from(*n)),
                Some(Layer::Text(t)) => Some(t.parse::<Span>().map_err(|e| condition(format!("layer {e}")))?),
            };
            tolerance.rules.push(Rule {
                dtype: dtype.map_err(|e| condition(e.to_string()))?,
                layer,
                gates: entry.gates().check(&place)?,
                source: format!("rule {} of {file}", i + 1),
                stage: entry.stage,
            });
        }
        Ok(tolerance)
    }

    /// The gates of a record; `dtypes` are those of its two sides.
    pub fn gates(&self, stage: &str, layer: i32, dtypes: [DType; 2]) -> (&Gates, &str) {
        let rule = self.rules.iter().rev().find(|r| {
            r.stage.as_deref().is_none_or(|pattern| glob(pattern, stage))
                && r.dtype.is_none_or(|d| dtypes.contains(&d))
                && r.layer.is_none_or(|span| span.contains(layer.into()))
        });
        rule.map_or((&self.default, &self.default_source), |r| (&r.gates, &r.source))
    }

    /// [`Tolerance::gates`] as a value that stands on its own.
    pub fn applied(&self, stage: &str, layer: i32, dtypes: [DType; 2]) -> Applied {
        let (gates, source) = self.gates(stage, layer, dtypes);
        Applied::new(*gates, source)
    }

    /// Whether some gates limit nothing but the cosine, which is the same at any scale.
    pub fn sees_no_scale(&self) -> bool {
        let all = self.rules.iter().map(|r| r.gates).chain([self.default]);
        all.map(|gates| Gates {
            cosine: None,
            ..gates
        })
        .any(|rest| rest == Gates::default())
    }

    /// Whether this is the built-in tolerance.
    pub fn is_builtin(&self) -> bool {
        *self == Self::default()
    }
}

impl Applied {
    /// A measured floor.
    pub(crate) fn floor(file: &str, text: &str) -> Self {
        Self {
            gates: Gates::default(),
            source: file.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The model's own mathematics.
    pub(crate) fn referee() -> Self {
        Self {
            gates: Gates::default(),
            source: "referee".to_owned(),
            text: "the exact result of its own recorded inputs, but for rounding".to_owned(),
        }
    }

    /// Gates and where they come from.
    pub fn new(gates: Gates, source: &str) -> Self {
        Self {
            text: format!("{gates} ({source})"),
            source: source.to_owned(),
            gates,
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.default, self.default_source)?;
        match self.rules.len() {
            0 => Ok(()),
            1 => f.write_str(" and 1 rule"),
            n => write!(f, " and {n} rules"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Option<DefaultEntry>,
    #[serde(default)]
    rule: Vec<Entry>,
}

// Serde cannot flatten a struct and refuse unknown keys, so the gates stand in both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DefaultEntry {
    #[serde(default)]
    exact: bool,
    rel_l2: Option<f64>,
    max_abs: Option<f64>,
    max_rel: Option<f64>,
    ulp: Option<u64>,
    cosine: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    stage: Option<String>,
    dtype: Option<String>,
    layer: Option<Layer>,
    #[serde(default)]
    exact: bool,
    rel_l2: Option<f64>,
    max_abs: Option<f64>,
    max_rel: Option<f64>,
    ulp: Option<u64>,
    cosine: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layer {
    Number(i64),
    Text(String),
}

impl DefaultEntry {
    fn gates(&self) -> Gates {
        Gates {
            exact: self.exact,
            rel_l2: self.rel_l2,
            max_abs: self.max_abs,
            max_rel: self.max_rel,
            ulp: self.ulp,
            cosine: self.cosine,
        }
    }
}

impl Entry {
    fn gates(&self) -> Gates {
        Gates {
            exact: self.exact,
            rel_l2: self.rel_l2,
            max_abs: self.max_abs,
            max_rel: self.max_rel,
            ulp: self.ulp,
            cosine: self.cosine,
        }
    }
}

#[cfg(test)]
#[path = "tolerance_tests.rs"]
mod tests;
