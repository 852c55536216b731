// SPDX-License-Identifier: GPL-2.0-only

//! The module's parameters as they were given; they never change while the module is loaded.

use super::bindings;
use core::net::IpAddr;
use kernel::{
    prelude::*,
    str::CStr, //
};

macro_rules! text_param {
    ($(#[$doc:meta])* $name:ident, $var:ident) => {
        $(#[$doc])*
        pub(crate) fn $name() -> &'static CStr {
            let start = &raw const bindings::$var;
            // SAFETY: module_param_string writes a string with its NUL, before the module starts
            // and never again (mode 0444).
            unsafe { CStr::from_char_ptr(start.cast()) }
        }
    };
}

macro_rules! number_param {
    ($(#[$doc:meta])* $name:ident, $var:ident, $type:ty) => {
        $(#[$doc])*
        pub(crate) fn $name() -> $type {
            // SAFETY: Written before the module starts and never again (mode 0444).
            unsafe { bindings::$var }
        }
    };
}

text_param!(
    /// `server=`
    server, memsrv_param_server
);
text_param!(
    /// `mirror=`
    mirror, memsrv_param_mirror
);
text_param!(
    /// `region=`
    region, memsrv_param_region
);
text_param!(
    /// `client=`
    client, memsrv_param_client
);
text_param!(
    /// `disk=`
    disk, memsrv_param_disk
);
text_param!(
    /// `compress=`
    compress, memsrv_param_compress
);
number_param!(
    /// `connections=`
    connections, memsrv_param_connections, u32
);
number_param!(
    /// `inflight=`
    inflight, memsrv_param_inflight, u32
);
number_param!(
    /// `store_ms=`
    store_ms, memsrv_param_store_ms, u32
);
number_param!(
    /// `hold_ms=`
    hold_ms, memsrv_param_hold_ms, u32
);
number_param!(
    /// `silence_ms=`
    silence_ms, memsrv_param_silence_ms, u32
);
number_param!(
    /// `hedge_ms=`
    hedge_ms, memsrv_param_hedge_ms, u32
);
number_param!(
    /// `spin_us=`
    spin_us, memsrv_param_spin_us, u32
);
number_param!(
    /// `dscp=`
    dscp, memsrv_param_dscp, u32
);
number_param!(
    /// `ahead=`
    ahead, memsrv_param_ahead, u32
);
number_param!(
    /// `mirror_strict=`
    mirror_strict, memsrv_param_mirror_strict, bool
);
number_param!(
    /// `keep_clean=`
    keep_clean, memsrv_param_keep_clean, bool
);

/// Reads an IPv4 address in dotted form, or an IPv6 address, by the kernel's own parsers.
pub(crate) fn parse_ip(text: &str, v6: bool) -> Option<IpAddr> {
    if v6 {
        let mut out = [0u8; 16];
        // SAFETY: The text is `len` bytes long, and an IPv6 address 16.
        unsafe { bindings::memsrv_parse_v6(text.as_ptr().cast(), text.len(), out.as_mut_ptr()) }
            .then(|| IpAddr::from(out))
    } else {
        let mut out = [0u8; 4];
        // SAFETY: The text is `len` bytes long, and an IPv4 address 4.
        unsafe { bindings::memsrv_parse_v4(text.as_ptr().cast(), text.len(), out.as_mut_ptr()) }
            .then(|| IpAddr::from(out))
    }
}
