// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The engine's tests, in one program: each module's tests tell one side of what is promised.

#[cfg(test)]
mod common;
#[cfg(test)]
mod loads;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod stores;
