// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Conversions between the sizes of memory and the numbers of the wire; on the 64-bit machines that
//! the server runs on they lose nothing.

/// A length as a 64-bit number.
pub fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A number as a length, the largest where it does not fit.
pub fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A length as a 32-bit number, the largest where it does not fit.
pub fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
