//! Weights as candle tensors, checked against the shape that the architecture expects.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitnet_trace_schema::{DType, quant};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor, ggml_file};
use candle_core::{Device, Module, Tensor};
use half::{bf16, f16};

use crate::activations::Activations;
use crate::error::Error;
use crate::ternary::Ternary;
use bitnet_gguf::{Gguf, TensorInfo};

/// A weight matrix [rows (outputs), columns (inputs)], quantised or plain f32.
#[derive(Clone)]
pub(crate) enum Matrix {
    /// Kept in its blocks; products round the activations to 8 bits, as ggml's do.
    Quantized(Arc<QTensor>),
    /// The same of the types that candle does not have.
    Ternary(Arc<Ternary>),
    /// F32, or whatever else widened to it.
    Dense(Tensor),
}

impl Matrix {
    /// `x` [T, columns] times this matrix transposed: [T, rows].
    pub(crate) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Quantized(weight) => QMatMul::QTensor(weight.clone()).forward(x),
            Self::Ternary(weight) => weight.apply(x),
            Self::Dense(weight) => x.matmul(&weight.t()?),
        }
    }

    /// Rows `ids` as f32: [ids, columns].
    pub(crate) fn rows(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let indices = || Tensor::new(ids, &Device::Cpu);
        match self {
            Self::Quantized(weight) => weight.embedding(&indices()?),
            Self::Ternary(weight) => weight.dequantized(ids),
            Self::Dense(weight) => weight.index_select(&indices()?, 0),
        }
    }
}

/// A projection with an optional scale, which BitNet models in TQ types and F32 have beside the weight, and an optional
/// bias.
pub(crate) struct Linear {
    weight: Matrix,
    scale: Option<Tensor>,
    bias: Option<Tensor>,
}

impl Linear {
    /// `x` [T, inputs] to [T, outputs].
    pub(crate) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut y = self.weight.apply(x)?;
        if let Some(scale) = &self.scale {
            y = y.broadcast_mul(scale)?;
        }
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        Ok(y)
    }
}

