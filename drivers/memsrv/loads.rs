// SPDX-License-Identifier: GPL-2.0-only

//! Loads: how a folio is asked for, who waits how, and what becomes of one that no server gives.

use super::ahead::Looked;
use super::engine::Replica;
use super::lane::{Lane, State, SEND_BATCH};
use super::link::event;
use super::platform::{
    folio::LoadingFolio,
    hook::{Held, Plug},
    sys, //
};
use super::protocol::Slot;
use super::table::LoadEntry;
use kernel::{prelude::*, sync::atomic::Relaxed};

/// How a load has begun.
#[derive(Default)]
struct Asked {
    /// Which servers there is something to send to now.
    outputs: [bool; 2],
    /// Whether a server is asked by then, or has been before, and the task does not go on asking.
    under_way: bool,
    /// Whether it is to be seen what to ask ahead, after that.
    ahead: bool,
    /// Its page was there already.
    here: Option<LoadEntry>,
}

impl Lane {
    /// Asks for a folio. It ends by itself. Sleeps while too many loads are in flight. While the task is plugged, what
    /// it asks for is sent in one go when that ends: the work of one message, in the network, for a whole readahead.
    /// Tells whether a server has been asked.
    pub(crate) fn load(&self, folio: LoadingFolio, plug: &Plug<'_>) -> bool {
        self.begin_load(folio, Some(plug))
    }

    /// What a wake-up takes of late, in microseconds.
    pub(crate) fn wake_us(&self) -> u32 {
        self.part(Replica::Primary).bell.wake_us()
    }

    /// For how many microseconds it is worth waiting for a load without sleeping.
    pub(crate) fn spin_us(&self) -> u32 {
        let most = self.shared.config.spin_us;
        let mut replicas = self.shared.config.replicas();
        // Who has to wait for a connection waits long.
        if most == 0 || !replicas.any(|replica| self.part(replica).is_up()) {
            return 0;
        }
        let (usual_us, taken) = {
            let counters = &mut self.state.lock().table.counters;
            (counters.usual_load_us(), counters.take_taken())
        };
        let wake_us = self.wake_us();
        let mut spin = self.shared.spin.lock();
        let us = spin.budget(taken, usual_us, wake_us, most);
        self.shared.spinning.store(spin.is_spinning(), Relaxed);
        us
    }

    /// Asks again for the folios whose reads were given up. Does not wait: this is the thread that others
    /// wait for.
    pub(crate) fn read_again(&self) {
        self.unread.again(|folio| {
            self.begin_load(folio, None);
        });
    }

    /// Sends what tasks have asked for that are plugged.
    pub(crate) fn send_loads(&self) {
        for replica in self.shared.config.replicas() {
            if self.part(replica).plugged.load(Relaxed) {
                self.send(replica);
            }
        }
    }

    /// Sends what tasks have asked for, or stored, that were plugged.
    pub(crate) fn unplugged(&self, may_sleep: bool) {
        for replica in self.shared.config.replicas() {
            let part = self.part(replica);
            // First: who sends just now, or gets the next answer, sees to what is left. And at once: whoever ends it must
            // look what is due.
            let held = part.held.xchg(false, Relaxed);
            match part.plugged.load(Relaxed) || (held && self.is_due(replica)) {
                true if may_sleep => self.send(replica),
                true => part.bell.ring(event::SEND),
                false => {}
            }
        }
    }

    /// Asks, for a task that may be plugged and may wait for room; for the thread, which may not, there is no `plug`.
    /// Returns whether a server has been asked.
    fn begin_load(&self, folio: LoadingFolio, plug: Option<&Plug<'_>>) -> bool {
        let may_wait = plug.is_some();
        let slot = folio.slot();
        let mut entry = LoadEntry::new(folio);
        entry.patient &= !self.shared.config.through;
        entry.spinning = (!sys::Waiting::are_many()).then(|| self.shared.spinning.load(Relaxed));
        match self.ask(slot, entry, plug) {
            Err(entry) if self.shared.config.through => {
                self.read_from_disk(entry);
                false
            }
            Err(entry) => {
                if may_wait {
                    ratelimited!(
                        pr_err,
                        "a page could not be read back (no answer in time): slot {slot:#x}\n"
                    );
                }
                if let Some(folio) = entry.into_folio() {
                    self.end_unread(folio);
                }
                false
            }
            Ok(asked) => {
                if let Some(entry) = asked.here {
                    self.finish_load(entry, Ok(()));
                }
                for (replica, output) in Replica::BOTH.into_iter().zip(asked.outputs) {
                    if output {
                        self.send(replica);
                    }
                }
                if asked.ahead {
                    let mut state = self.state.lock();
                    self.ask_ahead(&mut state, Slot(slot));
                    self.tell_watch(&state.streams);
                    drop(state);
                    self.send(Replica::Primary);
                }
                asked.under_way
            }
        }
    }

