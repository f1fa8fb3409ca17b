//! Reading `ggml_tensor` without its header: in a layout that the host's own ggml confirms.

use crate::{
    Address,
    resolve::{self, Library},
    text,
};
use bitnet_trace_ggml::{Host, Node, Raw};
use std::{
    ffi::{CStr, c_char, c_int, c_void},
    sync::atomic::{AtomicPtr, Ordering},
};

/// Where the fields stand that have moved. In all known versions `type` is at 0, `buffer` at 8, `ne` at 16, `nb` at 48
/// `op` at 80 and `flags` at 148.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    src: usize,
    view_src: usize,
    view_offs: usize,
    data: usize,
    name: usize,
}

const TYPE: usize = 0;
const BUFFER: usize = 8;
const NE: usize = 16;
const NB: usize = 48;
const OP: usize = 80;
const FLAGS: usize = 148;
const SOURCES: usize = 10;

impl Layout {
    const fn with_sources_at(src: usize) -> Self {
        let view_src = src + SOURCES * size_of::<usize>();
        Self {
            src,
            view_src,
            view_offs: view_src + 8,
            data: view_src + 16,
            name: view_src + 24,
        }
    }
}

/// llama.cpp since the end of 2024; before that, and bitnet.cpp, with the field `grad`.
const LAYOUTS: [Layout; 2] = [Layout::with_sources_at(152), Layout::with_sources_at(160)];

/// Numbers of operators and element types from here on are in no version.
const OPS: usize = 256;
const TYPES: usize = 64;
const F32: c_int = 0;
const F16: c_int = 1;
const Q8_0: c_int = 8;

#[repr(C)]
struct InitParams {
    size: usize,
    buffer: *mut c_void,
    no_alloc: bool,
}

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the host's ggml that are called.
        #[derive(Clone, Copy)]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, String> {
                // Names have an end, so that they are C strings.
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default();
                        let symbol = library.symbol(name).ok_or_else(|| format!("it has no {}", stringify!($name)))?;
                        // SAFETY: the function has had this signature in all versions that have the layouts
                        unsafe { std::mem::transmute::<Address, unsafe extern "C" fn($($argument),*) $(-> $result)?>(symbol) }
                    },)*
                })
            }
        }
    };
}

functions! {
    ggml_init: fn(InitParams) -> *mut c_void;
    ggml_free: fn(*mut c_void);
    ggml_new_tensor_4d: fn(*mut c_void, c_int, i64, i64, i64, i64) -> *mut c_void;
    ggml_set_name: fn(*mut c_void, *const c_char) -> *mut c_void;
    ggml_get_name: fn(Raw) -> *const c_char;
    ggml_mul_mat: fn(*mut c_void, *mut c_void, *mut c_void) -> *mut c_void;
    ggml_permute: fn(*mut c_void, *mut c_void, c_int, c_int, c_int, c_int) -> *mut c_void;
    ggml_view_2d: fn(*mut c_void, *mut c_void, i64, i64, usize, usize) -> *mut c_void;
    ggml_nbytes: fn(Raw) -> usize;
    ggml_nelements: fn(Raw) -> i64;
    ggml_op_name: fn(c_int) -> *const c_char;
    ggml_type_name: fn(c_int) -> *const c_char;
    ggml_type_size: fn(c_int) -> usize;
    ggml_blck_size: fn(c_int) -> i64;
    ggml_backend_cpu_buffer_from_ptr: fn(*mut c_void, usize) -> *mut c_void;
    ggml_backend_buffer_free: fn(*mut c_void);
    ggml_backend_buffer_is_host: fn(*mut c_void) -> bool;
    ggml_backend_tensor_alloc: fn(*mut c_void, *mut c_void, *mut c_void) -> c_int;
    ggml_backend_tensor_get: fn(Raw, *mut c_void, usize, usize);
    ggml_backend_tensor_set: fn(Raw, *const c_void, usize, usize);
    ggml_set_input: fn(*mut c_void);
}

/// A ggml whose tensors can be read.
pub struct Ggml {
    call: Functions,
    layout: Layout,
    /// Where its library begins: names are in it.
    base: *const c_void,
    ops: [AtomicPtr<c_char>; OPS],
    types: [AtomicPtr<c_char>; TYPES],
    /// Its name and version, as far as they are told.
    pub engine: &'static str,
    pub version: String,
}

