//! Which records a run keeps: the expression of `BITNET_TRACE_SELECT`.
//!
//! ```text
//! selection   = [ alternative { ";" alternative } ]            a record is kept if any alternative holds
//! alternative = term { "," term }                              ... that is, if all of its terms hold
//! term        = key ( "=" | "!=" ) value { "|" value }         one of the values, or none of them
//! key         = "seq" | "layer" | "stage" | "request"
//! value       = number | range                                 of seq, layer and request
//!             | pattern                                        of stage
//! number      = [ "-" ] digit { digit }                        below 0 only for layer: -1 and -2
//! range       = number "-" [ number ]                          4-9, or 4- for 4 and all above; not below 0
//! pattern     = character { character }                        A-Z a-z 0-9 _ - . and * (any characters), ? (one)
//! ```
//!
//! Blanks may stand around every key, operator, number, `-` of a range, pattern, `|`, `,` and `;`. The empty
//! expression selects everything. There are at most [`MAX_ALTERNATIVES`] alternatives. A pattern need not name
//! a stage of the vocabulary, as engines may have stages of their own. What cannot select anything
//! (`seq=1,seq=2`) is an error, and so is an empty alternative, which would select everything.
//!
//! | Expression | Records |
//! |---|---|
//! | `seq=0-2,layer=6,stage=attn_*` | positions 0 to 2 of layer 6's stages that begin with `attn_` |
//! | `seq=0-2,layer=6;layer=-1` | positions 0 to 2 of layer 6, and embeddings, final norm and logits of all positions |
//! | `stage=q_*\|k_*,layer!=1-` | stages that begin with `q_` or `k_`, of layer 0 |
//! | `stage!=attn_scores\|attn_probs` | all but these two |

mod error;
mod parse;
mod ranges;

pub use error::{SelectionError, SelectionProblem};

use ranges::Ranges;
use std::{fmt, ops::RangeInclusive, str::FromStr};

/// Most alternatives of a [`Selection`].
pub const MAX_ALTERNATIVES: usize = 64;

/// Which records are wanted, by their key. See the [module](self) for the language.
///
/// ```
/// use bitnet_trace_schema::selection::Selection;
///
/// let selection: Selection = "seq=0-2, layer=6, stage=attn_*; layer=-1".parse()?;
/// assert!(selection.tokens("attn_out", 6).wants(2, 0));
/// assert!(selection.tokens("logits", -1).wants(99, 0));
/// assert!(selection.tokens("ffn_norm", 6).is_empty());
///
/// let error = "seq=0,layer=six".parse::<Selection>().expect_err("not a number");
/// assert_eq!((error.column(), error.token()), (13, "six"));
/// # Ok::<(), bitnet_trace_schema::selection::SelectionError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    alternatives: Vec<Alternative>,
}

/// One alternative: as it was written, and ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alternative {
    terms: Vec<Term>,
    layer: Ranges,
    request: Ranges,
    seq: Ranges,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    key: Key,
    /// Written with `!=`.
    excludes: bool,
    values: Values,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Values {
    Numbers(Vec<Range>),
    Patterns(Vec<String>),
}

/// A number, or a range of them; `last` is missing where it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: i64,
    last: Option<i64>,
}

/// What a term looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The token's position.
    Seq,
    /// The layer.
    Layer,
    /// The stage.
    Stage,
    /// The sequence of a batch.
    Request,
}

impl Key {
    /// Every key.
    pub const ALL: [Self; 4] = [Self::Seq, Self::Layer, Self::Stage, Self::Request];

    /// The key's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seq => "seq",
            Self::Layer => "layer",
            Self::Stage => "stage",
            Self::Request => "request",
        }
    }

    /// Least and greatest number; those of `seq` for `stage`, which has none.
    const fn bounds(self) -> (i64, i64) {
        match self {
            Self::Layer => (crate::LAYER_ALL as i64, i32::MAX as i64),
            Self::Request => (0, i32::MAX as i64),
            Self::Seq | Self::Stage => (0, i64::MAX),
        }
    }
}

impl Selection {
    /// Whether every record is wanted: the empty expression.
    pub fn is_everything(&self) -> bool {
        self.alternatives.iter().any(|a| a.terms.is_empty())
    }

    /// Which tokens of a tensor are wanted. Allocates nothing.
    pub fn tokens(&self, stage: &str, layer: i32) -> Tokens<'_> {
        let mut holding = 0;
        for (i, alternative) in self.alternatives.iter().enumerate() {
            if alternative.layer.contains(layer.into()) && alternative.takes_stage(stage) {
                holding |= 1 << i;
            }
        }
        Tokens {
            alternatives: &self.alternatives,
            holding,
        }
    }

    /// The patterns of wanted stages that match none of `stages`, in the order of the expression: one of
    /// them may be misspelt.
    pub fn strangers<'a>(&'a self, stages: &[&str]) -> Vec<&'a str> {
        let terms = self.alternatives.iter().flat_map(|a| &a.terms);
        let patterns = terms.filter(|t| !t.excludes).flat_map(|term| match &term.values {
            Values::Patterns(patterns) => patterns.as_slice(),
            Values::Numbers(_) => &[],
        });
        patterns
            .filter(|pattern| !stages.iter().any(|stage| glob(pattern, stage)))
            .map(String::as_str)
            .collect()
    }
}

