//! Choosing the next token.

/// The id of the largest logit; the first of equals, as llama.cpp's greedy sampler takes. NaN is never chosen
/// over a number.
///
/// ```
/// assert_eq!(bitnet_models::greedy(&[0.5, 2.0, f32::NAN, 2.0]), Some(1));
/// assert_eq!(bitnet_models::greedy(&[]), None);
/// ```
pub fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    for (id, &logit) in logits.iter().enumerate() {
        if best.is_none_or(|(_, max): (usize, f32)| logit > max || (max.is_nan() && !logit.is_nan())) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32)
}