/// Takes tensors out of a GGUF and remembers which were taken.
pub(crate) struct Loader<'a> {
    gguf: &'a Gguf,
    activations: Activations,
    taken: BTreeSet<&'a str>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Loader<'a> {
    /// `progress` is told bytes read and bytes in all.
    pub(crate) fn new(
        gguf: &'a Gguf,
        activations: Activations,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        let total = gguf.tensors().iter().map(|tensor| tensor.byte_len).sum();
        Self {
            gguf,
            activations,
            taken: BTreeSet::new(),
            done: 0,
            total,
            progress,
        }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Option<&'a TensorInfo>, Error> {
        let Some(tensor) = self.gguf.tensor(name) else {
            return Ok(None);
        };
        if tensor.shape != shape {
            return Err(Error::TensorShape {
                path: self.gguf.path().to_owned(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        self.taken.insert(&tensor.name);
        Ok(Some(tensor))
    }

    fn missing(&self, name: &str) -> Error {
        Error::MissingTensor {
            path: self.gguf.path().to_owned(),
            name: name.to_owned(),
        }
    }

    fn read(&mut self, tensor: &TensorInfo) -> Result<Vec<u8>, Error> {
        let bytes = self.gguf.read_tensor(tensor)?;
        self.done += tensor.byte_len;
        (self.progress)(self.done, self.total);
        Ok(bytes)
    }

    /// Rows of the matrix `name`, whatever they are; used where a tensor says the vocabulary's size.
    pub(crate) fn row_count(&self, name: &str) -> Result<usize, Error> {
        let tensor = self.gguf.tensor(name).ok_or_else(|| self.missing(name))?;
        Ok(tensor.shape[0])
    }

    /// The matrix `name` of shape [rows, columns].
    pub(crate) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, Error> {
        self.matrix_opt(name, rows, columns)?
            .ok_or_else(|| self.missing(name))
    }

    /// The matrix `name`, or `None` when the file has none.
    pub(crate) fn matrix_opt(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<Matrix>, Error> {
        let Some(tensor) = self.take(name, &[rows, columns])? else {
            return Ok(None);
        };
        let dtype = dtype(self.gguf, tensor)?;
        let bytes = self.read(tensor)?;
        Ok(Some(match candle_kernel(dtype) {
            _ if !dtype.is_packed() || self.activations == Activations::Exact => {
                Matrix::Dense(to_f32(dtype, bytes, tensor)?)
            }
            Some(kernel) => Matrix::Quantized(Arc::new(ggml_file::qtensor_from_ggml(
                kernel,
                &bytes,
                tensor.shape.clone(),
                &Device::Cpu,
            )?)),
            None => {
                let fused = self.activations == Activations::ReferenceFma;
                Matrix::Ternary(Arc::new(Ternary::new(dtype, bytes, rows, columns, fused)?))
            }
        }))
    }

    /// The vector `name` as f32 [len].
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Tensor, Error> {
        self.vector_opt(name, len)?.ok_or_else(|| self.missing(name))
    }

    /// The vector `name`, or `None` when the file has none.
    pub(crate) fn vector_opt(&mut self, name: &str, len: usize) -> Result<Option<Tensor>, Error> {
        let Some(tensor) = self.take(name, &[len])? else {
            return Ok(None);
        };
        let dtype = dtype(self.gguf, tensor)?;
        Ok(Some(to_f32(dtype, self.read(tensor)?, tensor)?))
    }

    /// The projection `<stem>.weight` [outputs, inputs] with `<stem>.scale` [1] and `<stem>.bias` [outputs] when
    /// there are such.
    pub(crate) fn linear(&mut self, stem: &str, outputs: usize, inputs: usize) -> Result<Linear, Error> {
        let weight = self.matrix(&format!("{stem}.weight"), outputs, inputs)?;
        let scale = self.vector_opt(&format!("{stem}.scale"), 1)?;
        let bias = self.vector_opt(&format!("{stem}.bias"), outputs)?;
        Ok(Linear { weight, scale, bias })
    }

    /// Fails when the file holds tensors that nobody asked for.
    pub(crate) fn finish(self, arch: &str) -> Result<(), Error> {
        let mut unused = self
            .gguf
            .tensors()
            .iter()
            .filter(|tensor| !self.taken.contains(tensor.name.as_str()));
        let Some(first) = unused.next() else { return Ok(()) };
        Err(Error::UnusedTensors {
            path: self.gguf.path().to_owned(),
            arch: arch.to_owned(),
            count: 1 + unused.count(),
            name: first.name.clone(),
        })
    }
}

/// The element type of a weight.
///
/// # Errors
/// [`Error::TensorType`] for those that cannot be computed with.
pub(crate) fn dtype(gguf: &Gguf, tensor: &TensorInfo) -> Result<DType, Error> {
    let type_name = tensor.ggml_type.name();
    match type_name.parse() {
        Ok(dtype @ (DType::F32 | DType::F16 | DType::BF16 | DType::TQ1_0 | DType::TQ2_0 | DType::I2_S)) => {
            Ok(dtype)
        }
        Ok(dtype) if candle_kernel(dtype).is_some() => Ok(dtype),
        _ => Err(Error::TensorType {
            path: gguf.path().to_owned(),
            name: tensor.name.clone(),
            type_name,
        }),
    }
}

/// candle's type, where it has kernels for a packed one.
fn candle_kernel(dtype: DType) -> Option<GgmlDType> {
    Some(match dtype {
        DType::Q4_0 => GgmlDType::Q4_0,
        DType::Q4_1 => GgmlDType::Q4_1,
        DType::Q5_0 => GgmlDType::Q5_0,
        DType::Q5_1 => GgmlDType::Q5_1,
        DType::Q8_0 => GgmlDType::Q8_0,
        DType::Q2_K => GgmlDType::Q2K,
        DType::Q3_K => GgmlDType::Q3K,
        DType::Q4_K => GgmlDType::Q4K,
        DType::Q5_K => GgmlDType::Q5K,
        DType::Q6_K => GgmlDType::Q6K,
        _ => return None,
    })
}

/// A tensor's values as f32, dequantised where needed.
pub(crate) fn to_f32(dtype: DType, mut bytes: Vec<u8>, tensor: &TensorInfo) -> Result<Tensor, Error> {
    fn each<const N: usize>(bytes: &[u8], value: fn([u8; N]) -> f32) -> Vec<f32> {
        bytes
            .as_chunks::<N>()
            .0
            .iter()
            .map(|&chunk| value(chunk))
            .collect()
    }
    let values = match dtype {
        DType::F32 => each(&bytes, f32::from_le_bytes),
        DType::F16 => each(&bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        DType::BF16 => each(&bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        _ => {
            let elements = tensor.shape.iter().product();
            // A file may have padding behind a tensor's scale.
            if let Some(len) = dtype.bytes(elements as u64) {
                bytes.truncate(len as usize);
            }
            let mut values = vec![0.0; elements];
            quant::dequantize(dtype, &bytes, &mut values).map_err(candle_core::Error::wrap)?;
            values
        }
    };
    Ok(Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu)?)
}
