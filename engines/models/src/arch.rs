//! Choosing the architecture by the GGUF's name for it.

use candle_core::{Result as CandleResult, Tensor};

use crate::config::Config;
use crate::error::Error;
#[cfg(feature = "faults")]
use crate::fault::Faults;
use crate::gguf::Gguf;
use crate::kv_cache::KvCache;
use crate::llama::Llama;
use crate::taps::Pass;

/// The architectures that can be loaded (`general.architecture`).
pub const ARCHITECTURES: &[&str] = &["llama"];

/// A model of any of them.
pub(crate) enum Model {
    Llama(Llama),
}

impl Model {
    pub(crate) fn load(gguf: &Gguf, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, Error> {
        match gguf.str("general.architecture")? {
            "llama" => Ok(Self::Llama(Llama::load(gguf, progress)?)),
            other => Err(Error::Architecture {
                path: gguf.path().to_owned(),
                found: other.to_owned(),
                supported: ARCHITECTURES,
            }),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        match self {
            Self::Llama(llama) => llama.config(),
        }
    }

    pub(crate) fn n_vocab(&self) -> usize {
        match self {
            Self::Llama(llama) => llama.n_vocab(),
        }
    }

    /// Logits [T, V] of `ids` at the positions after `cache`, or [1, V] of the last when `last_only`.
    pub(crate) fn forward(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        last_only: bool,
        pass: &Pass<'_>,
        #[cfg(feature = "faults")] faults: &Faults<'_>,
    ) -> CandleResult<Tensor> {
        match self {
            Self::Llama(llama) => llama.forward(
                ids,
                cache,
                last_only,
                pass,
                #[cfg(feature = "faults")]
                faults,
            ),
        }
    }
}