// SAFETY: the addresses in it are of functions and constants
unsafe impl Send for Ggml {}

/// A name that was looked up and is none.
const NONE: &CStr = c"";

impl Ggml {
    /// The ggml whose library holds `function`, called by `caller`.
    ///
    /// # Errors
    /// What about it is not known.
    pub fn of(function: *const c_void, caller: *const c_void) -> Result<Self, String> {
        let library = Library::that_holds(function).or_else(Library::program);
        let library = library.ok_or("its library cannot be looked into")?;
        let call = Functions::of(&library)?;
        let mut ggml = Self {
            call,
            layout: LAYOUTS[0],
            base: resolve::base(call.ggml_type_name as *const c_void).unwrap_or(std::ptr::null()),
            ops: [const { AtomicPtr::new(std::ptr::null_mut()) }; OPS],
            types: [const { AtomicPtr::new(std::ptr::null_mut()) }; TYPES],
            engine: "ggml",
            version: version(&library),
        };
        ggml.layout = ggml.confirmed()?;
        if ggml.dtype(36).is_some_and(|name| name == c"i2_s") {
            ggml.engine = "bitnet.cpp";
        } else if Library::that_holds(caller).is_some_and(|l| l.symbol(c"llama_decode").is_some()) {
            ggml.engine = "llama.cpp";
        }
        Ok(ggml)
    }

    /// The layout that the host's functions agree with.
    fn confirmed(&mut self) -> Result<Layout, String> {
        let params = InitParams {
            size: 64 << 10,
            buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: the host's function with its arguments
        let context = unsafe { (self.call.ggml_init)(params) };
        if context.is_null() {
            return Err("ggml_init gives no context".into());
        }
        let mut disagree = Vec::new();
        let found = LAYOUTS.into_iter().find(|&layout| {
            self.layout = layout;
            // SAFETY: a fresh context with room for a few tensors
            let result = unsafe { self.confirm(context) };
            result.map_err(|what| disagree.push(what)).is_ok()
        });
        // SAFETY: made above
        unsafe { (self.call.ggml_free)(context) };
        found.ok_or_else(|| {
            let disagree = disagree.join(", ");
            format!("its ggml_tensor is laid out in a way that is not known ({disagree})")
        })
    }

    /// Makes tensors with the host's functions, and compares what is read with what they are.
    ///
    /// # Safety
    /// `context` has room for tensors.
    unsafe fn confirm(&self, context: *mut c_void) -> Result<(), &'static str> {
        let agree = |agrees: bool, what| if agrees { Ok(()) } else { Err(what) };
        let call = &self.call;
        // SAFETY: the host's functions with their arguments; a tensor has more bytes than the layouts' last field
        unsafe {
            let make =
                |dtype, ne: [i64; 4]| (call.ggml_new_tensor_4d)(context, dtype, ne[0], ne[1], ne[2], ne[3]);
            let a = make(F32, [3, 5, 7, 11]);
            let b = make(F32, [3, 4, 7, 11]);
            let half = make(F16, [3, 5, 2, 1]);
            let packed = make(Q8_0, [64, 3, 1, 1]);
            let last = make(F32, [4, 2, 1, 1]);
            agree(
                ![a, b, half, packed, last].contains(&std::ptr::null_mut()),
                "no tensor is made",
            )?;
            (call.ggml_set_name)(a, c"bitnet-trace a".as_ptr());
            agree(
                (call.ggml_get_name)(a) == self.at::<c_char>(a, self.layout.name),
                "name",
            )?;
            let product = (call.ggml_mul_mat)(context, a, b);
            let view = (call.ggml_view_2d)(context, a, 3, 2, 12, 24);
            let turned = (call.ggml_permute)(context, b, 0, 2, 1, 3);
            for (tensor, op, dtype, ne, nb) in [
                (a, "NONE", "f32", [3, 5, 7, 11], [4, 12, 60, 420]),
                (half, "NONE", "f16", [3, 5, 2, 1], [2, 6, 30, 60]),
                (packed, "NONE", "q8_0", [64, 3, 1, 1], [34, 68, 204, 204]),
                (product, "MUL_MAT", "f32", [5, 4, 7, 11], [4, 20, 80, 560]),
                (view, "VIEW", "f32", [3, 2, 1, 1], [4, 12, 24, 24]),
                (turned, "PERMUTE", "f32", [3, 7, 4, 11], [4, 48, 12, 336]),
            ] {
                let node = self.node(tensor);
                agree(text(node.op) == op, "op")?;
                agree(text(node.dtype) == dtype, "type")?;
                agree(node.ne == ne, "ne")?;
                agree(node.nb == nb, "nb")?;
                let elements: i64 = ne.iter().product();
                agree((call.ggml_nelements)(tensor) == elements, "number of elements")?;
                let dtype = self.field::<c_int>(tensor, TYPE);
                let (size, block) = ((call.ggml_type_size)(dtype), (call.ggml_blck_size)(dtype));
                agree(
                    size == nb[0] && block == if size == 34 { 32 } else { 1 },
                    "size of a type",
                )?;
                agree(
                    (call.ggml_nbytes)(tensor) == elements as usize / block as usize * size,
                    "number of bytes",
                )?;
            }
            agree(
                self.node(product).src[..2] == [a.cast_const(), b.cast_const()],
                "src",
            )?;
            agree(
                self.node(product).src[2].is_null() && self.node(a).view_src.is_null(),
                "src",
            )?;
            let view = self.node(view);
            agree(
                view.view_src == a.cast_const() && view.view_offs == 24,
                "view_src",
            )?;
            agree(self.node(turned).view_src == b.cast_const(), "view_src")?;
            agree(self.node(last).flags == 0, "flags")?;
            (call.ggml_set_input)(last);
            agree(self.node(last).flags == 1, "flags")?;
            self.confirm_data(last)
        }
    }

