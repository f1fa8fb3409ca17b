use crate::TensorError;
use bitnet_trace_schema::DType;

/// A tensor that can be recorded.
///
/// The crate implements it for slices ([`Slice`](crate::Slice) gives them a shape), for `ndarray` arrays
/// (feature `ndarray`) and for candle's `Tensor` (feature `candle`). For another library, show the
/// tensor's memory:
///
/// ```
/// use bitnet_trace::{AsTensor, DType, TensorError, TensorView, bytes_of};
///
/// struct Matrix { rows: usize, cols: usize, data: Vec<f32> }
///
/// impl AsTensor for Matrix {
///     fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
///         f(TensorView::new(DType::F32, &[self.rows, self.cols], bytes_of(&self.data)));
///         Ok(())
///     }
/// }
/// ```
pub trait AsTensor {
    /// Calls `f` once with a view of the tensor, which need not outlive the call (so that a lock guard
    /// can be held around it).
    ///
    /// # Errors
    /// [`TensorError::DType`] or [`TensorError::Unreadable`] where there is no view to give.
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError>;

    /// A tensor of the same type, shape and place with other elements: little-endian, row-major, without gaps. This is what
    /// an engine goes on with in a [replay](crate::Replay).
    ///
    /// # Errors
    /// Why there is none; without an implementation of its own, a type cannot be replaced.
    fn replaced(&self, bytes: &[u8]) -> Result<Self, TensorError>
    where
        Self: Sized,
    {
        let _ = bytes;
        let name = std::any::type_name::<Self>();
        Err(TensorError::Refused(format!(
            "{name} cannot be made from bytes: implement AsTensor::replaced for it"
        )))
    }
}

/// A tensor in memory: little-endian elements, addressed by shape, strides and offset.
///
/// Nothing is checked here: [`Recorder::record`](crate::Recorder::record) checks before it reads.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    dtype: DType,
    shape: &'a [usize],
    data: &'a [u8],
    strides: Option<&'a [isize]>,
    offset: usize,
}

impl<'a> TensorView<'a> {
    /// A contiguous row-major tensor: `data` holds its elements from the first on.
    #[inline]
    pub const fn new(dtype: DType, shape: &'a [usize], data: &'a [u8]) -> Self {
        Self {
            dtype,
            shape,
            data,
            strides: None,
            offset: 0,
        }
    }

    /// Strides in elements, one a dimension; negative and 0 (broadcast) are fine. Of a packed dtype, the
    /// innermost is 1 and the others are multiples of the block.
    #[inline]
    pub const fn strides(mut self, strides: &'a [isize]) -> Self {
        self.strides = Some(strides);
        self
    }

