//! What is written is what is read, whatever is recorded.
#![cfg(feature = "trace")]

mod common;

use bitnet_trace::{DType, Layout, Recorder, Tap, TensorView};
use bitnet_trace_schema::quant;
use proptest::prelude::*;

/// A tensor in memory, as a `TensorView` shows it, and its tap.
#[derive(Debug, Clone)]
struct Case {
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<isize>,
    offset: usize,
    data: Vec<u8>,
    token_axis: Option<usize>,
    causal_axis: Option<usize>,
    seq: i64,
    layer: i32,
    stage: &'static str,
}

/// What one slice of a case should become.
#[derive(Debug, PartialEq)]
struct Expected {
    seq: i64,
    shape: Vec<i64>,
    bytes: Vec<u8>,
}

impl Case {
    fn record(&self, recorder: &Recorder) {
        let mut tap = Tap::new(self.stage, self.layer, self.seq).name("n").op("o");
        tap = self.token_axis.map_or(tap, |axis| tap.token_axis(axis));
        tap = self.causal_axis.map_or(tap, |axis| tap.causal_axis(axis));
        let view = TensorView::new(self.dtype, &self.shape, &self.data)
            .strides(&self.strides)
            .offset(self.offset);
        recorder.try_record(tap, &view).expect("a valid tensor");
    }

    /// The slices, by going through every index: slow, and unlike the recorder's way.
    fn slices(&self) -> Vec<Expected> {
        let tokens = self.token_axis.map_or(1, |axis| self.shape[axis]);
        let mut slices: Vec<Expected> = (0..tokens)
            .map(|token| {
                let seq = self.seq + token as i64;
                let keys = |axis: usize| match self.causal_axis {
                    Some(causal) if causal == axis => self.shape[axis].min(seq as usize + 1),
                    _ => self.shape[axis],
                };
                let axes = (0..self.shape.len()).filter(|&axis| Some(axis) != self.token_axis);
                Expected {
                    seq,
                    shape: axes.map(|axis| keys(axis) as i64).collect(),
                    bytes: vec![],
                }
            })
            .collect();
        // of a packed dtype, block by block
        let block = self.dtype.block();
        let count = self.shape.iter().product::<usize>() / block;
        for flat in 0..count {
            let mut index = vec![0; self.shape.len()];
            let mut rest = flat * block;
            for axis in (0..self.shape.len()).rev() {
                index[axis] = rest % self.shape[axis];
                rest /= self.shape[axis];
            }
            let slice = &mut slices[self.token_axis.map_or(0, |axis| index[axis])];
            if self
                .causal_axis
                .is_some_and(|axis| index[axis] as i64 > slice.seq)
            {
                continue;
            }
            let at = (index.iter().zip(&self.strides))
                .fold(self.offset as isize, |at, (&i, &s)| at + i as isize * s);
            let (at, size) = (at as usize / block, self.dtype.size());
            slice
                .bytes
                .extend_from_slice(&self.data[at * size..(at + 1) * size]);
        }
        slices
    }
}

fn case() -> impl Strategy<Value = Case> {
    let dims = proptest::collection::vec(
        prop_oneof![8 => 1usize..7, 1 => Just(0usize), 1 => 30usize..60],
        0..4,
    );
    // of one scale a tensor is only I2_S, which cannot be cut
    let dtypes: Vec<DType> = DType::ALL.into_iter().filter(|d| d.tail() == 0).collect();
    let dtype = proptest::sample::select(dtypes);
    let stage = proptest::sample::select(vec!["q_rope", "logits", "attn_scores"]);
    let axes = (0usize..4, 0usize..4, any::<[bool; 2]>());
    (dims, dtype, stage, axes, any::<u64>(), 0i64..6, -2i32..3).prop_map(
        |(mut shape, dtype, stage, (token, causal, with), seed, seq, layer)| {
            if dtype.is_packed() {
                shape.iter_mut().for_each(|extent| *extent = (*extent).min(6));
            }
            let (mut strides, mut offset, mut elements) = layout(&shape, seed);
            let token_axis = Some(token).filter(|&t| with[0] && t < shape.len());
            let causal_axis = Some(causal).filter(|&c| with[1] && c < shape.len() && token_axis != Some(c));
            if dtype.is_packed() {
                // rows of blocks in place of elements
                let row = dtype.block() * (1 + seed as usize % 3);
                strides.iter_mut().for_each(|s| *s *= row as isize);
                (offset, elements) = (offset * row, elements * row);
                shape.push(row);
                strides.push(1);
            }
            let mut state = seed | 1;
            let data = (0..elements / dtype.block() * dtype.size())
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect();
            Case {
                dtype,
                shape,
                strides,
                offset,
                data,
                token_axis,
                causal_axis,
                seq,
                layer,
                stage,
            }
        },
    )
}

