// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Whether what happened to one slot can have happened in some order.
//!
//! A slot is a register that holds a page or nothing. Its history is a list of operations, each with the
//! time when it was asked and the time when its answer was known; it is sound if each operation can be given
//! one moment between its two times such that each load gives what the last change before it left. What the
//! client library promises makes the model:
//!
//! - Stores and frees of a slot are asked by one thread and take effect in the order in which they were
//!   asked, though many may be unanswered.
//! - A store that fails, refused or expired, may have been done for a while (a load that was under way may
//!   have seen its page) and leaves the slot empty, at its answer at the latest.
//! - A free takes effect before it returns.
//! - A load is asked by any thread. One that expires says nothing and is not in the history.
//! - When the server is killed and started empty the slot is empty. Stores that are unanswered then are sent
//!   again, so that from the first of them on all may be done a second time, in their order.
//!
//! The search is Wing's and Gong's with Lowe's memory of where it has been. No crate was taken for it:
//! stateright's `LinearizabilityTester` lets a thread have one operation at a time and knows no outcome that
//! is open, and it brings a model checker with a web server along.

use std::collections::HashSet;

use memsrv_client::Slot;

/// What a page says of itself: whose it is, where it belongs, and which of that slot's stores it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    pub client: u64,
    pub slot: Slot,
    pub version: u64,
}

/// What was done to a slot, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Stored(Stamp),
    /// A store that was refused or expired.
    NotStored(Stamp),
    Freed,
    /// What a load gave; `None`: that there is no page.
    Loaded(Option<Stamp>),
    /// The server was killed, with all its pages.
    Lost,
}

/// An operation. No two times of a history are equal.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub asked: u64,
    pub answered: u64,
    pub what: What,
}

/// A change that the client asks for.
struct Write {
    asked: u64,
    answered: u64,
    value: Option<Stamp>,
    /// It may also not have been done.
    optional: bool,
    /// It is sent again while it is unanswered.
    store: bool,
}

/// A slot's history, sorted by what may pass what.
struct History {
    /// In the order in which they take effect.
    writes: Vec<Write>,
    /// In the order in which they were asked.
    loads: Vec<(Op, Option<Stamp>)>,
    /// In the order in which they happened.
    losses: Vec<Op>,
}

/// How far the search is: what was done, and what the slot holds.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    written: usize,
    lost: usize,
    loaded: Vec<bool>,
    value: Option<Stamp>,
}

/// Looks for an order.
///
/// # Errors
///
/// There is none: where the search got stuck, and the history around it.
pub fn check(ops: &[Op]) -> Result<(), String> {
    let history = History::new(ops);
    let mut first = State {
        written: 0,
        lost: 0,
        loaded: vec![false; history.loads.len()],
        value: None,
    };
    history.take_loads(&mut first);
    let mut furthest = first.clone();
    let mut known = HashSet::from([first.clone()]);
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        if history.progress(&state) > history.progress(&furthest) {
            furthest = state.clone();
        }
        if history.is_done(&state) {
            return Ok(());
        }
        for mut next in history.steps(&state) {
            history.take_loads(&mut next);
            if known.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    Err(history.tell(&furthest, ops))
}

impl History {
    fn new(ops: &[Op]) -> Self {
        let mut ops = ops.to_vec();
        ops.sort_by_key(|op| op.asked);
        let mut history = Self {
            writes: Vec::new(),
            loads: Vec::new(),
            losses: Vec::new(),
        };
        for op in ops {
            let write = |value, optional, store| Write {
                asked: op.asked,
                answered: op.answered,
                value,
                optional,
                store,
            };
            match op.what {
                What::Stored(stamp) => history.writes.push(write(Some(stamp), false, true)),
                What::NotStored(stamp) => {
                    history.writes.push(write(Some(stamp), true, true));
                    history.writes.push(write(None, false, true));
                }
                What::Freed => history.writes.push(write(None, false, false)),
                What::Loaded(value) => history.loads.push((op, value)),
                What::Lost => history.losses.push(op),
            }
        }
        history
    }

    fn is_done(&self, state: &State) -> bool {
        state.written == self.writes.len()
            && state.lost == self.losses.len()
            && !state.loaded.contains(&false)
    }

    fn progress(&self, state: &State) -> usize {
        let loaded = state.loaded.iter().filter(|&&loaded| loaded).count();
        state.written + state.lost + loaded
    }

    /// When the first of the answers was known that are still to come; what was asked later is not next.
    fn limit(&self, state: &State) -> u64 {
        let writes = self.writes.iter().skip(state.written);
        let losses = self.losses.iter().skip(state.lost);
        let loads = self.loads.iter().zip(&state.loaded);
        let loads = loads.filter(|(_, &loaded)| !loaded);
        writes
            .map(|write| write.answered)
            .chain(losses.map(|loss| loss.answered))
            .chain(loads.map(|((load, _), _)| load.answered))
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Does every load that can be next: a load changes nothing, so that sooner is never worse.
    fn take_loads(&self, state: &mut State) {
        loop {
            let limit = self.limit(state);
            let next = self
                .loads
                .iter()
                .zip(&state.loaded)
                .position(|((load, value), &loaded)| {
                    !loaded && load.asked < limit && *value == state.value
                });
            match next {
                Some(next) => state.loaded[next] = true,
                None => return,
            }
        }
    }

    /// What the next change can be.
    fn steps(&self, state: &State) -> Vec<State> {
        let limit = self.limit(state);
        let mut steps = Vec::new();
        let loss = self.losses.get(state.lost);
        if let Some(loss) = loss.filter(|loss| loss.asked < limit) {
            for written in self.again(state.written, loss) {
                steps.push(State {
                    written,
                    lost: state.lost + 1,
                    value: None,
                    ..state.clone()
                });
            }
        }
        let write = self.writes.get(state.written);
        if let Some(write) = write.filter(|write| write.asked < limit) {
            let written = state.written + 1;
            if write.optional {
                steps.push(State {
                    written,
                    ..state.clone()
                });
            }
            steps.push(State {
                written,
                value: write.value,
                ..state.clone()
            });
        }
        steps
    }

    /// From where on changes may be done again after a loss: each store that was unanswered, and the end.
    fn again(&self, written: usize, loss: &Op) -> Vec<usize> {
        let unanswered = |at: &usize| {
            let write = &self.writes[*at];
            !write.store || write.answered > loss.asked
        };
        let back = (0..written).rev().take_while(unanswered);
        back.chain([written]).collect()
    }

    /// What was left when the search was furthest.
    fn tell(&self, state: &State, ops: &[Op]) -> String {
        let limit = self.limit(state);
        let mut text = format!(
            "no order explains it. Furthest: the slot holds {:?}; still to come, among others:\n",
            state.value
        );
        for ((load, value), _) in self
            .loads
            .iter()
            .zip(&state.loaded)
            .filter(|(_, &d)| !d)
            .take(3)
        {
            text += &format!(
                "  {}..{} a load that gave {value:?}\n",
                load.asked, load.answered
            );
        }
        text += &format!("The history around time {limit}:\n");
        let mut ops = ops.to_vec();
        ops.sort_by_key(|op| op.asked);
        let at = ops.iter().position(|op| op.answered >= limit).unwrap_or(0);
        for op in ops.iter().skip(at.saturating_sub(12)).take(30) {
            text += &format!("  {}..{} {:?}\n", op.asked, op.answered, op.what);
        }
        text
    }
}
