//! Weights as candle tensors, checked against the shape that the architecture expects.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor, ggml_file};
use candle_core::{Device, Module, Tensor};

use crate::error::Error;
use crate::gguf::{Gguf, TensorInfo};

/// A weight matrix [rows (outputs), columns (inputs)], quantised or plain f32.
#[derive(Clone)]
pub(crate) enum Matrix {
    /// Kept in its blocks; products round the activations to 8 bits, as ggml's do.
    Quantized(Arc<QTensor>),
    /// F32, or F16 and BF16 widened to it.
    Dense(Tensor),
}

impl Matrix {
    /// `x` [T, columns] times this matrix transposed: [T, rows].
    pub(crate) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Quantized(weight) => QMatMul::QTensor(weight.clone()).forward(x),
            Self::Dense(weight) => x.matmul(&weight.t()?),
        }
    }

    /// Rows `ids` as f32: [ids, columns].
    pub(crate) fn rows(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        match self {
            Self::Quantized(weight) => weight.embedding(&ids),
            Self::Dense(weight) => weight.index_select(&ids, 0),
        }
    }
}

/// A projection with an optional bias.
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    /// `x` [T, inputs] to [T, outputs].
    pub(crate) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = self.weight.apply(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// Takes tensors out of a GGUF and remembers which were taken.
pub(crate) struct Loader<'a> {
    gguf: &'a Gguf,
    taken: BTreeSet<&'a str>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Loader<'a> {
    /// `progress` is told bytes read and bytes in all.
    pub(crate) fn new(gguf: &'a Gguf, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        let total = gguf.tensors().iter().map(|tensor| tensor.byte_len).sum();
        Self {
            gguf,
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
        let bytes = self.read(tensor)?;
        let dtype = candle_type(self.gguf, tensor)?;
        Ok(Some(match dtype {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => Matrix::Dense(to_f32(dtype, bytes, tensor)?),
            _ => Matrix::Quantized(Arc::new(to_qtensor(dtype, &bytes, tensor)?)),
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
        let bytes = self.read(tensor)?;
        Ok(Some(to_f32(candle_type(self.gguf, tensor)?, bytes, tensor)?))
    }

    /// The projection `<stem>.weight` [outputs, inputs] with `<stem>.bias` [outputs] when there is one.
    pub(crate) fn linear(&mut self, stem: &str, outputs: usize, inputs: usize) -> Result<Linear, Error> {
        let weight = self.matrix(&format!("{stem}.weight"), outputs, inputs)?;
        let bias = self.vector_opt(&format!("{stem}.bias"), outputs)?;
        Ok(Linear { weight, bias })
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

/// candle's type for a tensor's, where it has kernels for it.
pub(crate) fn candle_type(gguf: &Gguf, tensor: &TensorInfo) -> Result<GgmlDType, Error> {
    Ok(match tensor.ggml_type.name() {
        "F32" => GgmlDType::F32,
        "F16" => GgmlDType::F16,
        "BF16" => GgmlDType::BF16,
        "Q4_0" => GgmlDType::Q4_0,
        "Q4_1" => GgmlDType::Q4_1,
        "Q5_0" => GgmlDType::Q5_0,
        "Q5_1" => GgmlDType::Q5_1,
        "Q8_0" => GgmlDType::Q8_0,
        "Q2_K" => GgmlDType::Q2K,
        "Q3_K" => GgmlDType::Q3K,
        "Q4_K" => GgmlDType::Q4K,
        "Q5_K" => GgmlDType::Q5K,
        "Q6_K" => GgmlDType::Q6K,
        type_name => {
            return Err(Error::TensorType {
                path: gguf.path().to_owned(),
                name: tensor.name.clone(),
                type_name,
            });
        }
    })
}

fn to_qtensor(dtype: GgmlDType, bytes: &[u8], tensor: &TensorInfo) -> Result<QTensor, Error> {
    Ok(ggml_file::qtensor_from_ggml(
        dtype,
        bytes,
        tensor.shape.clone(),
        &Device::Cpu,
    )?)
}

/// A tensor's values as f32, dequantised where needed.
pub(crate) fn to_f32(dtype: GgmlDType, bytes: Vec<u8>, tensor: &TensorInfo) -> Result<Tensor, Error> {
    if dtype == GgmlDType::F32 {
        let (chunks, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        return Ok(Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu)?);
    }
    Ok(to_qtensor(dtype, &bytes, tensor)?.dequantize(&Device::Cpu)?)
}