    /// Where in `data` the element with index 0, 0, ... lies, in elements (whole blocks of a packed dtype).
    #[inline]
    pub const fn offset(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// Element type.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of each dimension.
    pub const fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Size of the tensor in bytes, checked to lie within the data.
    ///
    /// # Errors
    /// [`TensorError::ShapeOverflow`], [`TensorError::Strides`], [`TensorError::OutOfBounds`] or
    /// [`TensorError::Packed`].
    pub fn check(&self) -> Result<usize, TensorError> {
        if let Some(strides) = self.strides
            && strides.len() != self.shape.len()
        {
            return Err(TensorError::Strides {
                strides: strides.len(),
                dims: self.shape.len(),
            });
        }
        let overflow = || TensorError::ShapeOverflow(self.shape.to_vec());
        if self.shape.contains(&0) {
            return Ok(0);
        }
        let elements = self
            .shape
            .iter()
            .try_fold(1usize, |n, &dim| n.checked_mul(dim))
            .ok_or_else(overflow)?;
        self.check_blocks()?;
        let bytes = self
            .dtype
            .bytes(elements as u64)
            .and_then(|n| usize::try_from(n).ok());
        let bytes = bytes.ok_or_else(overflow)?;
        let (mut first, mut last) = (self.offset as i128, self.offset as i128);
        match self.strides {
            None => last += elements as i128 - 1,
            Some(strides) => {
                for (&dim, &stride) in self.shape.iter().zip(strides) {
                    // below 2^127: both factors are of 64 bits
                    let reach = (dim as i128 - 1) * stride as i128;
                    let end = if reach < 0 { &mut first } else { &mut last };
                    *end = end.checked_add(reach).ok_or_else(overflow)?;
                }
            }
        }
        let blocks = self.data.len().saturating_sub(self.dtype.tail()) / self.dtype.size();
        let available = blocks.saturating_mul(self.dtype.block());
        if first < 0 || last >= available as i128 {
            return Err(TensorError::OutOfBounds {
                first,
                last,
                available,
            });
        }
        Ok(bytes)
    }

    /// Rows of a packed dtype are whole blocks, each of them in one piece.
    fn check_blocks(&self) -> Result<(), TensorError> {
        let (dtype, block) = (self.dtype, self.dtype.block());
        if !dtype.is_packed() {
            return Ok(());
        }
        let refused = |problem| Err(TensorError::Packed { dtype, problem });
        let Some((row, outer)) = self.shape.split_last() else {
            return refused("it has no rows");
        };
        if !row.is_multiple_of(block) {
            return refused("its rows are not whole blocks");
        }
        let strides = self.strides.map(|strides| strides.split_at(outer.len()));
        let (outer, inner) = strides.unwrap_or((&[], &[1]));
        if inner != [1] {
            return refused("its rows are not contiguous");
        }
        let splits = |stride: &isize| stride % block as isize != 0;
        if outer.iter().any(splits) || !self.offset.is_multiple_of(block) {
            return refused("a stride or the offset splits a block");
        }
        if dtype.tail() > 0 && (self.offset > 0 || !self.is_contiguous()) {
            return refused("it has one scale and is not contiguous");
        }
        Ok(())
    }

    /// Whether the strides, if there are any, are those of a contiguous row-major tensor.
    fn is_contiguous(&self) -> bool {
        let mut step = 1isize;
        let mut dims = self.shape.iter().zip(self.strides.unwrap_or_default()).rev();
        dims.all(|(&extent, &stride)| {
            let follows = extent == 1 || stride == step;
            step = step.saturating_mul(extent as isize);
            follows
        })
    }
}

/// A tensor in memory whose elements can be replaced: [`Recorder::replay`](crate::Recorder::replay).
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    dtype: DType,
    shape: &'a [usize],
    data: &'a mut [u8],
    strides: Option<&'a [isize]>,
    offset: usize,
}

impl<'a> TensorViewMut<'a> {
    /// A contiguous row-major tensor: `data` holds its elements from the first on.
    #[inline]
    pub fn new(dtype: DType, shape: &'a [usize], data: &'a mut [u8]) -> Self {
        Self {
            dtype,
            shape,
            data,
            strides: None,
            offset: 0,
        }
    }

    /// As [`TensorView::strides`]; a tensor whose elements share memory is not written.
    #[inline]
    #[must_use]
    pub fn strides(mut self, strides: &'a [isize]) -> Self {
        self.strides = Some(strides);
        self
    }

    /// As [`TensorView::offset`].
    #[inline]
    #[must_use]
    pub fn offset(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// The same, to be read.
    #[inline]
    pub fn view(&self) -> TensorView<'_> {
        TensorView {
            dtype: self.dtype,
            shape: self.shape,
            data: self.data,
            strides: self.strides,
            offset: self.offset,
        }
    }
}

#[cfg(feature = "trace")]
impl TensorViewMut<'_> {
    pub(crate) fn data(&mut self) -> &mut [u8] {
        self.data
    }
}

#[cfg(feature = "trace")]
impl<'a> TensorView<'a> {
    /// Whether some elements lie in the same place: an axis without a stride, or one that steps within another.
    pub(crate) fn overlaps(&self) -> bool {
        let Some(strides) = self.strides else { return false };
        let axes = self.shape.iter().zip(strides).filter(|&(&extent, _)| extent > 1);
        let mut axes: Vec<_> = axes
            .map(|(&extent, &stride)| (stride.unsigned_abs(), extent))
            .collect();
        axes.sort_unstable();
        let mut reach = 1usize;
        axes.into_iter().any(|(stride, extent)| {
            let within = stride < reach;
            reach = reach.max(stride.saturating_mul(extent - 1).saturating_add(reach));
            within
        })
    }

