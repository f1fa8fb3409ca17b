//! The copy that an engine's thread makes, past its caches.
#![cfg_attr(target_arch = "x86_64", allow(unsafe_code))]

/// From how many bytes on a copy goes past the caches. Smaller buffers are used again soon enough to be in one still.
const STREAMED: usize = 64 << 10;

/// Appends `bytes` to `out`.
///
/// The engine does not read the copy again: a large one is written with non-temporal stores, which leave what the
/// engine has in its caches there, and need not fetch a buffer that the writer's processor holds.
#[inline]
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= STREAMED {
        out.reserve(bytes.len());
        return stream(out, bytes);
    }
    out.extend_from_slice(bytes);
}

/// A cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// `out` has room for `bytes`.
#[cfg(target_arch = "x86_64")]
fn stream(out: &mut Vec<u8>, bytes: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    let head = out
        .spare_capacity_mut()
        .as_ptr()
        .align_offset(LINE)
        .min(bytes.len());
    let (head, rest) = bytes.split_at(head);
    let (lines, tail) = rest.split_at(rest.len() / LINE * LINE);
    out.extend_from_slice(head);
    let start = out.len();
    let room = &mut out.spare_capacity_mut()[..lines.len()];
    for (to, from) in room.chunks_exact_mut(LINE).zip(lines.chunks_exact(LINE)) {
        let (to, from) = (to.as_mut_ptr().cast::<__m128i>(), from.as_ptr().cast::<__m128i>());
        // SAFETY: both are LINE bytes, four vectors, and `to` is aligned to LINE; SSE2 is of every x86-64
        unsafe {
            let vectors: [__m128i; 4] = std::array::from_fn(|i| _mm_loadu_si128(from.add(i)));
            for (i, vector) in vectors.into_iter().enumerate() {
                _mm_stream_si128(to.add(i), vector);
            }
        }
    }
    // SAFETY: `lines.len()` bytes of the room were written; the fence makes them visible before what follows
    unsafe {
        _mm_sfence();
        out.set_len(start + lines.len());
    }
    out.extend_from_slice(tail);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_appended_whatever_their_number_and_alignment() {
        let source: Vec<u8> = (0..STREAMED + 300).map(|i| (i * 7 + i / 256) as u8).collect();
        for len in [
            0,
            1,
            STREAMED - 1,
            STREAMED,
            STREAMED + 1,
            STREAMED + 63,
            STREAMED + 200,
        ] {
            for (before, from) in [(0, 0), (1, 0), (15, 3), (63, 64), (64, 1), (100, 77)] {
                let bytes = &source[from..from + len];
                let mut out = vec![9; before];
                append(&mut out, bytes);
                assert!(out[..before].iter().all(|&b| b == 9), "{len} {before} {from}");
                assert_eq!(&out[before..], bytes, "{len} {before} {from}");
            }
        }
    }
}
