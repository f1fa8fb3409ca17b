//! The recorder's C ABI: what `include/bitnet_trace.h` declares.
//!
//! The functions here only translate: C structs and strings become the recorder's own ([`abi`]), errors
//! become codes, and a panic stops at the border. `bnt_record` of a tensor that makes no sense is counted
//! like any tensor that can't be recorded, and never ends the host.

// names and shapes are those of the C header
#![allow(non_camel_case_types)]

mod abi;
mod ggml;
mod reserve;
mod settings;
mod site;

use abi::{Fault, bnt_error, bnt_options, bnt_tap, bnt_tensor, code, field, text};
use bitnet_trace::{Engine, Error, Preset, Recorder, Replay, Tap, TensorError, Values};
use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// A recorder of one run.
pub struct bnt_recorder {
    recorder: Recorder,
    run: CString,
    dir: CString,
}

/// The process-wide recorder, if the environment asks for one.
static GLOBAL: OnceLock<Option<bnt_recorder>> = OnceLock::new();

/// Runs `f`; `failed` is the answer if it panics.
fn guard<T>(failed: T, f: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(failed)
}

/// The recorder behind a handle.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed.
unsafe fn handle<'a>(recorder: *const bnt_recorder) -> Option<&'a Recorder> {
    // SAFETY: the caller's promise
    unsafe { recorder.as_ref() }.map(|handle| &handle.recorder)
}

/// A handle for a recorder that is on.
fn wrap(recorder: Recorder) -> Option<bnt_recorder> {
    let run = CString::new(recorder.run()?).ok()?;
    let dir = recorder.run_dir()?.to_string_lossy().into_owned();
    let dir = CString::new(dir).unwrap_or_default();
    Some(bnt_recorder { recorder, run, dir })
}

/// Gives a handle to the caller, or NULL.
fn give(handle: Option<bnt_recorder>) -> *mut bnt_recorder {
    handle.map_or(std::ptr::null_mut(), |h| Box::into_raw(Box::new(h)))
}

/// Version of this interface.
#[unsafe(no_mangle)]
pub extern "C" fn bnt_abi_version() -> u32 {
    abi::VERSION
}

/// The recorder that the environment asks for.
///
/// # Safety
/// The arguments are NULL or C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_from_env(
    engine: *const c_char,
    engine_version: *const c_char,
) -> *mut bnt_recorder {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the caller's promise
        let engine = unsafe { Engine::new(text(engine), text(engine_version)) };
        give(wrap(Recorder::from_env(engine)))
    })
}

