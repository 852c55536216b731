// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The client against a real server, a bad network, and peers that are no servers; all over loopback.

#[cfg(test)]
mod bad_peers;
#[cfg(test)]
mod common;
#[cfg(test)]
mod network;
#[cfg(test)]
mod session;
