// SPDX-License-Identifier: GPL-2.0-only

//! A TCP socket that may be used while the machine is out of memory.
//!
//! Its set-up is in `socket.c`: reserves, GFP_NOIO, no task fragment, its own lock class, all before
//! it connects. A [`Connection`] is made and shaken hands on by blocking calls in a thread; then
//! [`Connection::attach`] makes it a [`Socket`], which sends without waiting and hands what arrives
//! to its owner in the receive callback.
//!
//! The receive callback runs in softirq and, through `release_sock`, inside our own senders. It holds
//! the socket's lock in either case, so that callbacks of one socket never overlap; that is what
//! gives [`SocketOwner::receive`] its `&mut` state.

use super::bindings;
use super::page::Fragment;
use core::{
    cell::UnsafeCell,
    net::{IpAddr, SocketAddr}, //
};
use kernel::{
    bindings as kernel_bindings,
    error::to_result,
    prelude::*,
    sync::Arc, //
};

/// Who a socket's events go to.
pub(crate) trait SocketOwner: Send + Sync + 'static {
    /// State of the receiving side, touched by one callback at a time.
    type Rx: Send;

    /// Bytes arrived. Runs in softirq context or inside a sender: no sleeping, no sending, no lock
    /// that is held over a send. After an error nothing more is handed over.
    fn receive(&self, rx: &mut Self::Rx, data: &mut Received<'_>) -> Result;
    /// There is room to send again. The same context.
    fn writable(&self);
    /// The connection has ended or failed. The same context.
    fn broken(&self);
}

/// Bytes that arrived, to be copied out.
pub(crate) struct Received<'a> {
    skb: &'a mut kernel_bindings::sk_buff,
    offset: u32,
    len: usize,
}

impl Received<'_> {
    /// How many bytes are left.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies the next bytes, as many as fit, and returns how many.
    pub(crate) fn copy_to(&mut self, to: &mut [u8]) -> Result<usize> {
        let n = to.len().min(self.len);
        // SAFETY: `to` has room for `n` bytes, and the buffer has as many from `offset` on.
        to_result(unsafe {
            bindings::memsrv_skb_copy(self.skb, self.offset, to.as_mut_ptr().cast(), n)
        })?;
        self.skip(n);
        Ok(n)
    }

    /// Passes over the next bytes, as many as there are, and returns how many.
    pub(crate) fn skip(&mut self, n: usize) -> usize {
        let n = n.min(self.len);
        self.offset += n as u32;
        self.len -= n;
        n
    }
}

/// A connected socket before it is attached: calls wait, up to the time-out it was made with.
pub(crate) struct Connection(*mut kernel_bindings::socket);

// SAFETY: A socket may be used by any task.
unsafe impl Send for Connection {}