/// Strides of a permuted, partly reversed, partly broadcast tensor with gaps; the first element; elements
/// in memory.
fn layout(shape: &[usize], seed: u64) -> (Vec<isize>, usize, usize) {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    if !order.is_empty() && seed & 1 == 1 {
        order.rotate_left(seed as usize % shape.len());
    }
    let mut strides = vec![0isize; shape.len()];
    let (mut extent, mut offset) = (1usize, 0usize);
    for &axis in order.iter().rev() {
        let how = (seed >> (8 + 4 * axis)) & 15;
        if how == 0 {
            continue; // broadcast
        }
        strides[axis] = extent as isize;
        if how == 1 && shape[axis] > 0 {
            strides[axis] = -(extent as isize);
            offset += extent * (shape[axis] - 1);
        }
        extent *= shape[axis].max(1) + usize::from(how == 2);
    }
    (strides, offset, extent)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn parts_hold_what_was_recorded(
        cases in proptest::collection::vec(case(), 1..25),
        page in prop_oneof![Just(64usize), Just(1000), Just(256 << 10)],
        group in prop_oneof![Just(300u64), Just(5000), Just(64 << 20)],
        part in prop_oneof![Just(2000u64), Just(20_000), Just(1 << 30)],
        rows in prop_oneof![Just(3u64), Just(1000)],
        dequantize in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout { page_bytes: page, row_group_bytes: group, row_group_rows: rows, part_bytes: part };
        let recorder = Recorder::builder(dir.path()).run("p").layout(layout).dequantize(dequantize);
        let recorder = recorder.build().expect("a recorder");
        for (i, case) in cases.iter().enumerate() {
            if i % 3 == 0 {
                recorder.begin_pass();
            }
            case.record(&recorder);
        }
        let summary = recorder.finish().expect("sealed");
        let mut read = common::read(&summary.dir).into_iter();
        for (i, case) in cases.iter().enumerate() {
            for slice in case.slices() {
                let record = read.next().expect("a record for every slice");
                prop_assert_eq!((record.meta.seq, &record.meta.shape), (slice.seq, &slice.shape));
                prop_assert_eq!((record.meta.layer, record.meta.stage.as_str()), (case.layer, case.stage));
                prop_assert_eq!((record.meta.op_index, record.meta.pass), (i as i64, i as i32 / 3));
                prop_assert_eq!((record.meta.name.as_str(), record.meta.op.as_str()), ("n", "o"));
                prop_assert_eq!(record.meta.dtype, case.dtype);
                common::check_record(&record, &slice.bytes);
                let (fits, packed) = (case.dtype.fits_f32(), case.dtype.is_packed());
                prop_assert_eq!(record.values.is_some(), fits || packed && dequantize);
                prop_assert_eq!(record.raw.is_some(), !fits);
                if let Some(values) = record.values {
                    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    prop_assert_eq!(bits(&values), bits(&as_f32(case.dtype, &slice.bytes)));
                }
                if let Some(raw) = record.raw {
                    prop_assert_eq!(raw, slice.bytes);
                }
            }
        }
        prop_assert_eq!(read.next(), None);
    }
}

fn as_f32(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let two = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        DType::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        DType::F16 => two().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        DType::BF16 => two().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        DType::I16 => two().map(|b| i16::from_le_bytes(b).into()).collect(),
        dtype if dtype.is_packed() => quant::dequantized(dtype, bytes).expect("whole blocks"),
        DType::I8 => bytes.iter().map(|&b| (b as i8).into()).collect(),
        _ => bytes.iter().map(|&b| b.into()).collect(),
    }
}
