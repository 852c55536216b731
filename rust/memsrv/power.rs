// SPDX-License-Identifier: GPL-2.0-only

//! What becomes of the pages when the machine hibernates or ends.
//!
//! An image of the memory holds the bitmap of its moment. What is stored or freed behind it would make
//! the server newer than the machine that wakes from the image, and the server refuses such a session
//! (the pages would be other ones than the bitmap says); so nothing is, from before the image until the
//! machine runs on.

use super::bindings;
use kernel::{
    error::to_result,
    prelude::*,
    sync::Arc, //
};

/// Who is told. The calls come one at a time, in process context, and may sleep.
pub(crate) trait PowerHooks: Send + Sync + 'static {
    /// The machine is about to hibernate: changes nothing on the server until [`Self::thaw`].
    /// False where that cannot be promised; then it does not hibernate, and no [`Self::thaw`] follows.
    fn freeze(&self) -> bool;
    /// It woke up, or did not hibernate after all.
    fn thaw(&self);
    /// It restarts or is switched off: nobody needs the pages any more, unless it hibernates.
    fn leave(&self);
}

/// The registration; dropping it waits for a call that runs.
pub(crate) struct Power<T: PowerHooks> {
    hooks: *mut Hooks<T>,
}

struct Hooks<T> {
    raw: bindings::memsrv_power_hooks,
    owner: Arc<T>,
}

// SAFETY: The notifiers may be taken away by any task.
unsafe impl<T: PowerHooks> Send for Power<T> {}
// SAFETY: Nothing can be done through a shared reference.
unsafe impl<T: PowerHooks> Sync for Power<T> {}

/// # Safety
///
/// `owner` is that of a `Hooks<T>` that is attached.
unsafe fn target<'a, T>(owner: *mut c_void) -> &'a T {
    // SAFETY: The caller's promise; the hooks live until they are detached.
    unsafe { &(*owner.cast::<Hooks<T>>()).owner }
}

/// # Safety
///
/// As [`target`].
unsafe extern "C" fn on_freeze<T: PowerHooks>(owner: *mut c_void) -> bool {
    // SAFETY: The caller's promise.
    unsafe { target::<T>(owner) }.freeze()
}

/// # Safety
///
/// As [`target`].
unsafe extern "C" fn on_thaw<T: PowerHooks>(owner: *mut c_void) {
    // SAFETY: The caller's promise.
    unsafe { target::<T>(owner) }.thaw();
}

/// # Safety
///
/// As [`target`].
unsafe extern "C" fn on_leave<T: PowerHooks>(owner: *mut c_void) {
    // SAFETY: The caller's promise.
    unsafe { target::<T>(owner) }.leave();
}

impl<T: PowerHooks> Power<T> {
    /// Registers `owner`.
    pub(crate) fn new(owner: Arc<T>) -> Result<Self> {
        let raw = bindings::memsrv_power_hooks {
            owner: core::ptr::null_mut(),
            freeze: Some(on_freeze::<T>),
            thaw: Some(on_thaw::<T>),
            leave: Some(on_leave::<T>),
        };
        let hooks = KBox::into_raw(KBox::new(Hooks { raw, owner }, GFP_KERNEL)?);
        // SAFETY: Just made, and nobody else's yet.
        unsafe { (*hooks).raw.owner = hooks.cast() };
        // SAFETY: The hooks stay where they are until they are detached.
        let attached = to_result(unsafe { bindings::memsrv_power_attach(&raw mut (*hooks).raw) });
        if let Err(error) = attached {
            // SAFETY: Made above, and not attached.
            drop(unsafe { KBox::from_raw(hooks) });
            return Err(error);
        }
        Ok(Self { hooks })
    }
}

impl<T: PowerHooks> Drop for Power<T> {
    fn drop(&mut self) {
        // SAFETY: Attached by `new`.
        unsafe { bindings::memsrv_power_detach() };
        // SAFETY: Made by `new`, and no longer attached.
        drop(unsafe { KBox::from_raw(self.hooks) });
    }
}