impl Connection {
    /// Connects; sleeps. Only from a [`super::thread::Thread`], whose context the socket's memory
    /// comes from.
    pub(crate) fn open(to: SocketAddr, timeout_ms: u32) -> Result<Self> {
        let mut sock = core::ptr::null_mut();
        let mut addr = [0u8; 16];
        match to.ip() {
            IpAddr::V4(ip) => addr[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => addr.copy_from_slice(&ip.octets()),
        }
        // SAFETY: The address is as long as its family asks for.
        to_result(unsafe {
            bindings::memsrv_sock_connect(
                addr.as_ptr().cast(),
                to.port(),
                to.is_ipv6(),
                timeout_ms,
                &mut sock,
            )
        })?;
        Ok(Self(sock))
    }

    /// Sends all of `bytes`.
    pub(crate) fn send_all(&self, bytes: &[u8]) -> Result {
        let mut vec = kernel_bindings::kvec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: The vector is of one slice, which is only read.
        let sent = unsafe { bindings::memsrv_sock_send_all(self.0, &mut vec, bytes.len()) };
        to_result(sent)?;
        if sent as usize == bytes.len() {
            Ok(())
        } else {
            Err(ETIMEDOUT)
        }
    }

    /// Receives exactly as many bytes as fit into `buf`.
    pub(crate) fn receive_exact(&self, buf: &mut [u8]) -> Result {
        // SAFETY: The pointer and the length are one slice's.
        let got = unsafe { bindings::memsrv_sock_recv(self.0, buf.as_mut_ptr().cast(), buf.len()) };
        match to_result(got) {
            Err(error) if error == EAGAIN => Err(ETIMEDOUT),
            Err(error) => Err(error),
            Ok(()) if got as usize == buf.len() => Ok(()),
            Ok(()) => Err(ECONNRESET),
        }
    }

    /// Hands the connection to `owner`, whose receiving begins with the state `rx`.
    pub(crate) fn attach<T: SocketOwner>(self, owner: Arc<T>, rx: T::Rx) -> Result<Socket<T>> {
        let mut hooks = KBox::new(
            Hooks {
                raw: bindings::memsrv_sock_hooks {
                    owner: core::ptr::null_mut(),
                    data_ready: Some(on_data_ready::<T>),
                    write_space: Some(on_write_space::<T>),
                    broken: Some(on_broken::<T>),
                    saved_data_ready: None,
                    saved_write_space: None,
                    saved_state_change: None,
                },
                owner,
                rx: UnsafeCell::new(Receiving { rx, failed: false }),
            },
            GFP_KERNEL,
        )?;
        let this: *mut Hooks<T> = &mut *hooks;
        hooks.raw.owner = this.cast();
        // SAFETY: The hooks stay where they are until `Socket` is dropped, which detaches first.
        unsafe { bindings::memsrv_sock_attach(self.0, &raw mut (*this).raw) };
        Ok(Socket {
            connection: self,
            hooks: KBox::into_raw(hooks),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: The socket is ours.
        unsafe { bindings::memsrv_sock_release(self.0) }
    }
}

struct Hooks<T: SocketOwner> {
    raw: bindings::memsrv_sock_hooks,
    owner: Arc<T>,
    /// Touched by the receive callback only.
    rx: UnsafeCell<Receiving<T::Rx>>,
}

struct Receiving<R> {
    rx: R,
    /// What comes after a fault has no meaning: it is passed over until the connection is closed.
    failed: bool,
}

struct Call<'a, T: SocketOwner> {
    owner: &'a T,
    receiving: &'a mut Receiving<T::Rx>,
}

/// # Safety
///
/// A data_ready callback whose owner is a `Hooks<T>`, with the socket locked.
unsafe extern "C" fn on_data_ready<T: SocketOwner>(
    owner: *mut c_void,
    sk: *mut kernel_bindings::sock,
) {
    let hooks = owner.cast::<Hooks<T>>();
    // SAFETY: The hooks live until the socket is detached, which the callback lock keeps off.
    let (target, receiving) = unsafe { (&*(*hooks).owner, (*hooks).rx.get()) };
    let mut call = Call {
        owner: target,
        // SAFETY: The socket's lock is held, so no other callback of this socket runs.
        receiving: unsafe { &mut *receiving },
    };
    let ctx: *mut Call<'_, T> = &mut call;
    // SAFETY: The socket is locked, and the context is what `on_bytes` expects.
    unsafe { bindings::memsrv_sock_read(sk, ctx.cast(), Some(on_bytes::<T>)) };
}

/// # Safety
///
/// An actor of tcp_read_sock() whose context is a `Call<T>`.
unsafe extern "C" fn on_bytes<T: SocketOwner>(
    ctx: *mut c_void,
    skb: *mut kernel_bindings::sk_buff,
    offset: c_uint,
    len: usize,
) -> c_int {
    // SAFETY: The context of `on_data_ready`, not used elsewhere meanwhile.
    let call = unsafe { &mut *ctx.cast::<Call<'_, T>>() };
    let mut data = Received {
        // SAFETY: The actor has the buffer for the length of the call.
        skb: unsafe { &mut *skb },
        offset,
        len,
    };
    let receiving = &mut *call.receiving;
    if !receiving.failed {
        receiving.failed = call.owner.receive(&mut receiving.rx, &mut data).is_err();
    }
    len as c_int
}

/// # Safety
///
/// A write_space callback whose owner is a `Hooks<T>`.
unsafe extern "C" fn on_write_space<T: SocketOwner>(owner: *mut c_void) {
    // SAFETY: The hooks live until the socket is detached.
    unsafe { &(*owner.cast::<Hooks<T>>()).owner }.writable();
}

/// # Safety
///
/// A state_change callback whose owner is a `Hooks<T>`.
unsafe extern "C" fn on_broken<T: SocketOwner>(owner: *mut c_void) {
    // SAFETY: The hooks live until the socket is detached.
    unsafe { &(*owner.cast::<Hooks<T>>()).owner }.broken();
}

/// A connected socket whose events go to its owner.
pub(crate) struct Socket<T: SocketOwner> {
    connection: Connection,
    hooks: *mut Hooks<T>,
}

// SAFETY: A socket may be used by any task.
unsafe impl<T: SocketOwner> Send for Socket<T> {}

/// The most slices in one [`Socket::send`].
pub(crate) const MAX_SLICES: usize = 128;

/// Something to be sent.
pub(crate) enum Slice<'a> {
    /// Bytes that the socket copies.
    Bytes(&'a [u8]),
    /// A part of a page that the socket keeps until TCP has it acknowledged.
    Fragment(Fragment<'a>),
}

/// Room for the slices of a send, kept so that it need not stand on the stack of a task in reclaim.
pub(crate) struct SendVec {
    bytes: KVec<kernel_bindings::kvec>,
    pages: KVec<kernel_bindings::bio_vec>,
}

// SAFETY: The pointers in it are used only during `Socket::send`.
unsafe impl Send for SendVec {}

impl SendVec {
    /// Room for [`MAX_SLICES`].
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            bytes: KVec::with_capacity(MAX_SLICES, GFP_KERNEL)?,
            pages: KVec::with_capacity(MAX_SLICES, GFP_KERNEL)?,
        })
    }
}

impl<T: SocketOwner> Socket<T> {
    /// Sends as much as fits of the slices' first that are of one kind, up to [`MAX_SLICES`] of them, without
    /// waiting.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when nothing fits now; anything else means that the connection is dead.
    pub(crate) fn send<'a>(
        &self,
        slices: impl Iterator<Item = Slice<'a>>,
        vec: &mut SendVec,
    ) -> Result<usize> {
        vec.bytes.clear();
        vec.pages.clear();
        let mut len = 0usize;
        for slice in slices {
            let pushed = match slice {
                Slice::Bytes(bytes) if vec.pages.is_empty() => {
                    let item = kernel_bindings::kvec {
                        iov_base: bytes.as_ptr().cast_mut().cast(),
                        iov_len: bytes.len(),
                    };
                    vec.bytes
                        .push_within_capacity(item)
                        .is_ok()
                        .then_some(bytes.len())
                }
                Slice::Fragment(part) if vec.bytes.is_empty() => vec
                    .pages
                    .push_within_capacity(part.vec())
                    .is_ok()
                    .then_some(part.len()),
                _ => None,
            };
            let Some(pushed) = pushed else {
                break;
            };
            len += pushed;
        }
        let sock = self.connection.0;
        let sent = if vec.pages.is_empty() {
            let (slices, n) = (vec.bytes.as_mut_ptr(), vec.bytes.len() as c_uint);
            // SAFETY: The slices live during the call and are only read.
            unsafe { bindings::memsrv_sock_send(sock, slices, n, len) }
        } else {
            let (parts, n) = (vec.pages.as_mut_ptr(), vec.pages.len() as c_uint);
            // SAFETY: The pages live during the call, and the socket takes references; they are only read.
            unsafe { bindings::memsrv_sock_splice(sock, parts, n, len) }
        };
        to_result(sent)?;
        Ok(sent as usize)
    }

    /// Looks at what arrived before the socket was attached. Sleeps.
    pub(crate) fn poll(&self) {
        // SAFETY: The socket is ours and attached.
        unsafe { bindings::memsrv_sock_poll(self.connection.0) }
    }

    /// Detaches: no event comes afterwards. Gives the connection and the receiving state back.
    pub(crate) fn detach(self) -> (Connection, T::Rx) {
        // SAFETY: The socket is ours and attached.
        unsafe { bindings::memsrv_sock_detach(self.connection.0) };
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: Made by `attach`; no callback uses it any more, and `this` is not dropped.
        let hooks = unsafe { KBox::from_raw(this.hooks) };
        let connection = Connection(this.connection.0);
        let hooks = KBox::into_inner(hooks);
        (connection, hooks.rx.into_inner().rx)
    }
}

impl<T: SocketOwner> Drop for Socket<T> {
    fn drop(&mut self) {
        // SAFETY: The socket is ours and attached.
        unsafe { bindings::memsrv_sock_detach(self.connection.0) };
        // SAFETY: Made by `attach`; no callback uses it any more.
        drop(unsafe { KBox::from_raw(self.hooks) });
    }
}
