use crate::{AsTensor, TensorError, TensorView};
use bitnet_trace_schema::DType;
use half::{bf16, f16};

/// A Rust type that is an element of a recordable tensor.
pub trait Element: bytemuck::NoUninit + bytemuck::CheckedBitPattern {
    /// Its dtype.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),*) => { $(impl Element for $type { const DTYPE: DType = DType::$dtype; })* };
}
elements!(f32 => F32, f16 => F16, bf16 => BF16, f64 => F64, i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, bool => Bool);

/// The bytes of elements, as [`TensorView::new`] takes them.
#[inline]
pub fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    bytemuck::cast_slice(elements)
}

/// A slice with a shape: a contiguous row-major tensor.
///
/// ```
/// use bitnet_trace::{Engine, Recorder, Slice, Tap};
///
/// # let recorder = Recorder::off();
/// let q = vec![0.0f32; 2 * 3];
/// recorder.record(Tap::new("q_proj", 0, 0).token_axis(0), &Slice::new(&q, &[2, 3]));
/// recorder.record(Tap::new("attn_norm", 0, 0), &q[..]); // a plain slice has one dimension
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a, T> {
    data: &'a [T],
    shape: &'a [usize],
}

impl<'a, T: Element> Slice<'a, T> {
    /// `data` as a tensor of `shape`. The recorder refuses (and counts) it if there are too few elements.
    #[inline]
    pub const fn new(data: &'a [T], shape: &'a [usize]) -> Self {
        Self { data, shape }
    }
}

impl<T: Element> AsTensor for Slice<'_, T> {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        f(TensorView::new(T::DTYPE, self.shape, bytes_of(self.data)));
        Ok(())
    }
}

impl<T: Element> AsTensor for [T] {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        f(TensorView::new(T::DTYPE, &[self.len()], bytes_of(self)));
        Ok(())
    }
}

impl<T: Element> AsTensor for Vec<T> {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        self.as_slice().with_view(f)
    }

    fn replaced(&self, bytes: &[u8]) -> Result<Self, TensorError> {
        let elements = bytes.chunks_exact(size_of::<T>().max(1));
        let elements = elements.map(bytemuck::checked::try_pod_read_unaligned);
        elements
            .collect::<Result<_, _>>()
            .map_err(|e| TensorError::Refused(e.to_string()))
    }
}

impl AsTensor for TensorView<'_> {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        f(*self);
        Ok(())
    }
}
