// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's swap path, taken over at zswap's entry points by ftrace.
//!
//! An ftrace handler runs before the hooked function, with its arguments at hand. For `zswap_store`
//! and `zswap_load` it asks [`SwapHooks`] whether the call is ours, by atomic operations only, and if
//! so makes the call go to our replacement; if not, the original runs as in any kernel. **No original
//! is ever called from here**: the ENDBR of these functions is sealed, so that an indirect call is
//! fatal on machines with IBT. `zswap_invalidate`, `zswap_swapon` and `zswap_swapoff` are only
//! observed. `zswap_never_enabled` always answers "false" while we are here, which keeps swap-in to
//! single pages, zswap's own way.
//!
//! Handlers must not sleep: a task that schedules on a trampoline is not waited for by RCU-tasks.
//! Replacements may; each holds an SRCU read lock from its first to its last line. Unloading is in
//! [`Registration::drop`].

use super::bindings;
use super::folio::{FolioView, LoadingFolio, StoringFolio};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings as kernel_bindings,
    error::to_result,
    new_srcu,
    prelude::*,
    str::CStr,
    sync::{
        atomic::{Acquire, Atomic, Release},
        Arc,
        Srcu, //
    },
    time::{delay::fsleep, Delta},
    types::Opaque, //
};

/// What the swap path asks for. The first five run in ftrace handlers: they must neither sleep nor
/// allocate, and `invalidate` runs under the swap cluster's lock, perhaps with interrupts off.
pub(crate) trait SwapHooks: Send + Sync + 'static {
    /// Where the hooks find their object.
    fn target() -> &'static Target<Self>
    where
        Self: Sized;

    /// Whether a store is taken. If not, older copies of the folio's slots are forgotten at once,
    /// since zswap or the disk will hold the newest.
    fn admit(&self, folio: FolioView<'_>) -> bool;
    /// Whether a load is ours.
    fn holds(&self, folio: FolioView<'_>) -> bool;
    /// A slot was freed.
    fn invalidate(&self, slot: u64);
    /// A swap area comes.
    fn swapon(&self, area: u32, pages: u64);
    /// A swap area goes; no slot of it is in use.
    fn swapoff(&self, area: u32);

    /// Stores a folio that `admit` admitted; it can no longer be refused.
    fn store(&self, folio: StoringFolio, plug: StorePlug<'_>);
    /// Loads a folio that `holds` claimed. Tells whether a server has been asked already.
    fn load(&self, folio: LoadingFolio, plug: Plug<'_>) -> bool;
    /// A task whose plug was held is done with asking or, if it may not sleep here, is about to do so.
    fn unplugged(&self, may_sleep: bool);
    /// For how many microseconds it is worth waiting, without sleeping, for the load of a slot.
    fn spin_us(&self, slot: u64) -> u32;
    /// A load was waited for without sleeping; whether it came in that time.
    fn spun(&self, came: bool);
}

/// Where the hooks find their object: set while a [`Registration`] lives.
pub(crate) struct Target<H> {
    shared: Atomic<usize>,
    _hooks: PhantomData<fn(H) -> H>,
}

/// Who is told of the ends of plugs.
struct PlugHooks(bindings::memsrv_plug_hooks);

// SAFETY: It is only read, and the object can be used by any task.
unsafe impl Send for PlugHooks {}
// SAFETY: As above.
unsafe impl Sync for PlugHooks {}

/// By which the plug, if there is one, of a task is held that loads a folio; the object is told of its end.
pub(crate) struct Plug<'a> {
    hooks: &'a PlugHooks,
    folio: NonNull<kernel_bindings::folio>,
}

/// Whether a task has a plug.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// It has none.
    No,
    /// It is held from now on.
    First,
    /// It was held already.
    Again,
}

impl Plug<'_> {
    /// Whether the task goes on asking, as in a readahead; then [`SwapHooks::unplugged`] comes, **even if the task
    /// sleeps before that**: what is to be found then must be there before it does.
    pub(crate) fn hold(&self) -> Held {
        // SAFETY: The hooks stay until the last plug has ended, and the task has a reference on the folio.
        match unsafe { bindings::memsrv_plugged(&self.hooks.0, self.folio.as_ptr()) } {
            bindings::memsrv_held_MEMSRV_HELD_FIRST => Held::First,
            bindings::memsrv_held_MEMSRV_HELD => Held::Again,
            _ => Held::No,
        }
    }
}

/// By which the plug, if there is one, of a task is held that stores folios.
pub(crate) struct StorePlug<'a>(&'a PlugHooks);

