//! The structs of the C header, and how they become the recorder's own.

use bitnet_trace::{AsTensor, DType, Tap, TensorError, TensorView, TensorViewMut};
use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{MaybeUninit, offset_of};

/// `BNT_ABI_VERSION`.
pub const VERSION: u32 = 1;
/// `BNT_MAX_DIMS`.
const MAX_DIMS: usize = 16;

/// Return codes, without their prefix `BNT_` or `BNT_ERR_`.
pub mod code {
    use std::ffi::c_int;
    pub const OK: c_int = 0;
    pub const DROPPED: c_int = 1;
    pub const ARGUMENT: c_int = 2;
    pub const IO: c_int = 3;
    pub const INCOMPLETE: c_int = 4;
    pub const PANIC: c_int = 5;
    pub const REPLAYED: c_int = 6;
    pub const REPLAY: c_int = 7;
}

#[repr(C)]
pub struct bnt_error {
    pub struct_size: u32,
    pub code: i32,
    pub message: [c_char; 500],
}

/// Later fields are absent from the structs of older headers.
#[repr(C)]
pub struct bnt_options {
    pub struct_size: u32,
    pub values: i32,
    pub dir: *const c_char,
    pub run: *const c_char,
    pub engine: *const c_char,
    pub engine_version: *const c_char,
    pub queue_bytes: u64,
    pub select: *const c_char,
    pub preset: i32,
    pub dequantize: i32,
    pub replay: *const c_char,
    pub replay_at: *const c_char,
    pub replay_flags: u32,
    pub reserved: u32,
}

/// Size of `bnt_options` in the first version of the header.
const FIRST_OPTIONS: usize = offset_of!(bnt_options, select);

#[repr(C)]
pub struct bnt_tensor {
    pub struct_size: u32,
    pub dtype: i32,
    pub data: *const c_void,
    pub data_size: usize,
    pub byte_offset: usize,
    pub shape: *const i64,
    pub byte_strides: *const i64,
    pub n_dims: i32,
    pub reserved: i32,
}

#[repr(C)]
pub struct bnt_tap {
    pub struct_size: u32,
    pub layer: i32,
    pub stage: *const c_char,
    pub name: *const c_char,
    pub op: *const c_char,
    pub seq: i64,
    pub positions: *const i64,
    pub requests: *const i32,
    pub n_tokens: usize,
    pub request: i32,
    pub token_axis: i32,
    pub causal_axis: i32,
    pub reserved: i32,
}

/// What is wrong with an argument, or with the tensor it describes.
#[derive(Debug)]
pub enum Fault {
    Null(&'static str),
    Size {
        of: &'static str,
        given: u32,
        least: usize,
    },
    Array(&'static str),
    Tensor(TensorError),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Null(of) => write!(f, "{of} is NULL"),
            Fault::Size { of, given, least } => {
                write!(
                    f,
                    "{of}.struct_size is {given}, below {least}: set it to sizeof({of})"
                )
            }
            Fault::Array(of) => write!(f, "{of} has more entries than memory has addresses"),
            Fault::Tensor(error) => error.fmt(f),
        }
    }
}

/// A struct whose first field is its size; one that is larger than ours belongs to a newer header.
///
/// # Safety
/// `pointer` is NULL or points to a struct of the size that its `struct_size` tells.
pub unsafe fn field<'a, T>(pointer: *const T, of: &'static str) -> Result<&'a T, Fault> {
    if pointer.is_null() {
        return Err(Fault::Null(of));
    }
    // SAFETY: every such struct begins with a u32, which tells that at least a T may be read
    unsafe {
        let given = *pointer.cast::<u32>();
        if (given as usize) < size_of::<T>() {
            let least = size_of::<T>();
            return Err(Fault::Size { of, given, least });
        }
        Ok(&*pointer)
    }
}

