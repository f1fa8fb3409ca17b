//! Copies a strided view into contiguous row-major bytes.

use crate::stream::append;

/// Appends the elements of a view to `out` in row-major order.
///
/// `dims` are pairs of extent and stride, outermost first; `offset` is the first element; strides and
/// offset count elements of `size` bytes. The caller has checked that they stay within `data`. `dims` is
/// left rearranged.
pub(crate) fn gather(
    data: &[u8],
    size: usize,
    dims: &mut Vec<(usize, isize)>,
    offset: usize,
    out: &mut Vec<u8>,
) {
    if dims.iter().any(|&(extent, _)| extent == 0) {
        return;
    }
    coalesce(dims);
    copy_dims(data, size, dims, offset as isize, out);
}

/// Drops dimensions of one element and joins those that follow each other in memory.
fn coalesce(dims: &mut Vec<(usize, isize)>) {
    dims.retain(|&(extent, _)| extent != 1);
    dims.dedup_by(|inner, outer| {
        let joined = (inner.0 as isize)
            .checked_mul(inner.1)
            .is_some_and(|step| step == outer.1);
        if joined {
            *outer = (outer.0 * inner.0, inner.1);
        }
        joined
    });
}

fn copy_dims(data: &[u8], size: usize, dims: &[(usize, isize)], at: isize, out: &mut Vec<u8>) {
    match dims {
        [] => copy_row(data, size, at, 1, 1, out),
        [(n, stride)] => copy_row(data, size, at, *n, *stride, out),
        [(n, stride), inner @ ..] => {
            for i in 0..*n as isize {
                copy_dims(data, size, inner, at + i * stride, out);
            }
        }
    }
}

fn copy_row(data: &[u8], size: usize, at: isize, n: usize, stride: isize, out: &mut Vec<u8>) {
    if stride == 1 {
        let start = at as usize * size;
        append(out, &data[start..start + n * size]);
        return;
    }
    match size {
        1 => copy_elements::<1>(data, at, n, stride, out),
        2 => copy_elements::<2>(data, at, n, stride, out),
        4 => copy_elements::<4>(data, at, n, stride, out),
        8 => copy_elements::<8>(data, at, n, stride, out),
        _ => {
            // rows of one block of a packed dtype
            for i in 0..n as isize {
                let start = (at + i * stride) as usize * size;
                out.extend_from_slice(&data[start..start + size]);
            }
        }
    }
}

fn copy_elements<const SIZE: usize>(data: &[u8], at: isize, n: usize, stride: isize, out: &mut Vec<u8>) {
    out.reserve(n * SIZE);
    let mut at = at;
    for _ in 0..n {
        let start = at as usize * SIZE;
        out.extend_from_slice(&data[start..start + SIZE]);
        at = at.wrapping_add(stride); // one step beyond the last element may leave the address space
    }
}

/// Puts row-major elements into a strided tensor: the way back from [`gather`], of whole elements.
pub(crate) fn scatter(from: &[u8], size: usize, dims: &[(usize, isize)], offset: usize, data: &mut [u8]) {
    fn dimension(from: &mut &[u8], size: usize, dims: &[(usize, isize)], at: isize, data: &mut [u8]) {
        let (count, elements) = match dims {
            [] => (1, size),
            [(n, 1)] => (1, n * size),
            [(n, _), ..] => (*n, 0),
        };
        for i in 0..count as isize {
            match dims {
                [(_, stride), inner @ ..] if elements == 0 => {
                    dimension(from, size, inner, at + i * stride, data);
                }
                _ => {
                    let start = at as usize * size;
                    let (row, rest) = from.split_at(elements.min(from.len()));
                    data[start..start + row.len()].copy_from_slice(row);
                    *from = rest;
                }
            }
        }
    }
    if dims.iter().all(|&(extent, _)| extent > 0) {
        dimension(&mut &*from, size, dims, offset as isize, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(dims: &[(usize, isize)], offset: usize) -> Vec<u8> {
        let data: Vec<u8> = (0..24u16).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![];
        gather(&data, 2, &mut dims.to_vec(), offset, &mut out);
        out.chunks_exact(2).map(|b| b[0]).collect()
    }

    #[test]
    fn elements_come_out_in_row_major_order() {
        let all: Vec<u8> = (0..24).collect();
        assert_eq!(gathered(&[(2, 12), (3, 4), (4, 1)], 0), all);
        assert_eq!(gathered(&[(2, 1), (3, 2)], 1), [1, 3, 5, 2, 4, 6]);
        assert_eq!(gathered(&[(3, -1), (1, 77)], 5), [5, 4, 3]);
        assert_eq!(gathered(&[(2, 0), (2, 1)], 7), [7, 8, 7, 8]);
        assert_eq!(gathered(&[], 9), [9]);
        assert!(gathered(&[(0, 1), (5, 1)], 0).is_empty());
    }

    #[test]
    fn what_is_scattered_is_gathered_again() {
        for (dims, offset) in [
            (&[(2, 12), (3, 4), (4, 1)][..], 0),
            (&[(2, 1), (3, 2)], 1),
            (&[(3, -1), (1, 77)], 5),
            (&[(4, 5), (2, 1)], 2),
            (&[], 9),
        ] {
            let n: usize = dims.iter().map(|d| d.0).product();
            let from: Vec<u8> = (1..=2 * n as u8).collect();
            let (mut data, mut back) = (vec![0; 48], vec![]);
            scatter(&from, 2, dims, offset, &mut data);
            gather(&data, 2, &mut dims.to_vec(), offset, &mut back);
            assert_eq!(back, from, "{dims:?}");
            assert_eq!(
                data.iter().filter(|&&b| b != 0).count(),
                from.len(),
                "nothing else"
            );
        }
        scatter(&[], 2, &[(0, 1), (9, 9)], 0, &mut []);
    }

    #[test]
    fn contiguous_dimensions_become_one_copy() {
        let mut dims = vec![(2, 12), (1, 0), (3, 4), (4, 1)];
        coalesce(&mut dims);
        assert_eq!(dims, [(24, 1)]);
    }
}
