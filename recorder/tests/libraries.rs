//! Arrays of other libraries are recorded as what they show, whatever their layout.
#![cfg(feature = "trace")]
#![allow(unused)] // without the features there is nothing to test

mod common;

use bitnet_trace::{AsTensor, Recorder, Tap};
use std::path::Path;

/// Records each tensor and returns the values and shapes read back.
fn recorded(dir: &Path, tensors: &[&dyn AsTensor]) -> Vec<(Vec<i64>, Vec<f32>)> {
    let recorder = Recorder::builder(dir).build().expect("a recorder");
    for (seq, tensor) in tensors.iter().enumerate() {
        recorder
            .try_record(Tap::new("x", 0, seq as i64), *tensor)
            .expect("a valid tensor");
    }
    let records = common::read(&recorder.finish().expect("sealed").dir);
    records
        .into_iter()
        .map(|r| (r.meta.shape, r.values.expect("values")))
        .collect()
}

#[cfg(feature = "ndarray")]
#[test]
fn ndarray_arrays_and_views_of_every_layout() {
    use ndarray::{Array2, Array3, ShapeBuilder, arr0, s};
    let dir = tempfile::tempdir().expect("a directory");
    let a = Array3::from_shape_fn((2, 3, 4), |(i, j, k)| (100 * i + 10 * j + k) as f32);
    let fortran = Array2::from_shape_fn((3, 2).f(), |(i, j)| (10 * i + j) as f32);
    let reversed = a.slice(s![..;-1, .., ..;-1]);
    let gaps = a.slice(s![.., ..;2, 1..3]);
    let broadcast = a.slice(s![0, 0, ..]);
    let broadcast = broadcast.broadcast((5, 4)).expect("a broadcast");
    let (permuted, empty) = (a.view().permuted_axes([2, 0, 1]), a.slice(s![.., 1..1, ..]));
    let scalar = arr0(7.0f32);
    let tensors: [&dyn AsTensor; 8] = [
        &a, &fortran, &reversed, &gaps, &broadcast, &permuted, &empty, &scalar,
    ];
    let found = recorded(dir.path(), &tensors);
    let logical =
        |shape: &[usize], values: Vec<f32>| (shape.iter().map(|&n| n as i64).collect::<Vec<_>>(), values);
    let expected = [
        logical(a.shape(), a.iter().copied().collect()),
        logical(fortran.shape(), fortran.iter().copied().collect()),
        logical(reversed.shape(), reversed.iter().copied().collect()),
        logical(gaps.shape(), gaps.iter().copied().collect()),
        logical(broadcast.shape(), broadcast.iter().copied().collect()),
        logical(permuted.shape(), permuted.iter().copied().collect()),
        logical(empty.shape(), vec![]),
        logical(&[], vec![7.0]),
    ];
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "tensor {i}");
    }
}

#[cfg(feature = "candle")]
#[test]
fn candle_tensors_of_every_layout_and_dtype() -> candle_core::Result<()> {
    use bitnet_trace::{DType, TensorError};
    use candle_core::{DType as CandleDType, Device, Tensor};
    let dir = tempfile::tempdir().expect("a directory");
    let a = Tensor::arange(0f32, 24.0, &Device::Cpu)?.reshape((2, 3, 4))?;
    let tensors = [
        a.clone(),
        a.transpose(0, 2)?,
        a.narrow(1, 1, 2)?,
        a.narrow(0, 1, 1)?.squeeze(0)?,
        a.narrow(2, 0, 1)?.broadcast_as((2, 3, 5))?,
        Tensor::new(7f32, &Device::Cpu)?,
        Tensor::zeros((2, 0), CandleDType::F32, &Device::Cpu)?,
    ];
    let views: Vec<&dyn AsTensor> = tensors.iter().map(|t| t as &dyn AsTensor).collect();
    for (found, tensor) in recorded(dir.path(), &views).iter().zip(&tensors) {
        let shape: Vec<i64> = tensor.dims().iter().map(|&n| n as i64).collect();
        assert_eq!(*found, (shape, tensor.flatten_all()?.to_vec1::<f32>()?));
    }

    let recorder = Recorder::builder(dir.path())
        .run("dtypes")
        .build()
        .expect("a recorder");
    let known = [
        (CandleDType::F16, DType::F16),
        (CandleDType::BF16, DType::BF16),
        (CandleDType::F64, DType::F64),
        (CandleDType::I16, DType::I16),
        (CandleDType::I32, DType::I32),
        (CandleDType::I64, DType::I64),
        (CandleDType::U8, DType::U8),
    ];
    for (candle, _) in known {
        recorder.record(Tap::new("x", 0, 0), &a.to_dtype(candle)?.transpose(0, 1)?);
    }
    let ids = a.to_dtype(CandleDType::U32)?;
    let refused = recorder.try_record(Tap::new("x", 0, 0), &ids);
    assert_eq!(refused, Err(TensorError::DType("U32".into())));
    let run = recorder.finish().expect("sealed").dir;
    let dtypes: Vec<DType> = common::read(&run).iter().map(|r| r.meta.dtype).collect();
    assert_eq!(dtypes, known.map(|k| k.1));
    assert_eq!(common::manifest(&run).dropped.reasons.get("dtype U32"), Some(&1));
    Ok(())
}

#[cfg(feature = "candle")]
#[test]
fn packed_blocks_are_dequantised_as_candle_does() -> candle_core::Result<()> {
    use bitnet_trace::DType;
    use bitnet_trace_schema::quant;
    use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
    for (theirs, ours) in [
        (GgmlDType::Q4_0, DType::Q4_0),
        (GgmlDType::Q4_1, DType::Q4_1),
        (GgmlDType::Q5_0, DType::Q5_0),
        (GgmlDType::Q5_1, DType::Q5_1),
        (GgmlDType::Q8_0, DType::Q8_0),
        (GgmlDType::Q2K, DType::Q2_K),
        (GgmlDType::Q3K, DType::Q3_K),
        (GgmlDType::Q4K, DType::Q4_K),
        (GgmlDType::Q5K, DType::Q5_K),
        (GgmlDType::Q6K, DType::Q6_K),
    ] {
        assert_eq!(
            (theirs.block_size(), theirs.type_size()),
            (ours.block(), ours.size())
        );
        let mut state = 7u32;
        let blocks: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(64 * ours.size())
        .collect();
        let mine = quant::dequantized(ours, &blocks).expect("whole blocks");
        let device = candle_core::Device::Cpu;
        let tensor = qtensor_from_ggml(theirs, &blocks, vec![64, ours.block()], &device)?;
        let other: Vec<f32> = tensor.dequantize(&device)?.flatten_all()?.to_vec1()?;
        let bits = |x: &f32| if x.is_nan() { f32::NAN } else { *x }.to_bits();
        assert!(mine.iter().map(bits).eq(other.iter().map(bits)), "{ours}");
    }
    Ok(())
}