/// The tokens of one tensor that a [`Selection`] wants.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    alternatives: &'a [Alternative],
    /// A bit for each alternative that holds for the tensor's stage and layer.
    holding: u64,
}

impl Tokens<'_> {
    /// Whether no token is wanted, whatever its position and request.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.holding == 0
    }

    /// Whether the token at position `seq` of `request` is wanted.
    #[inline]
    pub fn wants(&self, seq: i64, request: i32) -> bool {
        self.wants_any(seq..=seq, request)
    }

    /// Whether a token of `request` at any of these positions is wanted.
    #[inline]
    pub fn wants_any(&self, seqs: RangeInclusive<i64>, request: i32) -> bool {
        let mut holding = self.holding;
        while holding != 0 {
            let Some(alternative) = self.alternatives.get(holding.trailing_zeros() as usize) else {
                return false;
            };
            if alternative.seq.meets(*seqs.start(), *seqs.end())
                && alternative.request.contains(request.into())
            {
                return true;
            }
            holding &= holding - 1;
        }
        false
    }
}

impl Alternative {
    fn everything() -> Self {
        Self {
            terms: Vec::new(),
            layer: Ranges::all(),
            request: Ranges::all(),
            seq: Ranges::all(),
        }
    }

    /// Makes the terms ready to be asked.
    ///
    /// # Errors
    /// The key of which no value satisfies them all.
    fn new(terms: Vec<Term>) -> Result<Self, Key> {
        let mut new = Self::everything();
        for term in &terms {
            let Values::Numbers(values) = &term.values else {
                continue;
            };
            let numbers = match term.key {
                Key::Layer => &mut new.layer,
                Key::Request => &mut new.request,
                Key::Seq | Key::Stage => &mut new.seq,
            };
            let values = Ranges::of(values);
            *numbers = numbers.common(&if term.excludes { values.others() } else { values });
            let (least, most) = term.key.bounds();
            if !numbers.meets(least, most) {
                return Err(term.key);
            }
        }
        new.terms = terms;
        if new.refuses_every_stage() {
            return Err(Key::Stage);
        }
        Ok(new)
    }

    /// Whether it can be told from the patterns alone that no stage satisfies them: all are excluded, or
    /// each of the words listed is.
    fn refuses_every_stage(&self) -> bool {
        let plain = |pattern: &String| !pattern.contains(['*', '?']);
        self.terms.iter().any(|term| match &term.values {
            Values::Numbers(_) => false,
            Values::Patterns(patterns) if term.excludes => {
                patterns.iter().any(|p| p.bytes().all(|c| c == b'*'))
            }
            Values::Patterns(words) => words.iter().all(|word| plain(word) && !self.takes_stage(word)),
        })
    }

    /// Whether the terms about the stage hold.
    fn takes_stage(&self, stage: &str) -> bool {
        self.terms.iter().all(|term| match &term.values {
            Values::Patterns(patterns) => patterns.iter().any(|p| glob(p, stage)) != term.excludes,
            Values::Numbers(_) => true,
        })
    }
}

impl FromStr for Selection {
    type Err = SelectionError;

    fn from_str(text: &str) -> Result<Self, SelectionError> {
        parse::selection(text)
    }
}

/// The expression without needless blanks; it parses to the same selection.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, &self.alternatives, ';', |f, alternative| {
            join(f, &alternative.terms, ',', |f, term| write!(f, "{term}"))
        })
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.key.name(), if self.excludes { "!=" } else { "=" })?;
        match &self.values {
            Values::Patterns(patterns) => join(f, patterns, '|', |f, pattern| f.write_str(pattern)),
            Values::Numbers(ranges) => join(f, ranges, '|', |f, range| match *range {
                Range { first, last: None } => write!(f, "{first}-"),
                Range { first, last } if last == Some(first) => write!(f, "{first}"),
                Range {
                    first,
                    last: Some(last),
                } => write!(f, "{first}-{last}"),
            }),
        }
    }
}

fn join<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    between: char,
    mut each: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            write!(f, "{between}")?;
        }
        each(f, item)?;
    }
    Ok(())
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters and `?` for one.
///
/// ```
/// use bitnet_trace_schema::selection::glob;
/// assert!(glob("attn_*", "attn_out") && glob("?_proj", "q_proj") && !glob("attn", "attn_out"));
/// ```
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, bytes) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // where the last star stands, and where the text behind it begins: going back to it is enough
    let mut star: Option<(usize, usize)> = None;
    while t < bytes.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') if text.is_char_boundary(t) => {
                p += 1;
                t += 1;
                while !text.is_char_boundary(t) {
                    t += 1;
                }
            }
            Some(&c) if c == bytes[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, begin)) => {
                    *begin += 1;
                    p = *at + 1;
                    t = *begin;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests;
