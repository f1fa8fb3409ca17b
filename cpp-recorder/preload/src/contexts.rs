//! The contexts of a program, each with a run of its own.

use crate::{Address, layout::Ggml, model, reserve, resolve, tell, threads};
use bitnet_trace::{Engine, Model, Recorder};
use bitnet_trace_ggml::{Host, Observer, Raw, is_stage};
use std::{
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        LazyLock, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// ggml's callback. What the program's own throws passes through ours.
type Callback = unsafe extern "C-unwind" fn(Raw, bool, *mut c_void) -> bool;

static ENABLED: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("BITNET_TRACE_DIR").is_some_and(|dir| !dir.is_empty()));
static STOOD_DOWN: AtomicBool = AtomicBool::new(false);
/// By the scheduler's address. A context is reached from here and by the scheduler that it belongs to, which computes
/// one graph at a time, and has no callback set meanwhile.
static CONTEXTS: Mutex<Vec<(usize, Entry)>> = Mutex::new(Vec::new());

struct Entry(*mut Context);

// SAFETY: see `CONTEXTS`
unsafe impl Send for Entry {}

struct Context {
    chain: Option<Callback>,
    chain_data: *mut c_void,
    /// Who asked for the node that is being computed.
    wanted: bool,
    chain_wanted: bool,
    state: State,
    threads: u32,
}

enum State {
    /// No node of a known stage was seen yet.
    New(Box<Ggml>),
    On(Box<Observer<Ggml>>),
    Off,
}

/// Whether the environment asks for recording.
pub fn enabled() -> bool {
    *ENABLED && !STOOD_DOWN.load(Ordering::Relaxed)
}

pub fn stand_down() {
    STOOD_DOWN.store(true, Ordering::Relaxed);
}

fn contexts() -> MutexGuard<'static, Vec<(usize, Entry)>> {
    CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stands for `ggml_backend_sched_set_eval_callback`.
pub unsafe extern "C" fn set_eval_callback(
    sched: *mut c_void,
    callback: Option<Callback>,
    data: *mut c_void,
    caller: *const c_void,
) {
    type Set = unsafe extern "C" fn(*mut c_void, Option<Callback>, *mut c_void);
    let Some(real) = resolve::real(c"ggml_backend_sched_set_eval_callback", caller) else {
        return;
    };
    // SAFETY: ggml's function
    let set = unsafe { std::mem::transmute::<Address, Set>(real) };
    let ours = if enabled() && !sched.is_null() {
        let context = catch_unwind(AssertUnwindSafe(|| context_of(sched, real, caller)));
        context.ok().flatten()
    } else {
        None
    };
    // SAFETY: ggml's function with its arguments; a context lives until its scheduler is freed
    unsafe {
        match ours {
            Some(context) => {
                ((*context).chain, (*context).chain_data) = (callback, data);
                set(sched, Some(evaluated), context.cast());
            }
            None => set(sched, callback, data),
        }
    }
}

/// The context of a scheduler, unless it can't be observed.
fn context_of(sched: *mut c_void, real: Address, caller: *const c_void) -> Option<*mut Context> {
    let mut contexts = contexts();
    let known = contexts.iter().find(|(address, _)| *address == sched.addr());
    if let Some((_, Entry(context))) = known {
        return Some(*context);
    }
    let state = match Ggml::of(real, caller) {
        Ok(ggml) => State::New(Box::new(ggml)),
        Err(why) => {
            static TOLD: Once = Once::new();
            TOLD.call_once(|| {
                tell(format_args!(
                    "this program's ggml cannot be observed from outside: {why}. The program goes on; to record it, build \
                     it with `params.cb_eval = bnt_ggml_cb_eval;` (bitnet_trace_ggml.h)"
                ));
            });
            State::Off
        }
    };
    let context = Box::into_raw(Box::new(Context {
        chain: None,
        chain_data: std::ptr::null_mut(),
        wanted: false,
        chain_wanted: false,
        state,
        threads: 0,
    }));
    contexts.push((sched.addr(), Entry(context)));
    // SAFETY: made above
    Some(context).filter(|&c| !matches!(unsafe { &(*c).state }, State::Off))
}

