use crate::{floor::FloorReason, local::LocalReason, local::Who, num, tolerance::Broken};
use std::fmt;

/// Why a pair diverged or could not be compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// Gates of the tolerance do not hold.
    Gates(Vec<Broken>),
    /// Beyond the floor, with other records of its stage.
    Floor(FloorReason),
    /// One side is not the exact result of its own recorded inputs.
    Local(LocalReason),
    /// A NaN or infinity against something else: the first such pair.
    NonFinite {
        /// Left element.
        left: f64,
        /// Right element.
        right: f64,
        /// How many such pairs there are.
        count: u64,
    },
    /// NaN at the same places on both sides, which is a match only when asked for.
    NanBoth {
        /// How many.
        count: u64,
    },
    /// Attention probability on keys that the other side's shorter rows leave out.
    FutureMass {
        /// Whether the left side has it.
        left: bool,
        /// Sum of the absolute values there.
        mass: f64,
        /// Row (head) of the largest one.
        row: usize,
        /// Its key.
        key: usize,
    },
    /// Statistics alone show that a gate cannot hold; the value is a lower bound.
    Bound(Broken),
    /// Statistics alone show it: other counts of NaN or infinity.
    OddCounts {
        /// NaN and infinite elements of the left side.
        left: (u64, u64),
        /// The same of the right side.
        right: (u64, u64),
    },
    /// Exactness was asked for, and the hashes differ.
    Hash,
    /// The hashes differ, and one side was imported with nothing else but its rms.
    HashAndRms {
        /// Relative difference of the rms, where both have one.
        rms: Option<f64>,
    },
    /// No correspondence between the shapes is known.
    Shapes {
        /// Left shape.
        left: Vec<i64>,
        /// Right shape.
        right: Vec<i64>,
    },
    /// Statistics are all there is, and they decide nothing.
    NoValues {
        /// Whether the left side has values.
        left: bool,
        /// Whether the right side has values.
        right: bool,
        /// Relative difference of the rms, where both have one.
        rms: Option<f64>,
    },
    /// Both tensors are empty.
    Empty,
    /// The engines were given different token ids from this position on.
    TokenIds {
        /// The position.
        from: i64,
    },
}

impl Reason {
    /// The reason's name in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gates(_) => "tolerance",
            Self::Floor(_) => "floor",
            Self::Local(_) => "local",
            Self::NonFinite { .. } => "non_finite",
            Self::NanBoth { .. } => "nan_both",
            Self::FutureMass { .. } => "future_mass",
            Self::Bound(_) => "statistics",
            Self::OddCounts { .. } => "non_finite_counts",
            Self::Hash => "hash",
            Self::HashAndRms { .. } => "hash_and_rms",
            Self::Shapes { .. } => "shapes",
            Self::NoValues { .. } => "no_values",
            Self::Empty => "empty",
            Self::TokenIds { .. } => "token_ids",
        }
    }

    /// Whether a record that could not be compared for this reason leaves the question of a match open,
    /// as opposed to one that holds nothing to compare or comes after what is known to differ.
    pub fn leaves_open(&self) -> bool {
        matches!(self, Self::Shapes { .. } | Self::NoValues { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gates(broken) => {
                let texts: Vec<String> = broken.iter().map(Broken::to_string).collect();
                f.write_str(&texts.join(", "))
            }
            Self::Floor(reason) => reason.fmt(f),
            Self::Local(reason) => {
                let side = match reason.side {
                    Who::Right => "right",
                    _ => "left",
                };
                let (rel_l2, expected) = (num::sci(reason.rel_l2), num::sci(reason.expected));
                write!(
                    f,
                    "the {side} side is off by relative L2 {rel_l2} from the exact result of its own recorded inputs \
                     (rounding explains {expected})"
                )?;
                match reason.both {
                    true => f.write_str(", and the other one is off as well"),
                    false => Ok(()),
                }
            }
            Self::NonFinite { left, right, count } => {
                let (left, right) = (num::sig(*left, 4), num::sig(*right, 4));
                write!(
                    f,
                    "{left} against {right} ({})",
                    num::plural(*count, "such element")
                )
            }
            Self::NanBoth { count } => {
                write!(f, "NaN on both sides ({})", num::plural(*count, "element"))
            }
            Self::FutureMass { left, mass, row, key } => {
                let side = if *left { "left" } else { "right" };
                let mass = num::sig(*mass, 3);
                write!(
                    f,
                    "mass on future keys: {mass} on the {side} side, most at [{row}, {key}]"
                )
            }
            Self::Bound(broken) => write!(f, "{broken} at least (from the statistics)"),
            Self::OddCounts { left, right } => write!(
                f,
                "{} NaN and {} infinite elements against {} and {}",
                left.0, left.1, right.0, right.1
            ),
            Self::Hash => f.write_str("the hashes differ"),
            Self::HashAndRms { rms } => {
                f.write_str("the hashes differ, ")?;
                match rms {
                    // A sum in another order.
                    Some(rms) if *rms < 1e-12 => f.write_str("the rms does not"),
                    Some(rms) => write!(f, "the rms by {}", num::sci(*rms)),
                    None => f.write_str("and the rms is not known on both sides"),
                }?;
                f.write_str("; a .trace record has no values to tell how far apart they are")
            }
            Self::Shapes { left, right } => write!(f, "shapes differ: {left:?} and {right:?}"),
            Self::NoValues { left, right, rms } => {
                let side = match (left, right) {
                    (false, false) => "either side",
                    (false, true) => "the left side",
                    _ => "the right side",
                };
                write!(f, "values were not recorded on {side}")?;
                rms.map_or(Ok(()), |r| {
                    write!(f, "; the hashes differ, the rms by {}", num::sci(r))
                })
            }
            Self::Empty => f.write_str("both tensors are empty"),
            Self::TokenIds { from } => write!(f, "token ids differ from seq={from} on"),
        }
    }
}
