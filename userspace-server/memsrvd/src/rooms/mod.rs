// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Rooms for pages as they are stored: a frame for one of 4096 bytes, a part of a frame for one that came compressed.
//!
//! Lock order: [`Arena::divided`], then nothing. It is held for a few instructions; pages are written and read by who
//! has the room, under the lock of the table's shard.

pub mod sys;

pub use sys::{Divided, Kind, Room};

use crate::arena::{lock, Arena};

impl Arena {
    /// Takes a room for so many bytes; `None` where there is none, or they are more than a page.
    ///
    /// Where no page is left to be divided, a larger part than need be.
    pub fn room(&self, hint: u64, len: usize) -> Option<Room> {
        let kind = Kind::of(len)?;
        let Kind::Part(smallest) = kind else {
            return self.pages.take(hint).map(Room::of);
        };
        if let Some(room) = lock(&self.divided).take(kind) {
            return Some(room);
        }
        match self.pages.take(hint) {
            Some(page) => lock(&self.divided).divide(page, kind),
            None => {
                let mut divided = lock(&self.divided);
                (0..smallest)
                    .rev()
                    .find_map(|n| divided.take(Kind::Part(n)))
            }
        }
    }

    /// Gives one back.
    pub fn give_back(&self, hint: u64, room: Room) {
        let page = match room.into_page() {
            Ok(page) => Some(page),
            Err(part) => lock(&self.divided).put(part),
        };
        if let Some(page) = page {
            self.pages.put(hint, page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memsrv_protocol::PAGE_SIZE;
    use proptest::prelude::*;

    fn arena(pages: usize) -> Arena {
        crate::memory::take(pages, false, 0).unwrap()
    }

    #[test]
    fn each_length_has_the_smallest_room_that_it_fits() {
        for (len, kind, rooms) in [
            (0, Kind::Part(3), 8),
            (502, Kind::Part(3), 8),
            (503, Kind::Part(2), 4),
            (1006, Kind::Part(2), 4),
            (1007, Kind::Part(1), 3),
            (1342, Kind::Part(1), 3),
            (1343, Kind::Part(0), 2),
            (2014, Kind::Part(0), 2),
            (2015, Kind::Long, 1),
            (3584, Kind::Long, 1),
            (4094, Kind::Long, 1),
            (4096, Kind::Whole, 1),
        ] {
            assert_eq!(Kind::of(len), Some(kind), "{len}");
            assert_eq!(kind.rooms(), rooms, "{len}");
        }
        for len in [4095, 4097, usize::MAX] {
            assert_eq!(Kind::of(len), None, "{len}");
        }
    }

    #[test]
    fn a_room_shows_what_was_written_and_nothing_of_what_was_there_before() {
        let arena = arena(1);
        let old = vec![0xee; PAGE_SIZE];
        for len in [1, 400, 502, 503, 1342, 2014, 2015, 3584, 4094] {
            let mut room = arena.room(0, PAGE_SIZE).unwrap();
            assert!(room.write(&old));
            assert_eq!(room.payload(), old);
            arena.give_back(0, room);
            let mut room = arena.room(0, len).unwrap();
            assert!(room.write(&vec![7; len]));
            assert_eq!(room.payload(), vec![7; len], "{len}");
            assert!(room.write(&[8]));
            assert_eq!(room.payload(), [8]);
            arena.give_back(0, room);
            assert_eq!(arena.pages.free(), 1);
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let arena = arena(1);
        let mut room = arena.room(0, 500).unwrap();
        assert!(room.write(&[1; 502]));
        for len in [503, 3000, 4095, 4096, 70_000] {
            assert!(!room.write(&vec![2; len]), "{len}");
            assert_eq!(room.payload(), [1; 502], "{len}");
        }
        arena.give_back(0, room);
        let mut frame = arena.room(0, PAGE_SIZE).unwrap();
        assert!(frame.write(&[1; PAGE_SIZE]));
        assert!(!frame.write(&[2; 4095]) && !frame.write(&[2; 4097]));
        assert_eq!(frame.payload(), [1; PAGE_SIZE]);
        arena.give_back(0, frame);
    }

    #[test]
    fn a_frame_is_a_page_again_when_its_last_part_has_come_back() {
        let arena = arena(1);
        for (len, parts) in [(502, 8), (1006, 4), (1342, 3), (2014, 2)] {
            for first in [true, false] {
                let mut rooms: Vec<Room> =
                    (0..parts).map(|_| arena.room(0, len).unwrap()).collect();
                assert!(arena.room(0, len).is_none(), "{len}: more than {parts}");
                assert!(arena.room(0, PAGE_SIZE).is_none());
                while let Some(room) = if first {
                    (!rooms.is_empty()).then(|| rooms.remove(0))
                } else {
                    rooms.pop()
                } {
                    assert_eq!(arena.pages.free(), 0);
                    arena.give_back(0, room);
                }
                assert_eq!(arena.pages.free(), 1);
            }
        }
    }

    #[test]
    fn a_larger_part_serves_where_no_page_is_left() {
        let arena = arena(1);
        let large = arena.room(0, 2000).unwrap();
        let mut small = arena.room(0, 100).unwrap();
        assert_eq!(small.kind(), Kind::Part(0));
        assert!(small.write(&[3; 2014]));
        assert!(arena.room(0, 100).is_none());
        arena.give_back(0, large);
        arena.give_back(0, small);
        assert_eq!(arena.pages.free(), 1);
    }

    #[test]
    fn a_part_of_another_arena_is_not_taken() {
        let (one, other) = (arena(1), arena(1));
        let (kept, strange) = (one.room(0, 2000).unwrap(), other.room(0, 2000).unwrap());
        one.give_back(0, strange);
        one.give_back(0, kept);
        assert_eq!((one.pages.free(), other.pages.free()), (1, 0));
    }

    /// Rooms of random lengths are taken and given back: each always shows the bytes that were written to it last.
    fn play(steps: &[(bool, usize, u8)], pages: usize) {
        let arena = arena(pages);
        let mut held: Vec<(Room, Vec<u8>)> = Vec::new();
        for (n, &(gives, len, byte)) in steps.iter().enumerate() {
            let hint = u64::from(byte);
            if gives && !held.is_empty() {
                let (room, bytes) = held.swap_remove(len % held.len());
                assert_eq!(room.payload(), bytes);
                arena.give_back(hint, room);
                continue;
            }
            let bytes: Vec<u8> = (0..len)
                .map(|at| byte ^ u8::try_from((at + n) % 251).unwrap())
                .collect();
            match arena.room(hint, len) {
                Some(mut room) => {
                    assert!(room.write(&bytes));
                    held.push((room, bytes));
                }
                None => assert_eq!(arena.pages.free(), 0, "refused with pages free"),
            }
            for (room, bytes) in &held {
                assert_eq!(room.payload(), &bytes[..], "another room's write is seen");
            }
        }
        let used: u64 = pages.try_into().unwrap();
        let least: usize = held
            .iter()
            .map(|(room, _)| 24 / usize::from(room.kind().rooms()))
            .sum();
        let taken = used - arena.pages.free();
        assert!(
            u64::try_from(least.div_ceil(24)).unwrap() <= taken,
            "rooms share their bytes"
        );
        for (room, _) in held {
            arena.give_back(0, room);
        }
        assert_eq!(arena.pages.free(), used, "pages are lost");
    }

    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![
            1..=3584_usize,
            Just(PAGE_SIZE),
            1..600_usize,
            400..=2100_usize
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rooms_never_overlap_and_all_pages_come_back(
            steps in prop::collection::vec((any::<bool>(), length(), any::<u8>()), 1..120),
            pages in 1..12_usize,
        ) {
            play(&steps, pages);
        }
    }
}
