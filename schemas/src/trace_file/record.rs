use super::error::{Shown, TraceProblem};
use crate::{DType, LAYER_ALL, LAYER_MODEL, RecordMeta, StageGraph, StageScope, Stats};
use serde::{Deserialize, Serialize};

/// Longest text of a record, in bytes.
pub(super) const MAX_TEXT: usize = 4096;
/// Most dimensions of a tensor.
pub(super) const MAX_DIMS: usize = 64;

/// The names that the older tracing crate gives stages, in the vocabulary's aliases.
const FAMILY: &str = "trace";

/// An object of a `.trace` file: `FORMAT.md` has the keys. What is absent or null is `None`; unknown keys
/// are ignored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceRecord {
    /// The engine's own name of the tensor, such as `t0/blk6/attn_out`.
    pub name: Option<String>,
    /// Shape, row-major.
    pub shape: Option<Vec<i64>>,
    /// Element type before any conversion. Not used: `blake3_of` says what was hashed.
    pub dtype: Option<String>,
    /// BLAKE3 of the elements.
    pub blake3: Option<String>,
    /// Root mean square.
    pub rms: Option<f64>,
    /// Number of elements.
    pub num_elements: Option<i64>,
    /// Token position.
    pub seq: Option<i64>,
    /// Layer, -1 and -2 as in [`RecordMeta`].
    pub layer: Option<i64>,
    /// Stage.
    pub stage: Option<String>,
    /// Dtype of the bytes that were hashed; F32 where it is absent, for the older crate widens first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blake3_of: Option<String>,
    /// Which sequence of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<i64>,
    /// Which forward call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<i64>,
    /// Order of execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op_index: Option<i64>,
    /// The engine's own name of the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Arithmetic mean of the finite elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Smallest finite element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest finite element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Largest absolute value of a finite element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abs_max: Option<f64>,
    /// NaN elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nan_count: Option<i64>,
    /// Infinite elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inf_count: Option<i64>,
}

impl From<&RecordMeta> for TraceRecord {
    fn from(meta: &RecordMeta) -> Self {
        let signed = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
        let stats = &meta.stats;
        Self {
            // What the older crate requires; engines need not name their tensors.
            name: Some(if meta.name.is_empty() {
                meta.stage.to_string()
            } else {
                meta.name.to_string()
            }),
            shape: Some(meta.shape.clone()),
            dtype: Some(meta.dtype.name().to_owned()),
            blake3: (!meta.blake3.is_empty()).then(|| meta.blake3.clone()),
            rms: stats.rms,
            num_elements: Some(meta.num_elements),
            seq: Some(meta.seq),
            layer: Some(meta.layer.into()),
            stage: Some(meta.stage.to_string()),
            blake3_of: (meta.dtype != DType::F32).then(|| meta.dtype.name().to_owned()),
            request: Some(meta.request.into()),
            pass: Some(meta.pass.into()),
            op_index: Some(meta.op_index),
            op: (!meta.op.is_empty()).then(|| meta.op.to_string()),
            mean: stats.mean,
            min: stats.min,
            max: stats.max,
            abs_max: stats.abs_max,
            nan_count: signed(stats.nan_count),
            inf_count: signed(stats.inf_count),
        }
    }
}