    /// Puts a load into the table, waiting for room as long as a load may wait at all. Tells which servers
    /// there is something to send to now.
    fn ask(
        &self,
        slot: u64,
        entry: LoadEntry,
        plug: Option<&Plug<'_>>,
    ) -> Result<Asked, LoadEntry> {
        let since_ms = entry.asked_ns / 1_000_000;
        let mut state = self.state.lock();
        let entry = match self.look_ahead(&mut state, entry) {
            Looked::Nothing(entry) => entry,
            Looked::Here(entry) => {
                // By the thread: the task has what it wants.
                self.ask_ahead(&mut state, Slot(slot));
                self.tell_output(&state.streams);
                return Ok(Asked {
                    here: Some(entry),
                    ..Asked::default()
                });
            }
            Looked::UnderWay => return Ok(self.asked(&mut state, slot, None, plug)),
        };
        if self.is_hopeless(slot) {
            return Err(entry);
        }
        while !state.table.has_load_room() {
            let waited = sys::now_ms().saturating_sub(since_ms);
            let late = waited > self.shared.config.hold_ms && !entry.patient;
            if late || plug.is_none() || self.is_hopeless(slot) {
                return Err(entry);
            }
            // Of what takes the room, some may wait for the end of a plug.
            self.tell_output(&state.streams);
            // The thread looks at the time for those who wait here, too, and wakes them.
            self.load_room.wait(&mut state);
        }
        if self.shared.config.through && !self.may_ask(slot, |r| state.streams.is_connected(r)) {
            // It would wait, and the disk does not.
            return Err(entry);
        }
        let State { streams, table, .. } = &mut *state;
        let pages = entry.pages;
        let number = table.begin_load(entry)?;
        let areas = &self.shared.areas;
        let asked = streams.load(Slot(slot), pages, number, since_ms, areas);
        if asked.is_err() {
            // The engine's table is larger than ours, the run was looked at, and never are both
            // servers behind: not reached.
            return table.cancel_load(number).map_or(Ok(Asked::default()), Err);
        }
        Ok(self.asked(&mut state, slot, Some(number), plug))
    }

    /// A load has begun, under that number if it was not under way before: tells what is to be sent now.
    fn asked(
        &self,
        state: &mut State,
        slot: u64,
        number: Option<u32>,
        plug: Option<&Plug<'_>>,
    ) -> Asked {
        // Only now: if the task had to wait for room, an earlier plug has ended by that.
        let held = plug.map_or(Held::No, Plug::hold);
        let plugged = held != Held::No;
        if plugged {
            self.shared.counters.plugged_loads.add(1);
            self.ask_ahead(state, Slot(slot));
        }
        if let (Held::First, Some(number)) = (held, number) {
            // The task will wait for this one.
            state.table.waits_alone(number);
        }
        let streams = &state.streams;
        self.tell_watch(streams);
        let outputs = Replica::BOTH.map(|replica| {
            let output = streams.has_output(replica);
            let later = output && plugged && streams.queued(replica) < SEND_BATCH;
            if later {
                self.part(replica).plugged.store(true, Relaxed);
            }
            output && !later
        });
        Asked {
            outputs,
            under_way: !plugged && (number.is_none() || outputs.contains(&true)),
            ahead: !plugged && state.ahead.follows(),
            here: None,
        }
    }

    /// Whether nobody is to wait for who may have a page.
    fn is_hopeless(&self, slot: u64) -> bool {
        self.shared.is_given_up(slot, |_| false)
            && !self.may_ask(slot, |replica| self.part(replica).is_up())
    }

    /// Ends a read without the page. Process context.
    pub(crate) fn end_unread(&self, folio: LoadingFolio) {
        if self.is_hopeless(folio.slot()) {
            folio.done(false, false);
        } else {
            self.unread.give_up(folio);
        }
    }

    /// The pages that no server can give are given up. What was not read is `forgotten` where nobody is left who could
    /// be asked again.
    pub(crate) fn give_up(&self, forgotten: bool) {
        if forgotten {
            self.unread.forget();
        }
        self.ring(event::WATCH, |_, _| true);
    }
}
