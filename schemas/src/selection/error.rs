use super::{Key, MAX_ALTERNATIVES};
use std::{fmt, ops};

/// Text that is not a [`Selection`](super::Selection): what is wrong with it, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectionError {
    pub(super) expression: String,
    /// The bad token in bytes; empty where something is missing.
    pub(super) place: ops::Range<usize>,
    pub(super) problem: SelectionProblem,
}

/// What is wrong with an expression. Each variant's text ends with what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionProblem {
    /// Nothing on one side of a `;`.
    #[error(
        "an alternative is empty, which would select everything; write terms on both sides of ';', or no ';'"
    )]
    EmptyAlternative,
    /// Nothing on one side of a `,`.
    #[error("a term is empty; write key=value on both sides of ',', or no ','")]
    EmptyTerm,
    /// No key where one should stand.
    #[error("a key is missing; begin with seq, layer, stage or request, and exclude with !=, as in layer!=3")]
    MissingKey,
    /// Another word than a key.
    #[error("this is not a key; use seq, layer, stage or request")]
    UnknownKey,
    /// A key without `=` or `!=`.
    #[error("'=' or '!=' is missing after {}; write {}", .0.name(), example(*.0))]
    MissingOperator(Key),
    /// Nothing after `=`, `!=` or `|`.
    #[error("a value of {} is missing; write {}", .0.name(), example(*.0))]
    MissingValue(Key),
    /// An `!` before a value.
    #[error("'!' stands before a value; to exclude, write {}!=value", .0.name())]
    NegatedValue(Key),
    /// A value that should be a number.
    #[error("this is not a number; write {}", example(*.0))]
    NotANumber(Key),
    /// A number that the key does not have.
    #[error("{} is {} to {}; write {}", .0.name(), .0.bounds().0, .0.bounds().1, example(*.0))]
    OutOfRange(Key),
    /// A range whose end is below its beginning.
    #[error("the range ends before it begins; write the lower number first")]
    ReversedRange,
    /// A range that begins or ends below 0.
    #[error("a range cannot begin or end below 0; list such layers, as in layer=-1|0-5")]
    NegativeRange,
    /// A character that no stage has.
    #[error(
        "this character cannot stand in a stage; use letters, digits, _ - . and * (any characters) or ? (one)"
    )]
    StageCharacter,
    /// Something between a value and the next `|`, `,` or `;`.
    #[error("this was not expected; put '|' between values, ',' between terms or ';' between alternatives")]
    Unexpected,
    /// Terms of one alternative that no record satisfies together.
    #[error("no {} satisfies all terms of this alternative; separate alternatives with ';', values with '|'", .0.name())]
    Contradiction(Key),
    /// Too many alternatives.
    #[error("more than {MAX_ALTERNATIVES} alternatives; join some with '|'")]
    TooManyAlternatives,
}

/// What a value of a key looks like.
fn example(key: Key) -> &'static str {
    match key {
        Key::Seq => "seq=3, seq=0-5, seq=4- or seq=0|7-9",
        Key::Layer => "layer=3, layer=0-5, layer=4-, layer=-1 or layer=-1|0-5",
        Key::Stage => "stage=attn_out, stage=attn_* or stage=q_*|k_*",
        Key::Request => "request=0, request=0-3 or request=2-",
    }
}

impl SelectionError {
    /// What is wrong.
    pub fn problem(&self) -> &SelectionProblem {
        &self.problem
    }

    /// Where the bad token begins: in characters, from 1.
    pub fn column(&self) -> usize {
        self.expression[..self.place.start].chars().count() + 1
    }

    /// The bad token; empty where something is missing.
    pub fn token(&self) -> &str {
        &self.expression[self.place.clone()]
    }

    /// The expression in one line, and in a second one carets under the bad token.
    pub fn excerpt(&self) -> String {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = self.expression.chars().map(plain).collect();
        let carets = self.token().chars().count().max(1);
        format!(
            "  {line}\n  {}{}",
            " ".repeat(self.column() - 1),
            "^".repeat(carets)
        )
    }
}

impl fmt::Display for SelectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}", self.column())?;
        match self.token() {
            "" => {}
            token => write!(f, ", {token:?}")?,
        }
        write!(f, ": {} (in the selection {:?})", self.problem, self.expression)
    }
}

impl std::error::Error for SelectionError {}