impl TraceRecord {
    /// The record as a line of a `.trace` file, without its end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The record's metadata; `op_index` and `occurrence` are for the caller to set.
    ///
    /// What is missing of the key is taken from the name (`t3/blk6/attn_out` is position 3, layer 6,
    /// `attn_out`), else position 0 and the layer that the vocabulary gives the stage. The dtype is that of
    /// the bytes that were hashed.
    ///
    /// # Errors
    /// [`TraceProblem`].
    pub fn into_meta(self, graph: &StageGraph) -> Result<RecordMeta, TraceProblem> {
        let name = text("name", self.name)?;
        let stage = text("stage", self.stage)?;
        let op = text("op", self.op)?;
        let word = match (stage.is_empty(), name.rsplit('/').next()) {
            (false, _) => stage.as_str(),
            (true, Some(last)) if !last.is_empty() => last,
            _ => return Err(TraceProblem::NoStage),
        };
        let known = graph.get(word).or_else(|| graph.by_alias(FAMILY, word, ""));
        let layer = self
            .layer
            .or_else(|| numbered(&name, &["blk", "layers", "layer"]));
        let layer = layer.unwrap_or_else(|| match known.map(|s| s.scope) {
            Some(StageScope::AllLayers) => LAYER_ALL.into(),
            _ => LAYER_MODEL.into(),
        });
        let stage = known.map_or_else(|| word.to_owned(), |s| s.name.clone());
        let seq = self.seq.or_else(|| numbered(&name, &["t"])).unwrap_or(0);
        let blake3 = hash(self.blake3)?;
        if blake3.is_empty() && self.rms.is_none() {
            return Err(TraceProblem::NothingToCompare);
        }
        let dtype = match self.blake3_of {
            None => DType::F32,
            Some(name) => name.parse().map_err(|_| TraceProblem::DType(shortened(name)))?,
        };
        let (shape, num_elements) = elements(self.shape, self.num_elements)?;
        let (nan_count, inf_count) = (
            within("nan_count", self.nan_count.unwrap_or(0), 0, num_elements)?,
            within("inf_count", self.inf_count.unwrap_or(0), 0, num_elements)?,
        );
        within("inf_count", nan_count.saturating_add(inf_count), 0, num_elements)?;
        for (key, value) in [("rms", self.rms), ("abs_max", self.abs_max)] {
            if let Some(value) = value.filter(|&x| x < 0.0) {
                let value = Shown::Real(value);
                return Err(TraceProblem::Number { key, value });
            }
        }
        Ok(RecordMeta {
            seq: within("seq", seq, 0, i64::MAX)?,
            layer: within("layer", layer, LAYER_ALL.into(), i32::MAX.into())? as i32,
            stage: stage.into(),
            name: name.into(),
            op: op.into(),
            op_index: within("op_index", self.op_index.unwrap_or(0), 0, i64::MAX)?,
            request: within("request", self.request.unwrap_or(0), 0, i32::MAX.into())? as i32,
            pass: within("pass", self.pass.unwrap_or(0), 0, i32::MAX.into())? as i32,
            occurrence: 0,
            shape,
            dtype,
            num_elements,
            blake3,
            stats: Stats {
                rms: self.rms,
                mean: self.mean,
                min: self.min,
                max: self.max,
                abs_max: self.abs_max,
                nan_count: nan_count.unsigned_abs(),
                inf_count: inf_count.unsigned_abs(),
            },
        })
    }
}

fn within(key: &'static str, value: i64, least: i64, most: i64) -> Result<i64, TraceProblem> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let value = Shown::Integer(value);
    Err(TraceProblem::Number { key, value })
}

fn text(key: &'static str, value: Option<String>) -> Result<String, TraceProblem> {
    let value = value.unwrap_or_default();
    match value.len() {
        0..=MAX_TEXT => Ok(value),
        bytes => Err(TraceProblem::Text { key, bytes }),
    }
}

/// What an error shows of a text.
fn shortened(text: String) -> String {
    text.chars().take(40).collect()
}

fn hash(value: Option<String>) -> Result<String, TraceProblem> {
    match value {
        None => Ok(String::new()),
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(hex.to_ascii_lowercase())
        }
        Some(_) => Err(TraceProblem::Hash),
    }
}

/// The number in a component of a name such as `t3/blk6/attn_out`, after one of these words.
fn numbered(name: &str, words: &[&str]) -> Option<i64> {
    name.split('/').find_map(|component| {
        let digits = words.iter().find_map(|word| component.strip_prefix(word))?;
        let digits = digits.strip_prefix(['.', '_', '-']).unwrap_or(digits);
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok())?
    })
}

fn elements(shape: Option<Vec<i64>>, count: Option<i64>) -> Result<(Vec<i64>, i64), TraceProblem> {
    let shape = match (shape, count) {
        (Some(shape), _) => shape,
        (None, Some(count)) => vec![count],
        (None, None) => return Err(TraceProblem::NoShape),
    };
    if shape.len() > MAX_DIMS {
        return Err(TraceProblem::Shape);
    }
    let product = shape
        .iter()
        .try_fold(1i64, |n, &d| if d < 0 { None } else { n.checked_mul(d) });
    match (product, count) {
        (None, _) => Err(TraceProblem::Shape),
        (Some(n), Some(found)) if n != found => Err(TraceProblem::Elements { found, shape }),
        (Some(n), _) => Ok((shape, n)),
    }
}
