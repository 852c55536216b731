// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memory server as a library.