    /// # Safety
    /// `tensor` is a tensor of 32 bytes without data.
    unsafe fn confirm_data(&self, tensor: *mut c_void) -> Result<(), &'static str> {
        #[repr(align(256))]
        struct Memory([u8; 1024]);
        let mut memory = Memory([7; 1024]);
        let call = &self.call;
        let start = (&raw mut memory.0).cast::<c_void>();
        // SAFETY: the buffer is of memory that lives longer than it, and the tensor fits in
        unsafe {
            if !self.field::<Raw>(tensor, self.layout.data).is_null() {
                return Err("data");
            }
            let buffer = (call.ggml_backend_cpu_buffer_from_ptr)(start, size_of::<Memory>());
            if buffer.is_null() {
                return Err("no buffer is made");
            }
            (call.ggml_backend_tensor_alloc)(buffer, tensor, start);
            let mut copy = [0u8; 32];
            (call.ggml_backend_tensor_get)(tensor, copy.as_mut_ptr().cast(), 0, copy.len());
            let result = if self.field::<*mut c_void>(tensor, BUFFER) != buffer {
                Err("buffer")
            } else if !(call.ggml_backend_buffer_is_host)(buffer) {
                Err("memory of the host")
            } else if self.bytes(tensor) != (start.cast_const().cast(), copy.len()) {
                Err("data")
            } else if copy != [7; 32] || !self.writes(tensor, start.cast()) {
                Err("bytes")
            } else {
                Ok(())
            };
            (call.ggml_backend_buffer_free)(buffer);
            result
        }
    }

    /// Whether what is written to a tensor stands in its memory.
    ///
    /// # Safety
    /// `tensor` is a tensor of 32 bytes at `memory`.
    unsafe fn writes(&self, tensor: Raw, memory: *const [u8; 32]) -> bool {
        self.write(tensor, &[9; 32]);
        // SAFETY: the caller's promise
        unsafe { memory.read() == [9; 32] }
    }

    /// The address of a field.
    fn at<T>(&self, tensor: Raw, offset: usize) -> *const T {
        tensor.cast::<u8>().wrapping_add(offset).cast()
    }

    /// # Safety
    /// `tensor` is a tensor of the layout, with a field of this type at the offset.
    unsafe fn field<T: Copy>(&self, tensor: Raw, offset: usize) -> T {
        // SAFETY: the caller's promise
        unsafe { *self.at::<T>(tensor, offset) }
    }

    fn dtype(&self, number: c_int) -> Option<&CStr> {
        self.name(&self.types, number, self.call.ggml_type_name)
    }

    /// The name of a number, if it is one: beyond the last there is no telling what the function answers.
    fn name(
        &self,
        names: &[AtomicPtr<c_char>],
        number: c_int,
        name: unsafe extern "C" fn(c_int) -> *const c_char,
    ) -> Option<&CStr> {
        let slot = names.get(usize::try_from(number).ok()?)?;
        let mut known = slot.load(Ordering::Relaxed);
        if known.is_null() {
            // SAFETY: the number is of a tensor in a graph, or within the tables of every version
            let found = unsafe { name(number) };
            let ours = !found.is_null() && resolve::base(found.cast()) == Some(self.base);
            known = if ours { found } else { NONE.as_ptr() }.cast_mut();
            slot.store(known, Ordering::Relaxed);
        }
        // SAFETY: a literal of the host's library, or ours
        let known = unsafe { CStr::from_ptr(known) };
        (!known.is_empty()).then_some(known)
    }
}

