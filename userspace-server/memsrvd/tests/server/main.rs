// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The server, driven over loopback by a client that says exactly what a test wants said.

#[cfg(test)]
mod adversity;
#[cfg(test)]
mod entry;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod program;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod storing;
#[cfg(test)]
mod support;
