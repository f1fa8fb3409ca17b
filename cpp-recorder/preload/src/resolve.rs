//! Which function a caller would have called without us.

use crate::Address;
use std::{
    ffi::{CStr, c_int, c_void},
    mem::MaybeUninit,
    sync::{Mutex, PoisonError},
};

/// A library that is loaded.
pub struct Library {
    handle: *mut c_void,
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: opened once by us
        unsafe { libc::dlclose(self.handle) };
    }
}

impl Library {
    /// The library, or the program, that holds an address.
    // `then`, not `then_some`: a library that is not there must not be closed.
    pub fn that_holds(address: *const c_void) -> Option<Self> {
        let info = info(address)?;
        if info.dli_fname.is_null() {
            return None;
        }
        // SAFETY: a C string of the dynamic linker's. NOLOAD: nothing is loaded that is not there already.
        let handle = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then(|| Self { handle })
    }

    /// The program itself and what it was linked with.
    pub fn program() -> Option<Self> {
        // SAFETY: NULL is the program
        let handle = unsafe { libc::dlopen(std::ptr::null(), libc::RTLD_LAZY) };
        (!handle.is_null()).then(|| Self { handle })
    }

    /// A symbol of the library or of what it depends on, but not ours.
    pub fn symbol(&self, name: &CStr) -> Option<Address> {
        // SAFETY: an open handle and a C string
        foreign(unsafe { libc::dlsym(self.handle, name.as_ptr()) })
    }
}

fn info(address: *const c_void) -> Option<libc::Dl_info> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is only compared; zeros are valid for every field
    unsafe { (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init()) }
}

/// Where the library that holds an address begins.
pub fn base(address: *const c_void) -> Option<*const c_void> {
    info(address).map(|i| i.dli_fbase.cast_const())
}

fn foreign(symbol: Address) -> Option<Address> {
    (!symbol.is_null() && base(symbol) != base(base as *const c_void)).then_some(symbol)
}

/// The function `name` that a call from `caller` would reach: of the library that calls or of those that it was linked
/// with, which a program may have loaded out of everybody else's sight.
pub fn real(name: &'static CStr, caller: *const c_void) -> Option<Address> {
    static KNOWN: Mutex<Vec<(usize, &CStr, usize)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|k| k.0 == caller.addr() && k.1 == name);
    // A library may be gone, and another at its place.
    if let Some(found) = found.filter(|k| base(std::ptr::without_provenance(k.2)).is_some()) {
        return Some(std::ptr::with_exposed_provenance_mut(found.2));
    }
    let near = Library::that_holds(caller).and_then(|library| library.symbol(name));
    // SAFETY: a C string
    let next = || foreign(unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) });
    let found = near.or_else(next).or_else(|| anywhere(name))?;
    known.retain(|k| k.0 != caller.addr() || k.1 != name);
    known.push((caller.addr(), name, found.expose_provenance()));
    Some(found)
}

/// The first library of all that are loaded.
fn anywhere(name: &'static CStr) -> Option<Address> {
    struct Search {
        name: &'static CStr,
        found: Option<Address>,
    }
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
        // SAFETY: the dynamic linker's struct, and the search below
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // SAFETY: a C string of the dynamic linker's
        let handle = unsafe { libc::dlopen(info.dlpi_name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if !handle.is_null() {
            search.found = Library { handle }.symbol(search.name);
        }
        search.found.is_some().into()
    }
    let mut search = Search { name, found: None };
    // SAFETY: `look` is called with what is given here, before this returns
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}