    pub(crate) fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Fills `dims` with pairs of extent and stride, and returns the first element's offset; all of them count
    /// elements, or blocks of a packed dtype.
    pub(crate) fn dims(&self, dims: &mut Vec<(usize, isize)>) -> usize {
        dims.clear();
        match self.strides {
            Some(strides) => dims.extend(self.shape.iter().copied().zip(strides.iter().copied())),
            None => {
                dims.extend(self.shape.iter().map(|&extent| (extent, 0)));
                let mut stride = 1isize;
                for dim in dims.iter_mut().rev() {
                    dim.1 = stride;
                    stride = stride.wrapping_mul(dim.0 as isize);
                }
            }
        }
        let block = self.dtype.block();
        if let Some((row, outer)) = dims.split_last_mut().filter(|_| block > 1) {
            row.0 /= block;
            for (_, stride) in outer {
                *stride /= block as isize;
            }
        }
        self.offset / block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        shape: &[usize],
        strides: &[isize],
        offset: usize,
        elements: usize,
    ) -> Result<usize, TensorError> {
        let data = vec![0u8; elements * 4];
        TensorView::new(DType::F32, shape, &data)
            .strides(strides)
            .offset(offset)
            .check()
    }

    #[test]
    fn strides_of_every_kind_are_checked_against_the_data() {
        assert_eq!(check(&[2, 3], &[3, 1], 0, 6), Ok(24));
        assert_eq!(check(&[2, 3], &[1, 2], 0, 6), Ok(24), "transposed");
        assert_eq!(check(&[2, 3], &[-3, -1], 5, 6), Ok(24), "reversed");
        assert_eq!(check(&[1000, 3], &[0, 1], 0, 3), Ok(12_000), "broadcast");
        assert_eq!(check(&[], &[], 0, 1), Ok(4), "no dimensions");
        assert_eq!(check(&[0, 9], &[9, 1], 99, 0), Ok(0), "no elements");
        for (shape, strides, offset) in [
            (&[2, 3][..], &[3isize, 1][..], 1),
            (&[2, 3], &[4, 1], 0),
            (&[2, 3], &[-3, 1], 0),
            (&[2, 3], &[3, -1], 1),
            (&[usize::MAX], &[0], 6),
        ] {
            let error = check(shape, strides, offset, 6).expect_err("refused");
            assert!(
                matches!(
                    error,
                    TensorError::OutOfBounds { .. } | TensorError::ShapeOverflow(_)
                ),
                "{error}"
            );
        }
        assert!(matches!(
            check(&[2, 3], &[1], 0, 6),
            Err(TensorError::Strides { .. })
        ));
        assert!(matches!(
            check(&[usize::MAX, 2], &[0, 0], 0, 1),
            Err(TensorError::ShapeOverflow(_))
        ));
        assert!(matches!(
            check(&[usize::MAX >> 3, 2], &[isize::MAX, isize::MIN], usize::MAX, 1),
            Err(TensorError::ShapeOverflow(_) | TensorError::OutOfBounds { .. })
        ));
    }
    #[test]
    fn blocks_of_a_packed_dtype_are_never_split() {
        let data = vec![0u8; 6 * 34];
        let view = |shape| TensorView::new(DType::Q8_0, shape, &data);
        assert_eq!(view(&[3, 64]).check(), Ok(204));
        assert_eq!(view(&[2, 64]).strides(&[128, 1]).check(), Ok(136), "rows apart");
        assert_eq!(view(&[2, 32]).strides(&[-64, 1]).offset(96).check(), Ok(68));
        assert_eq!(view(&[0, 33]).check(), Ok(0), "no elements");
        for (view, problem) in [
            (view(&[]), "it has no rows"),
            (view(&[2, 48]), "its rows are not whole blocks"),
            (view(&[64, 3]).strides(&[1, 64]), "its rows are not whole blocks"),
            (view(&[2, 32]).strides(&[64, 2]), "its rows are not contiguous"),
            (
                view(&[2, 64]).strides(&[48, 1]),
                "a stride or the offset splits a block",
            ),
            (view(&[64]).offset(16), "a stride or the offset splits a block"),
        ] {
            let dtype = DType::Q8_0;
            assert_eq!(view.check(), Err(TensorError::Packed { dtype, problem }));
        }
        assert!(matches!(
            view(&[3, 64]).offset(32).check(),
            Err(TensorError::OutOfBounds { available: 192, .. })
        ));
        let one_scale = |shape| TensorView::new(DType::I2_S, shape, &data[..2 * 32 + 4]);
        assert_eq!(one_scale(&[2, 128]).check(), Ok(68));
        assert_eq!(one_scale(&[2, 128]).strides(&[128, 1]).check(), Ok(68));
        assert!(matches!(
            one_scale(&[2, 128]).strides(&[0, 1]).check(),
            Err(TensorError::Packed { .. })
        ));
        let short = TensorView::new(DType::I2_S, &[2, 128], &data[..2 * 32 + 3]);
        assert!(
            matches!(short.check(), Err(TensorError::OutOfBounds { .. })),
            "no scale"
        );
    }
}
