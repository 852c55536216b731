// SPDX-License-Identifier: GPL-2.0-only

//! What a link's thread does by the clock: it asks the other server, gives a server up that does not answer, and
//! ends what has waited too long.

use super::areas::index;
use super::engine::Replica;
use super::lane::State;
use super::link::Link;
use super::platform::sys;
use kernel::sync::atomic::Relaxed;

impl Link {
    /// Asks the other server, too, for loads that wait too long for this one.
    pub(super) fn hedge(&self) {
        let now = sys::now_ms();
        let before = now.saturating_sub(self.config().hedge_ms);
        let mut state = self.lane.state.lock();
        let hedged = state.streams.hedge(before, &self.lane.shared.areas, now);
        if hedged > 0 {
            state.table.counters.hedged_loads += u64::try_from(hedged).unwrap_or(0);
            self.lane.tell_output(&state.streams);
        }
    }

    /// Whether the server owes an answer for too long: it may be silent, or answer only other things.
    pub(super) fn overdue(&self, connected_ms: u64) -> Option<&'static str> {
        let config = self.config();
        let now = sys::now_ms();
        let age = |since: u64| now.saturating_sub(since);
        let state = self.lane.state.lock();
        let streams = &state.streams;
        let oldest = age(streams.oldest_ms(self.replica)?);
        let heard = age(self.part().heard_ms.load(Relaxed));
        if oldest > config.silence_ms && heard > config.silence_ms {
            return Some("the server does not answer");
        }
        // With time to connect anew before a store must have ended.
        if age(streams.oldest_store_ms(self.replica).unwrap_or(now)) > config.store_ms {
            return Some("the server does not answer stores");
        }
        // A load that has waited for so long for the connection is given time to be answered on it.
        let answerable = age(connected_ms) > config.silence_ms;
        let late = |number: Option<&u32>, since| {
            answerable
                && age(since) > config.load_ms
                && !number.is_some_and(|n| state.table.is_patient(*n))
        };
        streams
            .any_load(self.replica, late)
            .then_some("the server does not answer loads")
    }

    /// Ends stores that have waited too long for the server, or will have in `ahead_ms`, since others
    /// wait for them without limit; and loads that have.
    pub(super) fn expire(&self, ahead_ms: u64) {
        let (lane, config) = (&self.lane, self.config());
        let now = sys::now_ms();
        let (areas, pool) = (&lane.shared.areas, &lane.shared.pool);
        lane.change(|state| {
            let State { streams, table, .. } = state;
            let before = now.saturating_add(ahead_ms).saturating_sub(config.store_ms);
            streams.expire_stores(before, areas, &mut |ended| table.complete(ended, pool));
        });
        lane.change(|state| {
            let State { streams, table, .. } = state;
            // The engine asks about each load between the endings of others.
            let table = core::cell::RefCell::new(table);
            let stale = lane.shared.all_stale();
            let there = Replica::BOTH.map(|replica| streams.is_connected(replica));
            // Who is there was asked, or could not be.
            let given_up = |slot| {
                let answers = |replica| there.get(index(replica)) == Some(&true);
                lane.shared.is_given_up(slot, answers)
            };
            streams.expire_loads(
                |&number, since| {
                    let mut table = table.borrow_mut();
                    if table.slot_of(number).is_some_and(given_up) {
                        table.give_up(number);
                        return false;
                    }
                    let waits = now.saturating_sub(since) < config.hold_ms;
                    !stale && (waits || table.is_patient(number))
                },
                &mut |ended| table.borrow_mut().complete(ended, pool),
            );
        });
    }
}
