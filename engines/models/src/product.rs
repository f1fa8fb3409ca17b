//! One product of the forward pass by itself.

use candle_core::{Device, Tensor};

use crate::activations::Activations;
use crate::error::Error;
use crate::weights::Loader;
use bitnet_gguf::Gguf;

/// The product of `x` [T, columns] (row-major) with the weight matrix `weight` [rows, columns] of a file, as an engine
/// computes it that was loaded with `activations`: [T, rows].
///
/// Computed from what another engine recorded as a stage's input, it tells what that stage itself adds to a difference,
/// free of all that differed before.
///
/// # Errors
/// [`Error::MissingTensor`], [`Error::TensorShape`] for a tensor that is no matrix, [`Error::TensorType`],
/// [`Error::ActivationCount`] where `x` is no whole number of tokens, [`Error::Read`].
pub fn product(gguf: &Gguf, weight: &str, activations: Activations, x: &[f32]) -> Result<Vec<f32>, Error> {
    let mut progress = |_, _| {};
    let mut loader = Loader::new(gguf, activations, &mut progress);
    let rows = loader.row_count(weight)?;
    let columns = gguf.tensor(weight).and_then(|tensor| tensor.shape.get(1));
    let columns = columns.copied().unwrap_or(1);
    let matrix = loader.matrix(weight, rows, columns)?;
    if !x.len().is_multiple_of(columns) {
        return Err(Error::ActivationCount {
            weight: weight.to_owned(),
            columns,
            found: x.len(),
        });
    }
    let x = Tensor::from_slice(x, (x.len() / columns, columns), &Device::Cpu)?;
    Ok(matrix.apply(&x)?.flatten_all()?.to_vec1()?)
}
