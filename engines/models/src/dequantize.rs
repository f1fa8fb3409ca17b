//! An F32 copy of a quantised model, on which two right engines agree to about 1e-6.

use std::fs;
use std::path::Path;

use bitnet_trace_schema::DType;

use crate::error::Error;
use crate::file::write_whole;
use crate::weights::{dtype, to_f32};
use bitnet_gguf::{GgmlType, Gguf, Metadata, TensorInfo, write_gguf};

/// `general.file_type` of a file whose weights are all F32.
const ALL_F32: u32 = 0;

/// Writes a copy of `input` with every weight as F32. The metadata bytes are carried over as they are, only
/// `general.file_type` (the type of most weights) becomes 0. `progress` is told tensors done and in all.
///
/// The output appears under its name only when it is whole. A file of that name is replaced.
///
/// # Errors
/// What [`Gguf::open`] says of the input, [`Error::SameFile`], [`Error::TensorType`] for a weight that cannot be
/// dequantised, [`Error::Write`].
pub fn dequantize_gguf(input: &Path, output: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
    let gguf = Gguf::open(input)?;
    let same = |a: &Path, b: &Path| Some(fs::canonicalize(a).ok()? == fs::canonicalize(b).ok()?);
    if same(input, output) == Some(true) {
        return Err(Error::SameFile {
            path: input.to_owned(),
        });
    }
    let metadata = Metadata::copied_from(&gguf, ALL_F32)?;
    let mut types = Vec::new();
    let mut tensors = Vec::new();
    for tensor in gguf.tensors() {
        types.push(dtype(&gguf, tensor)?);
        let elements = tensor.shape.iter().map(|&dim| dim as u64).product();
        let byte_len = GgmlType::F32.byte_size(elements).unwrap_or(u64::MAX);
        tensors.push(TensorInfo {
            ggml_type: GgmlType::F32,
            byte_len,
            ..tensor.clone()
        });
    }
    let total = tensors.len() as u64;
    write_whole(output, |out| {
        write_gguf(out, &metadata, &tensors, |index| {
            let bytes = f32_bytes(types[index], &gguf, &gguf.tensors()[index])?;
            progress(index as u64 + 1, total);
            Ok::<_, Error>(bytes)
        })
    })
}

fn f32_bytes(dtype: DType, gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<u8>, Error> {
    let bytes = gguf.read_tensor(tensor)?;
    if dtype == DType::F32 {
        return Ok(bytes);
    }
    let values = to_f32(dtype, bytes, tensor)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}
