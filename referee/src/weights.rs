//! The model's weights, read when a stage asks for them.

use crate::Refusal;
use bitnet_gguf::{Gguf, TensorInfo};
use bitnet_trace_schema::{DType, quant};
use half::{bf16, f16};

/// A weight matrix [rows (outputs), columns (inputs)] as it is in the file.
pub(crate) struct Matrix {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    bytes: Vec<u8>,
    /// Bytes of a row.
    stride: usize,
    /// The scale of `I2_S`.
    tail: [u8; 4],
}

impl Matrix {
    /// Reads the matrix `name`, which must have `columns` columns.
    pub(crate) fn read(gguf: &Gguf, name: &str, columns: usize) -> Result<Self, Refusal> {
        let tensor = tensor(gguf, name)?;
        let &[rows, found] = tensor.shape.as_slice() else {
            return Err(Refusal::Weight(format!(
                "{name} is no matrix: {:?}",
                tensor.shape
            )));
        };
        if found != columns {
            let problem = format!("{name} has {found} columns, {columns} activations come to it");
            return Err(Refusal::Weight(problem));
        }
        let dtype = dtype(tensor)?;
        let bytes = bytes(gguf, tensor)?;
        // The GGUF reader has checked that rows are whole blocks and lie in the file.
        let stride = columns / dtype.block() * dtype.size();
        let tail = bytes
            .get(rows * stride..)
            .and_then(|tail| tail.first_chunk::<4>());
        Ok(Self {
            dtype,
            rows,
            columns,
            tail: tail.copied().unwrap_or_default(),
            bytes,
            stride,
        })
    }

    /// The bytes of row `row`.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.stride..][..self.stride]
    }

    /// Row `row` as f32, dequantised as ggml does.
    pub(crate) fn dequantize(&self, row: usize, out: &mut [f32]) -> Result<(), Refusal> {
        let bytes = self.row(row);
        match self.dtype {
            DType::I2_S => {
                let with_scale = [bytes, &self.tail].concat();
                packed(self.dtype, &with_scale, out)
            }
            _ => widen(self.dtype, bytes, out),
        }
    }
}

/// The vector `name` of `len` elements; none where the model has none.
pub(crate) fn vector(gguf: &Gguf, name: &str, len: usize) -> Result<Option<Vec<f64>>, Refusal> {
    let Some(info) = gguf.tensor(name) else {
        return Ok(None);
    };
    if info.shape != [len] {
        return Err(Refusal::Weight(format!(
            "{name} has the shape {:?}, not [{len}]",
            info.shape
        )));
    }
    let mut values = vec![0.0; len];
    widen(dtype(info)?, &bytes(gguf, info)?, &mut values)?;
    Ok(Some(values.into_iter().map(f64::from).collect()))
}

pub(crate) fn tensor<'a>(gguf: &'a Gguf, name: &str) -> Result<&'a TensorInfo, Refusal> {
    gguf.tensor(name)
        .ok_or_else(|| Refusal::Weight(format!("{name} is missing")))
}

pub(crate) fn dtype(tensor: &TensorInfo) -> Result<DType, Refusal> {
    let name = tensor.ggml_type.name();
    let known = name.parse::<DType>().ok();
    let usable = |dtype: &DType| dtype.is_packed() || matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    known
        .filter(usable)
        .ok_or_else(|| Refusal::Weight(format!("{} is of type {name}, which is not known", tensor.name)))
}

fn bytes(gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<u8>, Refusal> {
    gguf.read_tensor(tensor)
        .map_err(|e| Refusal::Weight(format!("{}: {e}", tensor.name)))
}

fn packed(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Refusal> {
    quant::dequantize(dtype, bytes, out).map_err(|e| Refusal::Weight(format!("weights: {e}")))
}

/// The elements of a row as f32.
fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Refusal> {
    fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: fn([u8; N]) -> f32) {
        for (out, &chunk) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *out = value(chunk);
        }
    }
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F16 => each(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        DType::BF16 => each(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        _ => return packed(dtype, bytes, out),
    }
    Ok(())
}

/// Row `row` of the matrix `name`, alone.
pub(crate) fn row(gguf: &Gguf, name: &str, columns: usize, row: usize) -> Result<Vec<f64>, Refusal> {
    let info = tensor(gguf, name)?;
    let &[rows, found] = info.shape.as_slice() else {
        return Err(Refusal::Weight(format!("{name} is no matrix: {:?}", info.shape)));
    };
    if found != columns || row >= rows {
        let problem = format!(
            "{name} has the shape {:?}; row {row} of {columns} was asked for",
            info.shape
        );
        return Err(Refusal::Weight(problem));
    }
    let dtype = dtype(info)?;
    let stride = (columns / dtype.block() * dtype.size()) as u64;
    let read = |from: u64, len: u64| {
        gguf.read_part(info, from, len)
            .map_err(|e| Refusal::Weight(format!("{name}: {e}")))
    };
    let mut bytes = read(row as u64 * stride, stride)?;
    if dtype.tail() > 0 {
        bytes.extend(read(rows as u64 * stride, dtype.tail() as u64)?);
    }
    let mut values = vec![0.0; columns];
    widen(dtype, &bytes, &mut values)?;
    Ok(values.into_iter().map(f64::from).collect())
}
