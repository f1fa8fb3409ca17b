//! Reading tensors: bytes, element types, integer inputs, what a view looks into.

use crate::{Host, Node, Raw};
use bitnet_trace::DType;

/// Chains of views are not followed further than this.
const DEPTH: usize = 16;

/// The element type that ggml calls so. Case differs: `q4_K` is Q4_K, `i2_s` I2_S.
pub fn dtype(name: &str) -> Option<DType> {
    DType::ALL
        .into_iter()
        .find(|d| d.name().eq_ignore_ascii_case(name))
}

/// The bytes of a tensor: in place where they lie in host memory, else copied into `scratch`. Empty where there are none.
pub fn bytes<'a>(host: &impl Host, tensor: Raw, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if tensor.is_null() {
        return &[];
    }
    let (data, size) = host.bytes(tensor);
    if size == 0 || isize::try_from(size).is_err() {
        return &[];
    }
    if !data.is_null() {
        // SAFETY: `Host` promises that so many bytes may be read there until the callback returns, which is after the
        // end of `scratch`'s borrow
        return unsafe { std::slice::from_raw_parts(data, size) };
    }
    scratch.clear();
    if scratch.try_reserve_exact(size).is_err() {
        return &[];
    }
    scratch.resize(size, 0);
    host.copy(tensor, scratch);
    scratch
}

/// Ids, positions and cell numbers: all of a contiguous I32 or I64 tensor, if it is an input of the graph, whose data is
/// there before anything is computed.
pub fn integers(host: &impl Host, tensor: Raw) -> Option<Vec<i64>> {
    let node = input(host, tensor)?;
    let mut scratch = Vec::new();
    let (bytes, dtype) = (bytes(host, tensor, &mut scratch), node.dtype());
    let size = match dtype {
        "i32" => 4,
        "i64" => 8,
        _ => return None,
    };
    if !node.is_contiguous(size)
        || node.elements() == 0
        || Some(bytes.len()) != node.elements().checked_mul(size)
    {
        return None;
    }
    Some(match dtype {
        "i32" => {
            let (values, _) = bytes.as_chunks();
            values.iter().map(|&b| i32::from_le_bytes(b).into()).collect()
        }
        _ => {
            let (values, _) = bytes.as_chunks();
            values.iter().map(|&b| i64::from_le_bytes(b)).collect()
        }
    })
}

/// The node, if it is not computed but given, or a view of what is.
pub fn input(host: &impl Host, tensor: Raw) -> Option<Node> {
    if tensor.is_null() {
        return None;
    }
    let node = host.node(tensor);
    let mut at = node;
    for _ in 0..DEPTH {
        match at.op() {
            "NONE" => return Some(node),
            "VIEW" | "RESHAPE" | "PERMUTE" | "TRANSPOSE" if !at.src[0].is_null() => at = host.node(at.src[0]),
            _ => return None,
        }
    }
    None
}

/// What a chain of views, permutes and casts looks into.
pub fn origin(host: &impl Host, mut tensor: Raw) -> Raw {
    for _ in 0..DEPTH {
        let node = host.node(tensor);
        tensor = match node.op() {
            _ if !node.view_src.is_null() => node.view_src,
            "CPY" | "CONT" | "DUP" | "VIEW" | "RESHAPE" | "PERMUTE" | "TRANSPOSE"
                if !node.src[0].is_null() =>
            {
                node.src[0]
            }
            _ => return tensor,
        };
    }
    tensor
}

/// A tensor of the KV cache.
#[derive(Debug, Clone, Copy)]
pub struct Cache {
    /// The whole of it, one a layer: `[n_embd, cells, streams]`, or all in one dimension (2024).
    pub root: Raw,
    pub layer: i32,
    /// Cells of a stream, where there are several.
    pub cells: i64,
    pub streams: i64,
    /// Bytes of a stream.
    stride: usize,
}

/// The cache that `tensor` looks into, of keys (`kind` k) or values (v), by llama.cpp's names `cache_k_l7`, `cache_v_l7`.
pub fn cache(host: &impl Host, tensor: Raw, kind: char) -> Option<Cache> {
    if tensor.is_null() {
        return None;
    }
    let root = origin(host, tensor);
    let node = host.node(root);
    let (_, rest) = node.name().split_once("cache_")?;
    let digits = rest.strip_prefix(kind)?.strip_prefix("_l")?;
    let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
    let layer = digits.parse().ok().filter(|_| digits.len() <= 6)?;
    let [_, cells, streams, _] = node.ne;
    Some(Cache {
        root,
        layer,
        cells,
        streams,
        stride: node.nb[2],
    })
}

/// The first stream that a view of the cache shows.
pub fn first_stream(host: &impl Host, mut tensor: Raw, cache: &Cache) -> i64 {
    if cache.streams <= 1 || cache.stride == 0 {
        return 0;
    }
    for _ in 0..DEPTH {
        let node = host.node(tensor);
        if node.view_src == cache.root {
            return (node.view_offs / cache.stride) as i64;
        }
        if node.src[0].is_null() {
            break;
        }
        tensor = node.src[0];
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_is_known_by_ggmls_name() {
        for name in [
            "f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64", "q4_0", "q8_0", "q2_K", "q8_K", "tq1_0",
            "i2_s",
        ] {
            assert!(dtype(name).is_some(), "{name}");
        }
        assert_eq!((dtype("iq4_nl"), dtype("")), (None, None));
    }
}
