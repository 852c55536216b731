// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The engine's tests, in one program: each module's tests tell one side of what is promised.

#[cfg(test)]
mod ahead;
#[cfg(test)]
mod common;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lane_common;
#[cfg(test)]
mod lane_follow;
#[cfg(test)]
mod lane_hedge;
#[cfg(test)]
mod lane_loads;
#[cfg(test)]
mod lane_property;
#[cfg(test)]
mod lane_reader;
#[cfg(test)]
mod lane_refill;
#[cfg(test)]
mod lane_stores;
#[cfg(test)]
mod lane_world;
#[cfg(test)]
mod loads;
#[cfg(test)]
mod property;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod spin;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod tail;
#[cfg(test)]
mod twin;
