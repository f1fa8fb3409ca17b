//! What the observer is told of a tensor.

use std::ffi::{CStr, c_char, c_void};

/// A tensor of the host's ggml: an address that only the [`Host`] looks behind.
pub type Raw = *const c_void;

/// The fields of a `ggml_tensor` that matter here. Also `bnt_ggml_node` of the C header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Extents, fastest axis first.
    pub ne: [i64; 4],
    /// Strides in bytes, of whole blocks at axis 0.
    pub nb: [usize; 4],
    /// The tensor's name; never null.
    pub name: *const c_char,
    /// What `ggml_op_name` says; never null.
    pub op: *const c_char,
    /// What `ggml_type_name` says, or null where the type has no name.
    pub dtype: *const c_char,
    /// The first four sources.
    pub src: [Raw; 4],
    /// What a view looks into.
    pub view_src: Raw,
    /// Where in it, in bytes.
    pub view_offs: usize,
    /// The tensor's flags.
    pub flags: i32,
    /// Padding of the C struct.
    pub reserved: i32,
}

/// `GGML_TENSOR_FLAG_COMPUTE`, in versions that have it: the node is computed.
pub(crate) const COMPUTE: i32 = 16;

impl Default for Node {
    fn default() -> Self {
        Self {
            ne: [1; 4],
            nb: [0; 4],
            name: c"".as_ptr(),
            op: c"".as_ptr(),
            dtype: std::ptr::null(),
            src: [std::ptr::null(); 4],
            view_src: std::ptr::null(),
            view_offs: 0,
            flags: 0,
            reserved: 0,
        }
    }
}

impl Node {
    /// Whether the operator only looks at another tensor's data.
    pub(crate) fn is_view(&self) -> bool {
        matches!(
            self.op(),
            "VIEW" | "RESHAPE" | "PERMUTE" | "TRANSPOSE" | "NONE" | ""
        )
    }

    pub(crate) fn name(&self) -> &str {
        text(&self.name)
    }

    pub(crate) fn op(&self) -> &str {
        text(&self.op)
    }

    pub(crate) fn dtype(&self) -> &str {
        text(&self.dtype)
    }

    /// Number of elements; 0 where an extent makes no sense.
    pub(crate) fn elements(&self) -> usize {
        let product = self.ne.iter().try_fold(1usize, |n, &extent| {
            usize::try_from(extent)
                .ok()
                .and_then(|extent| n.checked_mul(extent))
        });
        product.unwrap_or(0)
    }

    /// Whether the elements, of `size` bytes, follow each other in memory.
    pub(crate) fn is_contiguous(&self, size: usize) -> bool {
        let mut step = size;
        self.ne.iter().zip(self.nb).all(|(&extent, stride)| {
            let follows = extent == 1 || stride == step;
            step = step.saturating_mul(usize::try_from(extent).unwrap_or(0));
            follows
        })
    }
}

/// The text behind a field; empty for null and for what is not UTF-8.
fn text(field: &*const c_char) -> &str {
    if field.is_null() {
        return "";
    }
    // SAFETY: by `Host`'s promise a C string, which lives as long as the node that it was made for
    unsafe { CStr::from_ptr(*field) }.to_str().unwrap_or("")
}

/// Whoever knows the host's `ggml_tensor`.
///
/// # Safety
/// The strings of a [`Node`] are null or C strings that live until the evaluation callback returns, and the bytes of
/// a tensor may be read until then.
pub unsafe trait Host {
    /// The fields of `tensor`, which is not null.
    fn node(&self, tensor: Raw) -> Node;

    /// Where the bytes of `tensor` lie in the host's memory, from its first element on, and how many they are. The
    /// address is null where they lie elsewhere, and the size is 0 where there are none.
    fn bytes(&self, tensor: Raw) -> (*const u8, usize);

    /// Copies `to.len()` bytes of a tensor that lies elsewhere, from its first element on.
    fn copy(&self, tensor: Raw, to: &mut [u8]);

    /// Overwrites the first bytes of a tensor that has been computed, before others use it.
    fn write(&self, tensor: Raw, from: &[u8]);
}