/// The caller's options; what an older header does not have is 0 or NULL.
///
/// # Safety
/// `pointer` is NULL or points to a struct of the size that its `struct_size` tells.
pub unsafe fn options(pointer: *const bnt_options) -> Result<bnt_options, Fault> {
    let of = "bnt_options";
    if pointer.is_null() {
        return Err(Fault::Null(of));
    }
    let mut options = MaybeUninit::<bnt_options>::zeroed();
    // SAFETY: the struct begins with a u32, which tells how much of it may be read; at most a whole one is
    // copied, and zeros are valid for every field
    unsafe {
        let given = *pointer.cast::<u32>();
        if (given as usize) < FIRST_OPTIONS {
            let least = FIRST_OPTIONS;
            return Err(Fault::Size { of, given, least });
        }
        let size = size_of::<bnt_options>().min(given as usize);
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), options.as_mut_ptr().cast(), size);
        Ok(options.assume_init())
    }
}

/// A C string; NULL is empty, and bytes that are not UTF-8 become U+FFFD.
///
/// # Safety
/// `pointer` is NULL or a C string that lives as long as the result.
pub unsafe fn text<'a>(pointer: *const c_char) -> Cow<'a, str> {
    if pointer.is_null() {
        return Cow::Borrowed("");
    }
    // SAFETY: the caller's promise
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy()
}

/// `n` entries; `None` for NULL.
///
/// # Safety
/// `pointer` is NULL or points to `n` entries that live as long as the result.
pub unsafe fn slice<'a, T>(pointer: *const T, n: usize) -> Result<Option<&'a [T]>, Fault> {
    if pointer.is_null() {
        return Ok(None);
    }
    if n.checked_mul(size_of::<T>())
        .is_none_or(|bytes| isize::try_from(bytes).is_err())
    {
        return Err(Fault::Array("an array"));
    }
    // SAFETY: the caller's promise; the size fits, as was checked
    Ok(Some(unsafe { std::slice::from_raw_parts(pointer, n) }))
}