/// A recorder that is set up in code.
///
/// # Safety
/// `options` and `error` are NULL or point to structs whose `struct_size` tells their size, with NULL or C
/// strings in the former.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_open(options: *const bnt_options, error: *mut bnt_error) -> *mut bnt_recorder {
    let open = || -> Result<_, (c_int, String)> {
        // SAFETY: the caller's promise
        let options = unsafe { abi::options(options) }.map_err(|e| (code::ARGUMENT, e.to_string()))?;
        // SAFETY: the caller's promise, for these seven strings
        let (dir, run, engine, version, select, replay, replay_at) = unsafe {
            (
                text(options.dir),
                text(options.run),
                text(options.engine),
                text(options.engine_version),
                text(options.select),
                text(options.replay),
                text(options.replay_at),
            )
        };
        if dir.is_empty() {
            return Err((
                code::ARGUMENT,
                "bnt_options.dir is empty; name a directory".into(),
            ));
        }
        let mut builder = (Recorder::builder(&*dir).engine(Engine::new(engine, version))).select(&*select);
        if !run.is_empty() {
            builder = builder.run(run);
        }
        if options.queue_bytes > 0 {
            builder = builder.queue_bytes(usize::try_from(options.queue_bytes).unwrap_or(usize::MAX));
        }
        if !replay.is_empty() {
            let flag = |bit: u32| options.replay_flags & bit != 0;
            let replay = Replay::of(&*replay).at(replay_at);
            builder = builder.replay(replay.partial(flag(1)).other_prompt(flag(2)));
        }
        let wrong = |field: &str, given: i32, known: &str| {
            let cause = format!("bnt_options.{field} is {given}; use {known}");
            Err((code::ARGUMENT, cause))
        };
        builder = builder.values(match options.values {
            0 => Values::Full,
            1 => Values::Stats,
            other => return wrong("values", other, "BNT_VALUES_FULL or BNT_VALUES_STATS"),
        });
        builder = builder.preset(match options.preset {
            0 => Preset::Default,
            1 => Preset::Lossy,
            2 => Preset::Durable,
            other => {
                let known = "BNT_PRESET_DEFAULT, BNT_PRESET_LOSSY or BNT_PRESET_DURABLE";
                return wrong("preset", other, known);
            }
        });
        builder = builder.dequantize(match options.dequantize {
            0 => false,
            1 => true,
            other => return wrong("dequantize", other, "0 or 1"),
        });
        builder.build().map_err(|e| (error_code(&e), e.to_string()))
    };
    let opened = guard(Err((code::PANIC, PANICKED.into())), open);
    let (code, message) = match &opened {
        Ok(_) => (code::OK, ""),
        Err((code, message)) => (*code, message.as_str()),
    };
    // SAFETY: the caller's promise
    unsafe { abi::report(error, code, message) };
    guard(std::ptr::null_mut(), || give(opened.ok().and_then(wrap)))
}

const PANICKED: &str = "the recorder panicked; this is a defect of the recorder";

fn error_code(error: &Error) -> c_int {
    match error {
        Error::RunName(_) | Error::Selection(_) => code::ARGUMENT,
        Error::Replay(_) => code::REPLAY,
        Error::Failed { .. } => code::INCOMPLETE,
        _ => code::IO,
    }
}

/// The process-wide recorder from the environment.
///
/// # Safety
/// The arguments are NULL or C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_global(
    engine: *const c_char,
    engine_version: *const c_char,
) -> *mut bnt_recorder {
    guard(std::ptr::null_mut(), || {
        let global = GLOBAL.get_or_init(|| {
            // SAFETY: the caller's promise
            let engine = unsafe { Engine::new(text(engine), text(engine_version)) };
            wrap(Recorder::global(engine).clone())
        });
        // handles are only read through: the C type is not const as closing one is not
        global
            .as_ref()
            .map_or(std::ptr::null_mut(), |h| std::ptr::from_ref(h).cast_mut())
    })
}

/// Whether the recorder takes tensors.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_is_on(recorder: *const bnt_recorder) -> c_int {
    guard(0, || {
        // SAFETY: the caller's promise
        let recorder = unsafe { handle(recorder) };
        recorder.is_some_and(Recorder::is_on).into()
    })
}

/// Whether a tensor with this tap would be recorded.
///
/// # Safety
/// As for [`bnt_record`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_wants(recorder: *const bnt_recorder, tap: *const bnt_tap) -> c_int {
    guard(0, || {
        // SAFETY: the caller's promise
        let Some(recorder) = (unsafe { handle(recorder) }) else {
            return 0;
        };
        // SAFETY: the caller's promise
        let wanted = unsafe { abi::with_tap(tap, None, |tap| recorder.wants(&tap)) };
        wanted.unwrap_or(false).into()
    })
}

/// The run's name.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_run_name(recorder: *const bnt_recorder) -> *const c_char {
    // SAFETY: the caller's promise
    unsafe { recorder.as_ref() }.map_or(std::ptr::null(), |h| h.run.as_ptr())
}

/// The run's directory.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_run_dir(recorder: *const bnt_recorder) -> *const c_char {
    // SAFETY: the caller's promise
    unsafe { recorder.as_ref() }.map_or(std::ptr::null(), |h| h.dir.as_ptr())
}

/// A forward call begins.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_begin_pass(recorder: *mut bnt_recorder) {
    guard((), || {
        // SAFETY: the caller's promise
        if let Some(recorder) = unsafe { handle(recorder) } {
            recorder.begin_pass();
        }
    });
}