// SAFETY: names are constants of the host's, and a tensor's bytes are there while it is computed
unsafe impl Host for Ggml {
    fn node(&self, tensor: Raw) -> Node {
        // SAFETY: a tensor of the layout that was confirmed
        unsafe {
            let sources = self.field::<[Raw; 4]>(tensor, self.layout.src);
            let op = self.name(&self.ops, self.field(tensor, OP), self.call.ggml_op_name);
            Node {
                ne: self.field(tensor, NE),
                nb: self.field(tensor, NB),
                name: self.at(tensor, self.layout.name),
                op: op.unwrap_or(NONE).as_ptr(),
                dtype: self
                    .dtype(self.field(tensor, TYPE))
                    .map_or(std::ptr::null(), CStr::as_ptr),
                src: sources,
                view_src: self.field(tensor, self.layout.view_src),
                view_offs: self.field(tensor, self.layout.view_offs),
                flags: self.field(tensor, FLAGS),
                reserved: 0,
            }
        }
    }

    fn bytes(&self, tensor: Raw) -> (*const u8, usize) {
        // SAFETY: a tensor of the layout that was confirmed; the buffer of a view is that of what it looks into
        unsafe {
            let data = self.field::<*const u8>(tensor, self.layout.data);
            let dtype = self.dtype(self.field(tensor, TYPE));
            if data.is_null() || dtype.is_none() || self.field::<[i64; 4]>(tensor, NE).iter().any(|&n| n <= 0)
            {
                return (std::ptr::null(), 0);
            }
            let size = (self.call.ggml_nbytes)(tensor);
            let root = self.field::<Raw>(tensor, self.layout.view_src);
            let of = |tensor: Raw| self.field::<*mut c_void>(tensor, BUFFER);
            let buffer = (!root.is_null()).then(|| of(root)).filter(|b| !b.is_null());
            let buffer = buffer.unwrap_or_else(|| of(tensor));
            let here = buffer.is_null() || (self.call.ggml_backend_buffer_is_host)(buffer);
            (if here { data } else { std::ptr::null() }, size)
        }
    }

    fn copy(&self, tensor: Raw, to: &mut [u8]) {
        // SAFETY: as many bytes as `bytes` told
        unsafe { (self.call.ggml_backend_tensor_get)(tensor, to.as_mut_ptr().cast(), 0, to.len()) }
    }

    fn write(&self, tensor: Raw, from: &[u8]) {
        // SAFETY: as many bytes as `bytes` told
        unsafe { (self.call.ggml_backend_tensor_set)(tensor, from.as_ptr().cast(), 0, from.len()) }
    }
}

/// What ggml says of its version; empty where it says nothing.
fn version(library: &Library) -> String {
    let told = |name: &CStr| {
        let symbol = library.symbol(name)?;
        // SAFETY: both functions take nothing and return a literal
        let told = unsafe {
            text(std::mem::transmute::<
                Address,
                unsafe extern "C" fn() -> *const c_char,
            >(symbol)())
        };
        Some(told.to_owned()).filter(|t| !t.is_empty() && t != "unknown")
    };
    let words = [c"ggml_version", c"ggml_commit"].into_iter().filter_map(told);
    let told = words.collect::<Vec<_>>().join(" ");
    if told.is_empty() {
        told
    } else {
        format!("ggml {told}")
    }
}
