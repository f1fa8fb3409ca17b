//! Faults that can be planted in the forward pass, at one layer or all and from a
//! given position on, so that a test can show that a trace diff names the exact
//! place. Only compiled with the feature `faults`.

use std::fmt;
use std::str::FromStr;

use crate::config::Config;
use crate::error::Error;
use crate::model::Model;
use crate::ops::Activation;

mod classes;
mod plant;

use classes::Kind;
pub use classes::{FAULTS, FaultClass};
pub(crate) use plant::Faults;

/// A fault with its place. Parsed from `NAME[=VALUE][@layer=L][,from=P][,stage=S]`.
///
/// ```
/// use bitnet_models::Fault;
/// let fault: Fault = "weight-scale=2@layer=6,from=3,stage=ffn_up".parse()?;
/// assert_eq!((fault.class.name, fault.value), ("weight-scale", Some(2.0)));
/// assert_eq!(fault.first_shown(), (3, 6, "ffn_up"));
/// # Ok::<(), bitnet_models::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub class: &'static FaultClass,
    /// The number that the class takes, if it takes one.
    pub value: Option<f32>,
    /// The layer; every layer when `None`, and where the stage has no layers.
    pub layer: Option<usize>,
    /// The first position (counted from 0) at which it goes wrong.
    pub from: usize,
    /// The one stage at which it is planted; the class's own when `None`.
    pub stage: Option<&'static str>,
}

/// Stages without a layer.
const OF_MODEL: [&str; 3] = ["embeddings", "final_norm", "logits"];

impl Fault {
    /// The stages at which it is planted, in causal order.
    pub fn stages(&self) -> &[&'static str] {
        match &self.stage {
            Some(stage) => std::slice::from_ref(stage),
            None => self.class.stages,
        }
    }

    /// (seq, layer, stage) of the record that shows it first; the layer is -1 where the stage has none.
    ///
    /// Two classes look beyond their own token. Without a causal mask, a position shows it only if a later one is in the
    /// same batch. And attention multiplies a later token's infinity or NaN by a probability of 0, which is NaN: in the
    /// layers after the fault, earlier tokens of the same batch have it, too.
    pub fn first_shown(&self) -> (i64, i32, &'static str) {
        let stage = self.stages()[0];
        let layer = match OF_MODEL.contains(&stage) {
            true => -1,
            false => self.layer.unwrap_or(0) as i32,
        };
        (self.from.max(self.class.first_position) as i64, layer, stage)
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::Fault {
            spec: self.to_string(),
            reason: reason.into(),
        }
    }

    /// Fails when planting it in this model would change nothing.
    pub(crate) fn check(&self, model: &Model) -> Result<(), Error> {
        let config = &model.config;
        if let Some(layer) = self.layer {
            let stage = self.stages()[0];
            if OF_MODEL.contains(&stage) {
                return Err(self.error(format!("{stage} is of no layer")));
            }
            if layer >= config.n_layer {
                return Err(self.error(format!("the model has layers 0 to {}", config.n_layer - 1)));
            }
        }
        if self.stages()[0].ends_with("sub_norm") && !model.arch.sub_norms {
            return Err(self.error("the model has no sub-norms"));
        }
        match self.nothing_changes(config, model.arch.activation) {
            Some(why) => Err(self.error(format!("{why}, so nothing would change"))),
            None => Ok(()),
        }
    }