/// Stands for `ggml_backend_sched_free`: the context's run ends.
pub unsafe extern "C" fn sched_free(sched: *mut c_void, caller: *const c_void) {
    if *ENABLED {
        let mut contexts = contexts();
        if let Some(at) = contexts.iter().position(|(address, _)| *address == sched.addr()) {
            let (_, Entry(context)) = contexts.swap_remove(at);
            drop(contexts);
            // SAFETY: made by Box::into_raw; the scheduler, which alone has it beside us, computes no more
            let context = unsafe { Box::from_raw(context) };
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if let State::On(observer) = &context.state {
                    let _ = observer.recorder().finish(); // a failure was told on stderr when it happened
                }
                drop(context);
            }));
        }
    }
    if let Some(real) = resolve::real(c"ggml_backend_sched_free", caller) {
        // SAFETY: ggml's function with its argument
        unsafe { std::mem::transmute::<Address, unsafe extern "C" fn(*mut c_void)>(real)(sched) }
    }
}

/// Runs that nobody ended, sealed when the process exits.
extern "C" fn seal() {
    let _ = catch_unwind(|| {
        for (_, Entry(context)) in contexts().iter() {
            // SAFETY: in life while it is in the list; what is read was written before the first node
            if let State::On(observer) = unsafe { &(**context).state } {
                let _ = observer.recorder().finish();
            }
        }
    });
}

/// The scheduler's callback.
unsafe extern "C-unwind" fn evaluated(tensor: Raw, ask: bool, data: *mut c_void) -> bool {
    let context = data.cast::<Context>();
    // SAFETY: set together with this function; no reference is held while the program's own callback runs, which is
    // called as ggml would call it
    unsafe {
        let (chain, chain_data) = ((*context).chain, (*context).chain_data);
        if ask {
            let chain_wanted = chain.is_some_and(|chain| chain(tensor, true, chain_data));
            let wanted = (*context).protected(|context| context.ask(tensor));
            ((*context).wanted, (*context).chain_wanted) = (wanted, chain_wanted);
            return wanted || chain_wanted;
        }
        if (*context).wanted {
            (*context).protected(|context| {
                if let State::On(observer) = &mut context.state {
                    observer.data(tensor);
                }
                false
            });
        }
        let goes_on = chain.is_none_or(|chain| !(*context).chain_wanted || chain(tensor, false, chain_data));
        if !goes_on {
            (*context).protected(|context| {
                if let State::On(observer) = &mut context.state {
                    observer.ask(std::ptr::null()); // that ends the graph's computation
                }
                false
            });
        }
        goes_on
    }
}

impl Context {
    /// A panic ends the observation of this context, and nothing else.
    fn protected(&mut self, f: impl FnOnce(&mut Self) -> bool) -> bool {
        catch_unwind(AssertUnwindSafe(|| f(self))).unwrap_or_else(|_| {
            if let State::On(observer) = &self.state {
                observer
                    .recorder()
                    .fail("the observer panicked; this is a defect of the recorder");
            }
            false
        })
    }

    fn ask(&mut self, tensor: Raw) -> bool {
        if tensor.is_null() || STOOD_DOWN.load(Ordering::Relaxed) {
            return false;
        }
        if let State::New(ggml) = &self.state
            && is_stage(ggml.as_ref(), &ggml.node(tensor))
            && let State::New(ggml) = std::mem::replace(&mut self.state, State::Off)
        {
            self.state = start(*ggml);
        }
        let State::On(observer) = &mut self.state else {
            return false;
        };
        if let Some((threads, changed)) = threads::now().filter(|now| now.0 > self.threads) {
            self.threads = threads;
            observer.recorder().describe(|info| {
                info.settings.threads = Some(threads);
                info.observation.threads_may_differ = Some(changed);
            });
        }
        observer.ask(tensor)
    }
}

fn start(ggml: Ggml) -> State {
    let recorder = Recorder::from_env(Engine::new(ggml.engine, &ggml.version));
    if !recorder.is_on() {
        return State::Off; // stderr says why
    }
    static AT_EXIT: Once = Once::new();
    // SAFETY: `seal` takes nothing and does not unwind
    AT_EXIT.call_once(|| unsafe {
        libc::atexit(seal);
    });
    recorder.describe(|info| {
        info.settings
            .extra
            .insert("observed".into(), "from outside, by the preload library".into());
        if let Some(path) = model::mapped() {
            info.model = Some(Model {
                path: path.to_string_lossy().into_owned(),
                ..Model::default()
            });
        }
    });
    State::On(Box::new(Observer::new(ggml, recorder, reserve::starving)))
}
