//! What tells the architectures apart. All of them share one forward pass.

use crate::error::Error;
use crate::ops::Activation;
use crate::rope::Pairing;
use bitnet_gguf::Gguf;

/// How an architecture differs from the others; its sizes are in the file's metadata.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arch {
    /// `general.architecture`, which is also the prefix of its metadata keys.
    pub(crate) name: &'static str,
    /// Which elements of a head RoPE turns together.
    pub(crate) pairing: Pairing,
    /// The gate's non-linearity.
    pub(crate) activation: Activation,
    /// Whether an RMSNorm stands before the output projection and before the down projection.
    pub(crate) sub_norms: bool,
}

/// `llama`: Touvron et al. 2023. The BitNets: Ma et al. 2024 ("The Era of 1-bit LLMs"), of which `bitnet-b1.58` (and
/// `bitnet-25`, its name before release) is the one with ReLU²; the graphs are those of llama.cpp and of bitnet.cpp.
static ALL: [Arch; 4] = [
    Arch {
        name: "llama",
        // Its weights are permuted for it when they are converted to GGUF.
        pairing: Pairing::Interleaved,
        activation: Activation::Silu,
        sub_norms: false,
    },
    Arch {
        name: "bitnet",
        pairing: Pairing::Halves,
        activation: Activation::Silu,
        sub_norms: true,
    },
    Arch {
        name: "bitnet-b1.58",
        pairing: Pairing::Halves,
        activation: Activation::SquaredRelu,
        sub_norms: true,
    },
    Arch {
        name: "bitnet-25",
        pairing: Pairing::Halves,
        activation: Activation::SquaredRelu,
        sub_norms: true,
    },
];

/// The architectures that can be loaded (`general.architecture`).
pub const ARCHITECTURES: &[&str] = &[ALL[0].name, ALL[1].name, ALL[2].name, ALL[3].name];

impl Arch {
    /// The architecture of a file.
    pub(crate) fn of(gguf: &Gguf) -> Result<&'static Self, Error> {
        let name = gguf.str("general.architecture")?;
        const { &ALL }
            .iter()
            .find(|arch| arch.name == name)
            .ok_or_else(|| Error::Architecture {
                path: gguf.path().to_owned(),
                found: name.to_owned(),
                supported: ARCHITECTURES,
            })
    }
}
