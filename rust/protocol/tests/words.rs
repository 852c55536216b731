// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Names, and what a slot's number says.

#[cfg(test)]
mod words {
    use memsrv_protocol::*;

    #[test]
    fn names_are_what_host_names_are_and_a_little_more() {
        for good in ["a", "A-z_0.9", &"x".repeat(64)] {
            assert_eq!(Name::new(good.as_bytes()).unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "a b",
            "a/b",
            "a\0",
            "\u{e9}",
            &"x".repeat(65),
            &"x".repeat(300),
        ] {
            assert_eq!(Name::new(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn slots_know_their_cluster_and_their_place() {
        for (slot, cluster, index) in [
            (0, 0, 0),
            (511, 0, 511),
            (512, 1, 0),
            (u64::MAX, u64::MAX / 512, 511),
        ] {
            assert_eq!((Slot(slot).cluster(), Slot(slot).index()), (cluster, index));
        }
        assert_eq!(Slot(u64::MAX).plus(1), None);
        assert_eq!(Slot(u64::MAX - 1).plus(1), Some(Slot(u64::MAX)));
    }
}
