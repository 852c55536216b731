// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The server, driven over loopback by a client that says exactly what a test wants said.

#[cfg(test)]
mod adversity;
#[cfg(test)]
mod askers;
#[cfg(test)]
mod attach;
#[cfg(test)]
mod awaits;
#[cfg(test)]
mod compressed;
#[cfg(test)]
mod entry;
#[cfg(test)]
mod forwarding;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod mirror;
#[cfg(test)]
mod mirror_loss;
#[cfg(test)]
mod mirror_state;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod program;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod pulling;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod source;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod storing;
#[cfg(test)]
mod support;