/// Token ids of a request.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `ids` is NULL or holds `n` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_tokens(
    recorder: *mut bnt_recorder,
    request: i32,
    first_seq: i64,
    ids: *const i32,
    n: usize,
) {
    guard((), || {
        // SAFETY: the caller's promise
        let (recorder, ids) = unsafe { (handle(recorder), abi::slice(ids, n)) };
        if let (Some(recorder), Ok(Some(ids))) = (recorder, ids) {
            recorder.tokens(request, first_seq, ids);
        }
    });
}

/// Records a tensor.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed. `tap` and `tensor` are NULL or point to structs
/// whose `struct_size` tells their size, whose strings are NULL or C strings, and whose arrays and data are
/// NULL or hold as many entries and bytes as the struct says; nobody writes to them meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_record(
    recorder: *mut bnt_recorder,
    tap: *const bnt_tap,
    tensor: *const bnt_tensor,
) -> c_int {
    // SAFETY: the caller's promise
    unsafe { handle(recorder).map_or(code::OK, |recorder| record(recorder, None, tap, tensor)) }
}

/// Records a tensor, of `stage` where there is one, and tells what became of it.
///
/// # Safety
/// As for [`bnt_record`], of `tap` and `tensor`.
unsafe fn record(
    recorder: &Recorder,
    stage: Option<&str>,
    tap: *const bnt_tap,
    tensor: *const bnt_tensor,
) -> c_int {
    let record = || -> Result<(), Fault> {
        // SAFETY: the caller's promise
        unsafe {
            abi::with_tap(tap, stage, |tap| {
                if reserve::starving() && recorder.wants(&tap) {
                    let error = TensorError::OutOfMemory(0);
                    recorder.drop_tensor(tap, &error.reason());
                    return Err(Fault::Tensor(error));
                }
                let counted = |fault: Fault| {
                    recorder.drop_tensor(tap, &fault.to_string());
                    fault
                };
                let tensor: &bnt_tensor = field(tensor, "bnt_tensor").map_err(counted)?;
                recorder.try_record(tap, tensor).map_err(Fault::Tensor)
            })
            .inspect_err(|fault| recorder.drop_tensor(Tap::new("", 0, -1), &fault.to_string()))?
        }
    };
    match guard(None, || Some(record())) {
        Some(Ok(())) => code::OK,
        Some(Err(Fault::Tensor(TensorError::Unreadable(_)))) => code::ARGUMENT,
        Some(Err(Fault::Tensor(_))) => code::DROPPED,
        Some(Err(_)) => code::ARGUMENT,
        None => {
            guard((), || recorder.drop_tensor(Tap::new("", 0, -1), PANICKED));
            code::PANIC
        }
    }
}

/// Records a tensor, and in a replay overwrites it.
///
/// # Safety
/// As for [`bnt_record`]; the tensor's data may be written, and nobody else reads or writes it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_replay(
    recorder: *mut bnt_recorder,
    tap: *const bnt_tap,
    tensor: *const bnt_tensor,
) -> c_int {
    // SAFETY: the caller's promise
    let Some(recorder) = (unsafe { handle(recorder) }) else {
        return code::OK;
    };
    // SAFETY: the caller's promise
    let recorded = unsafe { record(recorder, None, tap, tensor) };
    if !recorder.is_replaying() {
        return recorded;
    }
    // SAFETY: the caller's promise
    let replaced = guard(None, || unsafe {
        let tensor: &bnt_tensor = field(tensor, "bnt_tensor").ok()?;
        let replay = |tap: Tap<'_>| {
            tensor
                .with_view_mut(|view| recorder.replay_recorded(tap, view))
                .ok()
        };
        abi::with_tap(tap, None, replay).ok().flatten()
    });
    match replaced {
        Some(true) => code::REPLAYED,
        _ if recorder.replay_error().is_some() => code::REPLAY,
        _ => recorded,
    }
}

