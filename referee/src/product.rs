//! Products of a weight matrix with the activations of many tokens, in f64.

use crate::Refusal;
use crate::rounding::Rounded;
use crate::weights::Matrix;
use bitnet_trace_schema::DType;
use half::f16;
use rayon::prelude::*;

/// Rows of the matrix that one task takes.
const ROWS: usize = 32;

/// The products of the matrix's rows `rows` with each of `tokens`: one vector of `rows.len()` a token.
///
/// Each row is dequantised once, as ggml does, and multiplied in f64.
pub(crate) fn product(matrix: &Matrix, rows: &[usize], tokens: &[Rounded]) -> Result<Vec<Vec<f64>>, Refusal> {
    // [rows, tokens]
    let mut by_row = vec![0.0; rows.len() * tokens.len()];
    by_row
        .par_chunks_mut((ROWS * tokens.len()).max(1))
        .zip(rows.par_chunks(ROWS))
        .try_for_each(|(out, rows)| {
            let mut narrow = vec![0.0f32; matrix.columns];
            let mut wide = vec![0.0f64; matrix.columns];
            for (out, &row) in out.chunks_mut(tokens.len()).zip(rows) {
                matrix.dequantize(row, &mut narrow)?;
                for (wide, &narrow) in wide.iter_mut().zip(&narrow) {
                    *wide = narrow.into();
                }
                let minima = minima(matrix.dtype, matrix.row(row));
                for (out, token) in out.iter_mut().zip(tokens) {
                    *out = dot(&wide, &token.values) + dot(&minima, &token.excess);
                }
            }
            Ok::<(), Refusal>(())
        })?;
    let of_token = |token| (0..rows.len()).map(move |row| row * tokens.len() + token);
    Ok((0..tokens.len())
        .map(|token| of_token(token).map(|at| by_row[at]).collect())
        .collect())
}

/// The minimum of each block of 32 weights, where the dtype has such.
fn minima(dtype: DType, row: &[u8]) -> Vec<f64> {
    match dtype {
        DType::Q4_1 | DType::Q5_1 => row
            .chunks_exact(dtype.size())
            .map(|block| f16::from_le_bytes([block[2], block[3]]).to_f64())
            .collect(),
        _ => Vec::new(),
    }
}

/// The sum of products, of as many elements as both have, in eight lanes.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a, a_rest) = a[..a.len().min(b.len())].as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}
