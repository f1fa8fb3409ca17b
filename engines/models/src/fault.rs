//! Faults that can be planted in the forward pass, one layer at a time and from a
//! given position on, so that a test can show that a trace diff names the exact
//! place. Only compiled with the feature `faults`.

use std::fmt;
use std::str::FromStr;

use crate::config::Config;
use crate::error::Error;

mod plant;

pub(crate) use plant::Faults;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FaultKind {
    /// RoPE with another base frequency, for queries and keys.
    RopeBase(f32),
    /// Another epsilon in the norm before attention.
    RmsEps(f32),
    /// Another epsilon in the norm before the feed-forward network.
    FfnRmsEps(f32),
    /// The residual around attention is not added.
    MissingResidual,
    /// Every query head reads the key and value head after its own.
    SwapKvHead,
}

/// A fault with its place. Parsed from `NAME[=VALUE][@layer=L][,from=P]`.
///
/// ```
/// use bitnet_models::{Fault, FaultKind};
/// let fault: Fault = "rope-base=5000@layer=6,from=3".parse()?;
/// assert_eq!(fault, Fault { kind: FaultKind::RopeBase(5000.0), layer: Some(6), from: 3 });
/// # Ok::<(), bitnet_models::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// The layer; every layer when `None`.
    pub layer: Option<usize>,
    /// The first position (counted from 0) at which it goes wrong.
    pub from: usize,
}

/// What can be planted: (how to write it, what it does, the stage that shows it first).
pub const FAULTS: &[(&str, &str, &str)] = &[
    (
        "rope-base=BASE",
        "RoPE with another base frequency",
        "q_rope and k_rope, from position 1",
    ),
    (
        "rms-eps=EPS",
        "another epsilon in the norm before attention",
        "attn_norm",
    ),
    (
        "ffn-rms-eps=EPS",
        "another epsilon in the norm before the feed-forward network",
        "ffn_norm",
    ),
    (
        "missing-residual",
        "the residual around attention is not added",
        "attn_residual",
    ),
    (
        "swap-kv-head",
        "every query head reads the next key and value head",
        "attn_scores",
    ),
];

impl FromStr for Fault {
    type Err = Error;

    fn from_str(spec: &str) -> Result<Self, Error> {
        let fail = |reason: String| Error::Fault {
            spec: spec.to_owned(),
            reason,
        };
        let (what, place) = match spec.split_once('@') {
            Some((what, place)) => (what, Some(place)),
            None => match spec.split_once(',') {
                Some((what, place)) => (what, Some(place)),
                None => (spec, None),
            },
        };
        let (name, value) = match what.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (what, None),
        };
        let number = || -> Result<f32, Error> {
            let text = value.ok_or_else(|| fail(format!("{name} needs a value, such as {name}=1e-2")))?;
            let number = text
                .parse()
                .map_err(|_| fail(format!("{text:?} is not a number")))?;
            if f32::is_finite(number) && number > 0.0 {
                Ok(number)
            } else {
                Err(fail(format!("{text} is not a positive number")))
            }
        };
        let kind = match name {
            "rope-base" => FaultKind::RopeBase(number()?),
            "rms-eps" => FaultKind::RmsEps(number()?),
            "ffn-rms-eps" => FaultKind::FfnRmsEps(number()?),
            "missing-residual" => FaultKind::MissingResidual,
            "swap-kv-head" => FaultKind::SwapKvHead,
            _ => {
                let known: Vec<_> = FAULTS.iter().map(|(form, ..)| *form).collect();
                return Err(fail(format!(
                    "there is no fault {name:?}; there are {}",
                    known.join(", ")
                )));
            }
        };
        if matches!(kind, FaultKind::MissingResidual | FaultKind::SwapKvHead) && value.is_some() {
            return Err(fail(format!("{name} takes no value")));
        }
        let mut fault = Self {
            kind,
            layer: None,
            from: 0,
        };
        for part in place.iter().flat_map(|place| place.split(',')) {
            let bad = || fail(format!("{part:?} is not layer=NUMBER or from=NUMBER"));
            let (key, number) = part.split_once('=').ok_or_else(bad)?;
            let number: usize = number.parse().map_err(|_| bad())?;
            match key {
                "layer" => fault.layer = Some(number),
                "from" => fault.from = number,
                _ => return Err(bad()),
            }
        }
        Ok(fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FaultKind::RopeBase(base) => write!(f, "rope-base={base}")?,
            FaultKind::RmsEps(eps) => write!(f, "rms-eps={eps}")?,
            FaultKind::FfnRmsEps(eps) => write!(f, "ffn-rms-eps={eps}")?,
            FaultKind::MissingResidual => f.write_str("missing-residual")?,
            FaultKind::SwapKvHead => f.write_str("swap-kv-head")?,
        }
        match self.layer {
            Some(layer) => write!(f, "@layer={layer},from={}", self.from),
            None => write!(f, "@from={}", self.from),
        }
    }
}

impl Fault {
    /// Fails when planting it in this model would change nothing.
    pub(crate) fn check(&self, config: &Config) -> Result<(), Error> {
        let fail = |reason: String| {
            Err(Error::Fault {
                spec: self.to_string(),
                reason,
            })
        };
        if let Some(layer) = self.layer
            && layer >= config.n_layer
        {
            return fail(format!("the model has layers 0 to {}", config.n_layer - 1));
        }
        match self.kind {
            FaultKind::RopeBase(base) if base == config.rope_base => {
                fail(format!("{base} is the model's own base, so nothing would change"))
            }
            FaultKind::RmsEps(eps) | FaultKind::FfnRmsEps(eps) if eps == config.rms_eps => fail(format!(
                "{eps} is the model's own epsilon, so nothing would change"
            )),
            FaultKind::SwapKvHead if config.n_head_kv == 1 => {
                fail("the model has one key and value head, so nothing would change".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_fault_parses_and_prints_back() {
        for spec in [
            "rope-base=5000@layer=6,from=3",
            "rms-eps=0.01@layer=6,from=0",
            "ffn-rms-eps=0.01@from=2",
            "missing-residual@layer=0,from=0",
            "swap-kv-head@from=0",
        ] {
            assert_eq!(spec.parse::<Fault>().unwrap().to_string(), spec);
        }
        assert_eq!("swap-kv-head".parse::<Fault>().unwrap().layer, None);
        assert_eq!("swap-kv-head,from=2".parse::<Fault>().unwrap().from, 2);
        for (form, ..) in FAULTS {
            let spec = form.replace("BASE", "5").replace("EPS", "1");
            assert!(spec.parse::<Fault>().is_ok(), "{form}");
        }
    }

    #[test]
    fn a_bad_fault_is_refused_with_the_reason() {
        for (spec, reason) in [
            ("rope", "no fault \"rope\""),
            ("", "no fault"),
            ("rope-base", "needs a value"),
            ("rope-base=x", "not a number"),
            ("rms-eps=nan", "not a positive number"),
            ("rms-eps=-1", "not a positive number"),
            ("swap-kv-head=1", "takes no value"),
            ("swap-kv-head@layer", "\"layer\" is not"),
            ("swap-kv-head@layer=-1", "\"layer=-1\" is not"),
            ("swap-kv-head@depth=1", "\"depth=1\" is not"),
        ] {
            let error = spec.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(reason), "{spec}: {error}");
        }
    }
}
