use crate::{AsTensor, DType, TensorError, TensorView, bytes_of};
use candle_core::{CpuStorage, Device, Storage, Tensor};

/// Tensors of any layout, read in place under candle's storage lock. A tensor on another device is
/// copied to the CPU first.
impl AsTensor for Tensor {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        let (storage, layout) = self.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            drop(storage);
            let host = self.to_device(&Device::Cpu);
            return host
                .map_err(|e| TensorError::Unreadable(e.to_string()))?
                .with_view(f);
        };
        let (dtype, data) = match storage {
            CpuStorage::F32(v) => (DType::F32, bytes_of(v)),
            CpuStorage::F16(v) => (DType::F16, bytes_of(v)),
            CpuStorage::BF16(v) => (DType::BF16, bytes_of(v)),
            CpuStorage::F64(v) => (DType::F64, bytes_of(v)),
            CpuStorage::I16(v) => (DType::I16, bytes_of(v)),
            CpuStorage::I32(v) => (DType::I32, bytes_of(v)),
            CpuStorage::I64(v) => (DType::I64, bytes_of(v)),
            CpuStorage::U8(v) => (DType::U8, bytes_of(v)),
            _ => return Err(TensorError::DType(format!("{:?}", self.dtype()))),
        };
        let view = TensorView::new(dtype, layout.dims(), data).offset(layout.start_offset());
        if layout.is_contiguous() {
            f(view);
        } else {
            let strides: Vec<isize> = layout.stride().iter().map(|&s| s as isize).collect();
            f(view.strides(&strides));
        }
        Ok(())
    }

    fn replaced(&self, bytes: &[u8]) -> Result<Self, TensorError> {
        let made = Tensor::from_raw_buffer(bytes, self.dtype(), self.dims(), self.device());
        made.map_err(|e| TensorError::Refused(e.to_string()))
    }
}