    /// Why the faulty operation would be the right one.
    fn nothing_changes(&self, config: &Config, activation: Activation) -> Option<String> {
        let value = self.value.unwrap_or_default();
        let own = |what: &str| Some(format!("{value} is the model's own {what}"));
        match self.class.kind {
            Kind::RopeBase if value == config.rope_base => own("base"),
            Kind::RmsEps if value == config.rms_eps => own("epsilon"),
            Kind::EmbdScale | Kind::WeightScale | Kind::BlockScale | Kind::RopeScale | Kind::AttnScale
                if value == 1.0 =>
            {
                Some("a factor of 1 is none".to_owned())
            }
            Kind::SwapKvHead if config.n_head_kv == 1 => {
                Some("the model has one key and value head".to_owned())
            }
            Kind::TiledHeads if [1, config.n_head].contains(&config.n_head_kv) => Some(format!(
                "the model has {} key and value heads for {} query heads",
                config.n_head_kv, config.n_head
            )),
            Kind::HeadMerge if config.n_head == 1 => Some("the model has one head".to_owned()),
            Kind::Silu if activation == Activation::Silu => Some("that is the model's own".to_owned()),
            Kind::SquaredRelu if activation == Activation::SquaredRelu => {
                Some("that is the model's own".to_owned())
            }
            _ => None,
        }
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(spec: &str) -> Result<Self, Error> {
        let fail = |reason: String| Error::Fault {
            spec: spec.to_owned(),
            reason,
        };
        let (what, place) = match spec.split_once(['@', ',']) {
            Some((what, place)) => (what, Some(place)),
            None => (spec, None),
        };
        let (name, value) = match what.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (what, None),
        };
        let class = FAULTS.iter().find(|class| class.name == name).ok_or_else(|| {
            let known: Vec<_> = FAULTS.iter().map(FaultClass::form).collect();
            fail(format!(
                "there is no fault {name:?}; there are {}",
                known.join(", ")
            ))
        })?;
        let value = match (class.value, value) {
            (Some(_), Some(text)) => Some(positive(text).map_err(fail)?),
            (None, None) => None,
            (Some(_), None) => return Err(fail(format!("{name} needs a value, such as {name}=2"))),
            (None, Some(_)) => return Err(fail(format!("{name} takes no value"))),
        };
        let mut fault = Self {
            class,
            value,
            layer: None,
            from: 0,
            stage: None,
        };
        for part in place.iter().flat_map(|place| place.split(',')) {
            let bad = || {
                fail(format!(
                    "{part:?} is not layer=NUMBER, from=NUMBER or stage=STAGE"
                ))
            };
            let (key, at) = part.split_once('=').ok_or_else(bad)?;
            let number = || at.parse::<usize>().map_err(|_| bad());
            match key {
                "layer" => fault.layer = Some(number()?),
                "from" => fault.from = number()?,
                "stage" => fault.stage = Some(stage(class, at).map_err(fail)?),
                _ => return Err(bad()),
            }
        }
        Ok(fault)
    }
}

fn positive(text: &str) -> Result<f32, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if f32::is_finite(number) && number > 0.0 {
        Ok(number)
    } else {
        Err(format!("{text} is not a positive number"))
    }
}

fn stage(class: &'static FaultClass, name: &str) -> Result<&'static str, String> {
    let known = [class.stages, class.elsewhere].concat();
    let found = known.iter().find(|&&stage| stage == name);
    found.copied().ok_or_else(|| {
        format!(
            "{} can't be planted at {name:?}; it can at {}",
            class.name,
            known.join(", ")
        )
    })
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.name)?;
        if let Some(value) = self.value {
            write!(f, "={value}")?;
        }
        match self.layer {
            Some(layer) => write!(f, "@layer={layer},from={}", self.from)?,
            None => write!(f, "@from={}", self.from)?,
        }
        match self.stage {
            Some(stage) => write!(f, ",stage={stage}"),
            None => Ok(()),
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
            "rms-eps=0.01@from=2,stage=ffn_norm",
            "missing-residual@layer=0,from=0",
            "swap-kv-head@from=0",
        ] {
            assert_eq!(spec.parse::<Fault>().unwrap().to_string(), spec);
        }
        assert_eq!("swap-kv-head".parse::<Fault>().unwrap().layer, None);
        assert_eq!("swap-kv-head,from=2".parse::<Fault>().unwrap().from, 2);
        for class in FAULTS {
            let spec = class
                .value
                .map_or(class.name.to_owned(), |_| format!("{}=5", class.name));
            let fault: Fault = spec.parse().unwrap();
            assert_eq!(fault.class, class);
            for stage in class.stages.iter().chain(class.elsewhere) {
                let spec = format!("{fault},stage={stage}");
                assert_eq!(spec.parse::<Fault>().unwrap().to_string(), spec);
            }
        }
    }

    #[test]
    fn no_two_classes_have_one_name() {
        for (i, class) in FAULTS.iter().enumerate() {
            assert!(
                FAULTS[..i].iter().all(|other| other.name != class.name),
                "{}",
                class.name
            );
        }
    }

    #[test]
    fn a_fault_is_first_shown_at_its_first_stage_and_layer() {
        for (spec, shown) in [
            ("rope-base=5000", (1, 0, "q_rope")),
            ("rope-base=5000@layer=6,from=3,stage=k_rope", (3, 6, "k_rope")),
            ("embd-scale=2@from=4", (4, -1, "embeddings")),
            ("bias=1", (0, 0, "q_proj")),
        ] {
            assert_eq!(spec.parse::<Fault>().unwrap().first_shown(), shown, "{spec}");
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
            ("swap-kv-head@stage=logits", "it can at attn_scores"),
        ] {
            let error = spec.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(reason), "{spec}: {error}");
        }
    }
}