impl StorePlug<'_> {
    /// Whether the task goes on storing, as reclaim does; then [`SwapHooks::unplugged`] comes, as after [`Plug::hold`].
    pub(crate) fn hold(&self) -> bool {
        // SAFETY: The hooks stay until the last plug has ended.
        unsafe { bindings::memsrv_plugged_store(&self.0 .0) }
    }
}

#[pin_data]
struct Shared<H> {
    hooks: Arc<H>,
    plug: PlugHooks,
    #[pin]
    inside: Srcu,
}

impl<H: SwapHooks> Target<H> {
    /// No hooks yet.
    pub(crate) const fn new() -> Self {
        Self {
            shared: Atomic::new(0),
            _hooks: PhantomData,
        }
    }

    fn get(&self) -> Option<&Shared<H>> {
        let shared = self.shared.load(Acquire) as *const Shared<H>;
        // SAFETY: Hooks run only while they are registered, or until the grace periods of
        // `Registration::drop` are over, and the object lives longer than both.
        unsafe { shared.as_ref() }
    }
}

fn folio_arg(fregs: *mut kernel_bindings::ftrace_regs) -> Option<NonNull<kernel_bindings::folio>> {
    // SAFETY: Called with the registers of an ftrace handler.
    NonNull::new(unsafe { bindings::memsrv_fregs_arg(fregs, 0) } as *mut kernel_bindings::folio)
}

type Handler = unsafe extern "C" fn(
    c_ulong,
    c_ulong,
    *mut kernel_bindings::ftrace_ops,
    *mut kernel_bindings::ftrace_regs,
);