/// Calls `f` with the recorder's form of a tap, of `stage` where there is one and not of the tap's.
///
/// # Safety
/// `tap` is NULL or points to a `bnt_tap` of the size that it tells, with strings and arrays as the header
/// asks for.
pub unsafe fn with_tap<R>(
    tap: *const bnt_tap,
    stage: Option<&str>,
    f: impl FnOnce(Tap<'_>) -> R,
) -> Result<R, Fault> {
    // SAFETY: the caller's promise, for the struct, its strings and its arrays
    let (tap, [own, name, op], positions, requests) = unsafe {
        let tap: &bnt_tap = field(tap, "bnt_tap")?;
        (
            tap,
            [text(tap.stage), text(tap.name), text(tap.op)],
            slice(tap.positions, tap.n_tokens)?,
            slice(tap.requests, tap.n_tokens)?,
        )
    };
    let mut out = Tap::new(stage.unwrap_or(&own), tap.layer, tap.seq)
        .name(&name)
        .op(&op)
        .request(tap.request);
    if let Some(positions) = positions {
        out = out.positions(positions);
    }
    if let Some(requests) = requests {
        out = out.requests(requests);
    }
    if let Ok(axis) = usize::try_from(tap.token_axis) {
        out = out.token_axis(axis);
    }
    if let Ok(axis) = usize::try_from(tap.causal_axis) {
        out = out.causal_axis(axis);
    }
    Ok(f(out))
}

/// A tensor's memory, checked as far as its struct goes.
struct Memory {
    dtype: DType,
    dims: usize,
    shape: [usize; MAX_DIMS],
    strides: Option<[isize; MAX_DIMS]>,
    offset: usize,
}

impl bnt_tensor {
    fn memory(&self) -> Result<Memory, TensorError> {
        let unreadable = |what: &str| TensorError::Unreadable(what.to_owned());
        let dtype = usize::try_from(self.dtype)
            .ok()
            .and_then(|d| DType::ALL.get(d).copied());
        let dtype = dtype.ok_or_else(|| TensorError::DType(format!("number {}", self.dtype)))?;
        // bytes and elements of a block, which is one element unless the dtype is packed
        let (size, block) = (dtype.size(), dtype.block());
        let dims = usize::try_from(self.n_dims).ok().filter(|&n| n <= MAX_DIMS);
        let dims = dims.ok_or_else(|| unreadable("n_dims is not in 0 ... 16"))?;
        // SAFETY: by the promise of `bnt_record`'s caller, the arrays hold n_dims entries
        let (extents, byte_strides) = unsafe {
            let fault = |fault: Fault| unreadable(&fault.to_string());
            (
                slice(self.shape, dims).map_err(fault)?,
                slice(self.byte_strides, dims).map_err(fault)?,
            )
        };
        let extents = match extents {
            Some(extents) => extents,
            None if dims == 0 => &[],
            None => return Err(unreadable("shape is NULL")),
        };
        if self.data.is_null() && self.data_size > 0 {
            return Err(unreadable("data is NULL"));
        }
        if isize::try_from(self.data_size).is_err() {
            return Err(unreadable(&Fault::Array("an array").to_string()));
        }
        let mut shape = [0usize; MAX_DIMS];
        for (to, &extent) in shape.iter_mut().zip(extents) {
            *to = usize::try_from(extent).map_err(|_| unreadable("an extent is below 0"))?;
        }
        if !self.byte_offset.is_multiple_of(size) {
            return Err(unreadable("byte_offset is not a multiple of the element's size"));
        }
        let offset = (self.byte_offset / size).saturating_mul(block);
        let mut strides = [0isize; MAX_DIMS];
        for (to, &stride) in strides.iter_mut().zip(byte_strides.unwrap_or_default()) {
            if stride % size as i64 != 0 {
                return Err(TensorError::ByteStride { stride, size });
            }
            *to = ((stride / size as i64) as isize).saturating_mul(block as isize);
        }
        // the elements of a row of blocks follow each other
        if let Some(inner) = strides[..dims].last_mut().filter(|s| **s == block as isize) {
            *inner = 1;
        }
        Ok(Memory {
            dtype,
            dims,
            shape,
            strides: byte_strides.map(|_| strides),
            offset,
        })
    }

    /// Calls `f` with the tensor, to be written.
    ///
    /// # Safety
    /// `data` is NULL or holds `data_size` bytes that nobody else reads or writes meanwhile.
    pub unsafe fn with_view_mut<R>(
        &self,
        f: impl FnOnce(&mut TensorViewMut<'_>) -> R,
    ) -> Result<R, TensorError> {
        let memory = self.memory()?;
        let data = match self.data.is_null() {
            true => &mut [][..],
            // SAFETY: the caller's promise; the size was checked
            false => unsafe {
                std::slice::from_raw_parts_mut(self.data.cast::<u8>().cast_mut(), self.data_size)
            },
        };
        let view = TensorViewMut::new(memory.dtype, &memory.shape[..memory.dims], data).offset(memory.offset);
        Ok(match &memory.strides {
            None => f(&mut { view }),
            Some(strides) => f(&mut view.strides(&strides[..memory.dims])),
        })
    }
}

impl AsTensor for bnt_tensor {
    fn with_view(&self, f: &mut dyn FnMut(TensorView<'_>)) -> Result<(), TensorError> {
        let memory = self.memory()?;
        let data = match self.data.is_null() {
            true => &[][..],
            // SAFETY: by the promise of `bnt_record`'s caller, data holds data_size bytes, which nobody writes to meanwhile;
            // the size was checked
            false => unsafe { std::slice::from_raw_parts(self.data.cast::<u8>(), self.data_size) },
        };
        let view = TensorView::new(memory.dtype, &memory.shape[..memory.dims], data).offset(memory.offset);
        match &memory.strides {
            None => f(view),
            Some(strides) => f(view.strides(&strides[..memory.dims])),
        }
        Ok(())
    }
}

/// Fills the caller's error struct, if there is one of the right size.
///
/// # Safety
/// `error` is NULL or points to a struct of the size that its `struct_size` tells.
pub unsafe fn report(error: *mut bnt_error, code: c_int, message: &str) {
    // SAFETY: the caller's promise
    if unsafe { field(error.cast_const(), "bnt_error") }.is_err() {
        return;
    }
    // SAFETY: not NULL, and of this size, as was checked
    let error = unsafe { &mut *error };
    error.code = code;
    let room = error.message.len() - 1;
    let end = message.floor_char_boundary(room);
    error.message.fill(0);
    for (to, byte) in error.message.iter_mut().zip(message[..end].bytes()) {
        *to = byte as c_char;
    }
}