/// Why the replay stopped.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `error` is NULL or points to a struct whose `struct_size`
/// tells its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_replay_error(recorder: *const bnt_recorder, error: *mut bnt_error) -> c_int {
    guard(code::PANIC, || {
        // SAFETY: the caller's promise
        let stopped = unsafe { handle(recorder) }.and_then(Recorder::replay_error);
        let (code, message) = match stopped {
            Some(stopped) => (code::REPLAY, stopped.to_string()),
            None => (code::OK, String::new()),
        };
        // SAFETY: the caller's promise
        unsafe { abi::report(error, code, &message) };
        code
    })
}

/// Counts a tensor that the host could not hand over.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `stage` and `reason` are NULL or C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_drop(
    recorder: *mut bnt_recorder,
    stage: *const c_char,
    layer: i32,
    reason: *const c_char,
) {
    guard((), || {
        // SAFETY: the caller's promise
        let (recorder, stage, reason) = unsafe { (handle(recorder), text(stage), text(reason)) };
        if let Some(recorder) = recorder {
            recorder.drop_tensor(Tap::new(&stage, layer, -1), &reason);
        }
    });
}

/// The engine cannot go on.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `cause` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_fail(recorder: *mut bnt_recorder, cause: *const c_char) {
    guard((), || {
        // SAFETY: the caller's promise
        let (recorder, cause) = unsafe { (handle(recorder), text(cause)) };
        if let Some(recorder) = recorder {
            recorder.fail(if cause.is_empty() {
                "the engine failed"
            } else {
                &cause
            });
        }
    });
}

/// The model file.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `path` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_set_model(recorder: *mut bnt_recorder, path: *const c_char) -> c_int {
    guard(code::PANIC, || {
        // SAFETY: the caller's promise
        let (recorder, path) = unsafe { (handle(recorder), text(path)) };
        if path.is_empty() {
            return code::ARGUMENT;
        }
        if let Some(recorder) = recorder {
            recorder.describe(|info| info.model.get_or_insert_default().path = path.into_owned());
        }
        code::OK
    })
}

/// What else is known of the run.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed; `key` and `value` are NULL or C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_set(
    recorder: *mut bnt_recorder,
    key: *const c_char,
    value: *const c_char,
) -> c_int {
    guard(code::PANIC, || {
        // SAFETY: the caller's promise
        let (recorder, key, value) = unsafe { (handle(recorder), text(key), text(value)) };
        let Some(recorder) = recorder else { return code::OK };
        let mut understood = true;
        recorder.describe(|info| understood = settings::set(info, &key, &value));
        if understood { code::OK } else { code::ARGUMENT }
    })
}

/// Seals the run and frees the recorder.
///
/// # Safety
/// `recorder` is NULL or a handle that has not been closed, and that nobody uses any more (the process-wide
/// one may be used); `error` is NULL or points to a struct whose `struct_size` tells its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bnt_close(recorder: *mut bnt_recorder, error: *mut bnt_error) -> c_int {
    let close = || {
        // SAFETY: the caller's promise
        let Some(handle) = (unsafe { handle(recorder) }) else {
            return (code::OK, String::new());
        };
        let result = handle.finish();
        let replay_stopped = handle.replay_error().is_some();
        let global = GLOBAL.get().and_then(Option::as_ref).map(std::ptr::from_ref);
        if global != Some(recorder.cast_const()) {
            // SAFETY: made by Box::into_raw in `give`, and by the caller's promise not freed before
            drop(unsafe { Box::from_raw(recorder) });
        }
        match result {
            Ok(_) => (code::OK, String::new()),
            Err(e) if replay_stopped => (code::REPLAY, e.to_string()),
            Err(e) => (error_code(&e), e.to_string()),
        }
    };
    let (code, message) = guard((code::PANIC, PANICKED.into()), close);
    // SAFETY: the caller's promise
    unsafe { abi::report(error, code, &message) };
    code
}