/// Makes the call go to `to`, which has the function's signature, if `ours` says so of its folio.
///
/// # Safety
///
/// From an ftrace handler, with IPMODIFY, of a function whose first argument is a folio that is locked
/// and in the swap cache.
unsafe fn redirect<H: SwapHooks>(
    fregs: *mut kernel_bindings::ftrace_regs,
    ours: impl FnOnce(&H, FolioView<'_>) -> bool,
    to: *const (),
) {
    let (Some(shared), Some(folio)) = (H::target().get(), folio_arg(fregs)) else {
        return;
    };
    // SAFETY: The caller's promise.
    if ours(&shared.hooks, unsafe { FolioView::new(folio) }) {
        // SAFETY: The caller's promise.
        unsafe { bindings::memsrv_fregs_set_ip(fregs, to as c_ulong) };
    }
}

/// # Safety
///
/// An ftrace handler of `zswap_store`.
unsafe extern "C" fn on_store<H: SwapHooks>(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut kernel_bindings::ftrace_ops,
    fregs: *mut kernel_bindings::ftrace_regs,
) {
    // SAFETY: `zswap_store` is called with such a folio, and `store` has its signature.
    unsafe { redirect::<H>(fregs, H::admit, store::<H> as *const ()) };
}

/// # Safety
///
/// An ftrace handler of `zswap_load`.
unsafe extern "C" fn on_load<H: SwapHooks>(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut kernel_bindings::ftrace_ops,
    fregs: *mut kernel_bindings::ftrace_regs,
) {
    // SAFETY: `zswap_load` is called with such a folio, and `load` has its signature.
    unsafe { redirect::<H>(fregs, H::holds, load::<H> as *const ()) };
}

/// # Safety
///
/// An ftrace handler of `zswap_never_enabled`.
unsafe extern "C" fn on_never_enabled(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut kernel_bindings::ftrace_ops,
    fregs: *mut kernel_bindings::ftrace_regs,
) {
    let to = never_enabled as *const () as c_ulong;
    // SAFETY: The handler has IPMODIFY, and the replacement has the function's signature.
    unsafe { bindings::memsrv_fregs_set_ip(fregs, to) };
}

/// # Safety
///
/// An ftrace handler of `zswap_invalidate`.
unsafe extern "C" fn on_invalidate<H: SwapHooks>(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut kernel_bindings::ftrace_ops,
    fregs: *mut kernel_bindings::ftrace_regs,
) {
    if let Some(shared) = H::target().get() {
        // SAFETY: The argument is a swap entry, which is one word passed by value.
        let slot = unsafe { bindings::memsrv_entry_slot(bindings::memsrv_fregs_arg(fregs, 0)) };
        shared.hooks.invalidate(slot);
    }
}

/// # Safety
///
/// An ftrace handler of `zswap_swapon`.
unsafe extern "C" fn on_swapon<H: SwapHooks>(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut kernel_bindings::ftrace_ops,
    fregs: *mut kernel_bindings::ftrace_regs,
) {
    if let Some(shared) = H::target().get() {
        // SAFETY: The registers of an ftrace handler.
        let area = unsafe { bindings::memsrv_fregs_arg(fregs, 0) };
        // SAFETY: The registers of an ftrace handler.
        let pages = unsafe { bindings::memsrv_fregs_arg(fregs, 1) };
        // The argument is an int: only the low half of the register counts.
        shared.hooks.swapon(area as u32, pages as u64);
    }
}

/// # Safety
///
/// An ftrace handler of `zswap_swapoff`.
unsafe extern "C" fn on_swapoff<H: SwapHooks>(
    _ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut kernel_bindings::ftrace_ops,
    fregs: *mut kernel_bindings::ftrace_regs,
) {
    if let Some(shared) = H::target().get() {
        // SAFETY: The registers of an ftrace handler.
        let area = unsafe { bindings::memsrv_fregs_arg(fregs, 0) };
        shared.hooks.swapoff(area as u32);
    }
}

/// Stands for `zswap_store`: true means that the page is taken.
///
/// # Safety
///
/// Called in its place, with its argument.
unsafe extern "C" fn store<H: SwapHooks>(folio: *mut kernel_bindings::folio) -> bool {
    let (Some(shared), Some(folio)) = (H::target().get(), NonNull::new(folio)) else {
        return false;
    };
    let _inside = shared.inside.read_lock();
    // SAFETY: As for `zswap_store`.
    let folio = unsafe { StoringFolio::new(folio) };
    shared.hooks.store(folio, StorePlug(&shared.plug));
    true
}

/// Stands for `zswap_load`: 0 means that the folio will be filled and unlocked.
///
/// # Safety
///
/// Called in its place, with its argument.
unsafe extern "C" fn load<H: SwapHooks>(folio: *mut kernel_bindings::folio) -> c_int {
    let (Some(shared), Some(folio)) = (H::target().get(), NonNull::new(folio)) else {
        return ENOENT.to_errno();
    };
    let _inside = shared.inside.read_lock();
    // SAFETY: `zswap_load` is called with a folio that is locked, in the swap cache and not up to
    // date, and after another answer than -ENOENT its caller does not touch it.
    let loading = unsafe { LoadingFolio::new(folio) };
    let slot = loading.slot();
    let plug = Plug {
        hooks: &shared.plug,
        folio,
    };
    if shared.hooks.load(loading, plug) {
        // SAFETY: The caller has a reference on the folio until we return.
        unsafe { spin(&*shared.hooks, folio.as_ptr(), slot) };
    }
    0
}

/// # Safety
///
/// Called with the owner of [`PlugHooks`].
unsafe extern "C" fn unplugged<H: SwapHooks>(owner: *mut c_void, may_sleep: bool) {
    // SAFETY: The caller's promise; the object lives until the last plug has ended.
    let hooks = unsafe { &*owner.cast_const().cast::<H>() };
    hooks.unplugged(may_sleep);
}

/// # Safety
///
/// Called with the owner of [`PlugHooks`], before its plug has ended, with a folio and a reference on it.
unsafe extern "C" fn wait<H: SwapHooks>(
    owner: *mut c_void,
    folio: *mut kernel_bindings::folio,
    slot: u64,
) {
    // SAFETY: The caller's promise; the object lives until the last plug has ended.
    let hooks = unsafe { &*owner.cast_const().cast::<H>() };
    // SAFETY: The caller's promise.
    unsafe { spin(hooks, folio, slot) };
}

/// Waits for a folio without sleeping, if that is worth it.
///
/// # Safety
///
/// The calling task has a reference on the folio.
unsafe fn spin<H: SwapHooks>(hooks: &H, folio: *mut kernel_bindings::folio, slot: u64) {
    // SAFETY: The caller's promise.
    if !unsafe { bindings::memsrv_may_spin(folio) } {
        return;
    }
    let us = hooks.spin_us(slot);
    if us > 0 {
        // SAFETY: The caller's promise.
        let came = unsafe { bindings::memsrv_spin_on(folio, us) };
        hooks.spun(came);
    }
}

extern "C" fn never_enabled() -> bool {
    false
}

/// One function's ftrace registration.
struct Hook {
    ops: Pin<KBox<Opaque<kernel_bindings::ftrace_ops>>>,
    registered: bool,
}

// SAFETY: ftrace may be told from any task.
unsafe impl Send for Hook {}
// SAFETY: Nothing can be done through a shared reference.
unsafe impl Sync for Hook {}

/// A function that could not be hooked.
pub(crate) struct HookError {
    /// Its name.
    pub(crate) function: &'static CStr,
    /// `EINVAL`: the kernel has no such function; `EBUSY`: somebody else has hooked it.
    pub(crate) error: Error,
}

impl Hook {
    fn new(function: &'static CStr, handler: Handler, modify: bool) -> Result<Self, HookError> {
        let fail = |error| HookError { function, error };
        let mut flags = kernel_bindings::FTRACE_OPS_FL_PERMANENT;
        if modify {
            flags |= kernel_bindings::FTRACE_OPS_FL_IPMODIFY;
        }
        let ops = kernel_bindings::ftrace_ops {
            func: Some(handler),
            flags: flags as c_ulong,
            ..Default::default()
        };
        let ops = KBox::pin(Opaque::new(ops), GFP_KERNEL).map_err(|e| fail(e.into()))?;
        let name = function.to_bytes();
        // SAFETY: The operations are pinned until they are unregistered; ftrace only reads the name.
        to_result(unsafe {
            kernel_bindings::ftrace_set_filter(
                ops.get(),
                name.as_ptr().cast_mut(),
                name.len() as c_int,
                0,
            )
        })
        .map_err(fail)?;
        let mut hook = Self {
            ops,
            registered: false,
        };
        // SAFETY: As above.
        to_result(unsafe { kernel_bindings::register_ftrace_function(hook.ops.get()) })
            .map_err(fail)?;
        hook.registered = true;
        Ok(hook)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if self.registered {
            // SAFETY: Registered by `new`.
            let failed = unsafe { kernel_bindings::unregister_ftrace_function(self.ops.get()) };
            if failed != 0 {
                // ftrace has killed itself, and calls still come to our text, so that the text must
                // stay: rmmod does not return.
                pr_emerg!("ftrace gave up ({failed}): the module can no longer be unloaded\n");
                loop {
                    // SAFETY: Sleeping is allowed here.
                    unsafe { kernel_bindings::schedule_timeout_idle(c_long::MAX) };
                }
            }
        }
        // SAFETY: Not registered any more, and the filter's memory is of ftrace_set_filter().
        unsafe { kernel_bindings::ftrace_free_filter(self.ops.get()) };
    }
}

/// The hooks, registered; dropping it takes them away and waits until nobody is inside.
pub(crate) struct Registration<H: SwapHooks> {
    hooks: KVec<Hook>,
    shared: Option<Pin<KBox<Shared<H>>>>,
}

impl<H: SwapHooks> Registration<H> {
    /// Registers all hooks. `object` must not admit anything before this has returned.
    pub(crate) fn new(object: Arc<H>) -> Result<Self, HookError> {
        let fail = |error| HookError {
            function: c"zswap_store",
            error,
        };
        let plug = PlugHooks(bindings::memsrv_plug_hooks {
            owner: Arc::as_ptr(&object).cast_mut().cast(),
            unplugged: Some(unplugged::<H>),
            wait: Some(wait::<H>),
        });
        let shared = KBox::try_pin_init(
            try_pin_init!(Shared {
                hooks: object,
                plug,
                inside <- new_srcu!(),
            }),
            GFP_KERNEL,
        )
        .map_err(fail)?;
        let address: *const Shared<H> = &*shared;
        H::target().shared.store(address as usize, Release);
        let mut this = Self {
            hooks: KVec::new(),
            shared: Some(shared),
        };
        // The order does not matter: nothing is admitted before all are there. But what is freed is
        // watched from the first.
        let all: [(&'static CStr, Handler, bool); 6] = [
            (c"zswap_invalidate", on_invalidate::<H>, false),
            (c"zswap_swapon", on_swapon::<H>, false),
            (c"zswap_swapoff", on_swapoff::<H>, false),
            (c"zswap_never_enabled", on_never_enabled, true),
            (c"zswap_load", on_load::<H>, true),
            (c"zswap_store", on_store::<H>, true),
        ];
        for (function, handler, modify) in all {
            let hook = Hook::new(function, handler, modify)?;
            this.hooks
                .push(hook, GFP_KERNEL)
                .map_err(|e| fail(e.into()))?;
        }
        Ok(this)
    }
}

impl<H: SwapHooks> Drop for Registration<H> {
    fn drop(&mut self) {
        self.hooks.clear();
        // For a task between a trampoline and the first line of a replacement.
        // SAFETY: Sleeping is allowed here.
        unsafe { kernel_bindings::synchronize_rcu_tasks() };
        // For a task that sleeps inside a replacement, which RCU-tasks does not wait for.
        if let Some(shared) = &self.shared {
            shared.inside.synchronize();
        }
        // For a task that was in one under a plug, which still calls us.
        // SAFETY: Nothing but a number is read.
        while unsafe { bindings::memsrv_plugs() } > 0 {
            fsleep(Delta::from_millis(1));
        }
        // For a task between the last line of a replacement, or of an unplugging, and its return.
        // SAFETY: As above.
        unsafe { kernel_bindings::synchronize_rcu_tasks() };
        H::target().shared.store(0, Release);
        self.shared = None;
    }
}
