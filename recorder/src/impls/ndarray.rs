use crate::{AsTensor, Element, TensorError, TensorView, bytes_of};
use ndarray::{ArrayBase, Data, Dimension};

/// Arrays and views of any layout. A view with gaps (a slice of columns, a broadcast) is copied once
/// more, element by element: the memory between its elements may belong to somebody else.
impl<A: Element, S: Data<Elem = A>, D: Dimension> AsTensor for ArrayBase<S, D> {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        match self.as_slice_memory_order() {
            Some(data) => {
                // the slice starts at the lowest address, which negative strides walk down to
                let offset: usize = (self.shape().iter().zip(self.strides()))
                    .filter(|&(&dim, &stride)| dim > 1 && stride < 0)
                    .map(|(&dim, &stride)| (dim - 1) * stride.unsigned_abs())
                    .sum();
                let view = TensorView::new(A::DTYPE, self.shape(), bytes_of(data));
                f(view.strides(self.strides()).offset(offset));
            }
            None => {
                let data: Vec<A> = self.iter().copied().collect();
                f(TensorView::new(A::DTYPE, self.shape(), bytes_of(&data)));
            }
        }
        Ok(())
    }
}
