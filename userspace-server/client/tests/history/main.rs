// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Histories: clients store, load and free at random while connections break and stall and the server is
//! stopped, full, or killed; then each slot's history must have an order in which every load gives what was
//! stored last.
//!
//! `MEMSRV_TEST_SEED=N` does the round of that seed again: the same operations in the same order in each
//! thread of each client, the same faults of each connection by its number and after the same bytes, and the
//! same faults of the server after the same number of operations. How threads interleave is not the seed's:
//! a rare failure may take several runs. `MEMSRV_TEST_ROUNDS=N` does so many rounds, of this seed and the
//! following. Times in the plans are how long a fault lasts; what is right depends on none.

#[cfg(test)]
mod check;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod random;
#[cfg(test)]
mod round;
#[cfg(test)]
mod server;
#[cfg(test)]
mod verdicts;
#[cfg(test)]
mod work;
