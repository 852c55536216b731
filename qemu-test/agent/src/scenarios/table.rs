// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The scenarios, one after another.

use qemu_test_wire::TARGET_SCENARIO;

use super::{
    basic, bench, compressed, demo, figures, forwarded, injected, kinds, losses, mirror, plain,
    power, refusals, resync, room, through, tiers, Entry, Kind,
};

/// All but the fault matrix, in the order in which those with equal machines run.
pub const ALL: &[Entry] = &[
    Entry::plain(
        "plain-swap",
        "no module: fill, evict to the disk, verify",
        plain::swap,
    ),
    Entry::plain(
        "plain-killed",
        "no module: a program killed at its limit is counted",
        plain::killed,
    )
    .with(Kind::Measuring),
    Entry::new("basic", "evict, verify, swapoff, rmmod", basic::basic),
    Entry::new(
        "in-use",
        "rmmod is refused while pages are away",
        basic::in_use,
    ),
    Entry::new("marked", "what is sent has the DSCP", basic::marked),
    Entry::new("ended", "a program that ends leaves nothing", basic::ended),
    Entry::new(
        "killed",
        "a killed program's pages are freed on the server",
        basic::killed,
    ),
    Entry::new(
        "one-chunk",
        "a killed program's pages are freed, in an area of one chunk",
        basic::one_chunk,
    ),
    Entry::new(
        "rounds",
        "four times the limit, rewritten in rounds",
        basic::rounds,
    ),
    Entry::new(
        "nonrotational",
        "two programs at once, on a disk that does not rotate",
        basic::nonrotational,
    ),
    Entry::new(
        "global",
        "half as much again as there is RAM",
        basic::global,
    )
    .within(400),
    Entry::new(
        "statistics",
        "readable while it runs; vmstat agrees",
        basic::statistics,
    ),
    Entry::new(
        "held-stores",
        "few stores wait for more, as long as the task goes on",
        basic::held_stores,
    ),
    Entry::new(
        "stages",
        "where a fault waits that the server answers late",
        basic::stages,
    ),
    Entry::new(
        "spinning",
        "faults that are waited for without sleeping",
        basic::spinning,
    ),
    Entry::new(
        "spinning-crowd",
        "many tasks that wait at once: none of them without sleeping",
        basic::crowded,
    ),
    Entry::new(
        "readahead",
        "many pages asked for at once",
        basic::readahead,
    ),
    Entry::new(
        "ahead",
        "pages asked for before they are wanted",
        basic::ahead,
    ),
    Entry::new("reload", "insmod and rmmod twenty times", basic::reload).within(300),
    Entry::new("huge", "2 MiB folios out and in", kinds::huge),
    Entry::new("large", "64 KiB folios out and in", kinds::large),
    Entry::new("zero", "zero pages among others", kinds::zero),
    Entry::new(
        "shared",
        "shmem pages, swapoff with them away",
        kinds::shared,
    ),
    Entry::new("fork", "fork with pages away", kinds::fork),
    Entry::new("full", "a full server: the rest to the disk", room::full),
    Entry::new(
        "full-zswap",
        "a full server: the rest to zswap",
        room::full_zswap,
    ),
    Entry::new(
        "upgraded",
        "a server that keeps its pages is stopped under eviction and started anew",
        room::upgraded,
    ),
    Entry::new("inflight", "a tiny in-flight table", room::inflight),
    Entry::new(
        "inflight-huge",
        "a table too small for a huge folio",
        room::inflight_huge,
    ),
    Entry::new(
        "killed-idle",
        "the server dies empty and comes back",
        room::killed_idle,
    ),
    Entry::new(
        "paused",
        "the server stands still for a while",
        room::paused,
    ),
    Entry::new(
        "link-down",
        "the network goes and comes back",
        room::link_down,
    ),
    Entry::new(
        "lost",
        "the server dies with pages, a new one starts: SIGBUS, no wrong bytes",
        losses::lost,
    ),
    Entry::new(
        "held",
        "the server dies with pages and stays away",
        losses::held,
    ),
    Entry::new(
        "swapoff-waits",
        "swapoff waits for a server that is away",
        losses::swapoff_waits,
    ),
    Entry::new(
        "read-again",
        "reads that timed out are repeated",
        losses::read_again,
    ),
    Entry::new(
        "given-up",
        "giveup ends a swapoff that waits",
        losses::given_up,
    ),
    Entry::new("deaf", "a server that never acknowledges", losses::deaf),
    Entry::new(
        "deaf-again",
        "a new connection gives a store no more time",
        losses::deaf_again,
    ),
    Entry::new(
        "hostile",
        "a server that breaks the protocol in every session",
        losses::hostile,
    ),
    Entry::new(
        "no-hooks",
        "a kernel without a function to hook",
        losses::no_hooks,
    ),
    Entry::new(
        "unload-busy",
        "insmod and rmmod under others' swapping",
        room::unload_busy,
    ),
    Entry::new(
        "unload-often",
        "insmod and rmmod many times under load",
        room::unload_often,
    )
    .within(600),
    Entry::new(
        "unload-throttled",
        "rmmod with packets of its still in the queue before the card",
        room::unload_throttled,
    ),
    Entry::debug(
        "faults-atomic",
        "a part of all allocations that cannot wait fails",
        injected::atomic,
    )
    .within(600),
    Entry::debug(
        "faults-ours",
        "a part of all allocations made on the module's behalf fails",
        injected::ours,
    )
    .within(600),
    Entry::debug(
        "faults-insmod",
        "insmod while allocations fail: loaded, or refused and nothing left",
        injected::insmod,
    )
    .within(600),
    Entry::new(
        "disk-before",
        "pages on disk before insmod",
        tiers::disk_before,
    ),
    Entry::new(
        "zswap-before",
        "zswap on before insmod",
        tiers::zswap_before,
    ),
    Entry::new(
        "zswap-after",
        "zswap switched on and off after insmod",
        tiers::zswap_after,
    ),
    Entry::new(
        "zswap-shrinker",
        "zswap's shrinker busy, server full",
        tiers::zswap_shrinker,
    ),
    Entry::new(
        "two-areas",
        "two swap areas of one priority",
        tiers::two_areas,
    ),
    Entry::new(
        "areas-come-and-go",
        "areas added and removed meanwhile",
        tiers::areas_come_and_go,
    ),
    Entry::new(
        "wrong-parameters",
        "insmod says what is wrong",
        refusals::parameters,
    ),
    Entry::new(
        "wrong-servers",
        "nobody there, or somebody else",
        refusals::servers,
    ),
    Entry::new(
        "wrong-version",
        "another version of the protocol",
        refusals::version,
    ),
    Entry::new("mirror-both", "each page on two servers", mirror::both),
    Entry::new(
        "mirror-absent",
        "loaded with one of two servers away: it is filled when it comes",
        mirror::absent,
    )
    .within(300),
    Entry::new(
        "mirror-primary-killed",
        "the primary dies while pages are read",
        mirror::primary_killed,
    ),
    Entry::new(
        "mirror-killed",
        "the mirror dies while pages are stored",
        mirror::mirror_killed,
    ),
    Entry::new(
        "mirror-slow",
        "a primary that stands still: the mirror is asked, too",
        mirror::primary_slow,
    ),
    Entry::new(
        "resync",
        "a server that comes back empty is filled by the other",
        resync::returns,
    )
    .within(300),
    Entry::new(
        "resync-pressure",
        "the same while a program never stops writing",
        resync::under_pressure,
    )
    .within(400),
    Entry::new("resync-broken", "faults in the midst of it", resync::broken).within(400),
    Entry::new(
        "resync-given-up",
        "giveup of what a half-filled server lacks",
        resync::given_up,
    )
    .within(300),
    Entry::new(
        "replaced",
        "another server takes a dead one's place",
        resync::replaced,
    )
    .within(300),
    Entry::new(
        "replaced-back",
        "a server that was replaced is not believed",
        resync::replaced_back,
    )
    .within(300),
    Entry::new(
        "mirror-strict",
        "nothing is stored on one server only",
        mirror::strict,
    ),
    Entry::new(
        "mirror-cut",
        "the primary's cable is pulled and put back",
        mirror::primary_cut,
    ),
    Entry::new(
        "mirror-full",
        "a mirror with less room: the rest to the disk",
        mirror::mirror_full,
    ),
    Entry::new(
        "mirror-twice",
        "one server by two addresses is refused",
        mirror::twice,
    ),
    Entry::new(
        "forwarded",
        "a server forwards each page to its mirror",
        forwarded::both,
    ),
    Entry::new(
        "forwarded-killed",
        "it dies while its pages are read: the mirror goes on",
        forwarded::killed,
    ),
    Entry::new(
        "forwarded-slow",
        "it stands still while its pages are read: the mirror is asked, too",
        forwarded::slow,
    ),
    Entry::new(
        "forwarded-storing",
        "it dies while pages are stored",
        forwarded::killed_storing,
    ),
    Entry::new(
        "forwarded-mirror",
        "its mirror dies, and comes back",
        forwarded::mirror_killed,
    ),
    Entry::new(
        "forwarded-late",
        "its mirror is there later than the module",
        forwarded::late,
    ),
    Entry::new(
        "forwarded-before",
        "it acknowledges before its mirror does, and dies",
        forwarded::before,
    ),
    Entry::new(
        "mirror-given-up",
        "giveup of what only a dead mirror had",
        mirror::given_up,
    ),
    Entry::new("mirror-gone", "both servers die", mirror::both_gone),
    Entry::new(
        "compressed",
        "pages that compress well, badly and not at all",
        compressed::contents,
    ),
    Entry::new(
        "compressed-huge",
        "2 MiB folios, compressed",
        compressed::huge,
    ),
    Entry::new(
        "compressed-more",
        "more pages than the server has frames",
        compressed::more,
    ),
    Entry::new(
        "compressed-mirror",
        "two servers, each page compressed on both; either dies",
        compressed::mirrored,
    )
    .within(300),
    Entry::new(
        "compressed-through",
        "compressed, and on the disk, too; the server dies",
        compressed::through,
    ),
    Entry::new(
        "compressed-not",
        "a server that does not grant it, at insmod and later",
        compressed::not_granted,
    ),
    Entry::new(
        "compressed-missing",
        "a kernel without LZ4",
        compressed::missing,
    ),
    Entry::new(
        "compressed-rubbish",
        "blocks of the right checksum that are no page's",
        compressed::rubbish,
    )
    .within(600),
    Entry::new(
        "rewritten",
        "pages change while their writeback waits",
        power::rewritten,
    ),
    Entry::new(
        "hibernation",
        "to an image and back with pages away",
        power::hibernation,
    )
    // The debug kernel's own memory is in the image, too.
    .with(Kind::Large),
    Entry::new(
        "goodbye",
        "switched off with pages away: the server frees them",
        power::goodbye,
    ),
    Entry::new(
        "through",
        "every page on the server and on the disk",
        through::both,
    ),
    Entry::new(
        "through-kinds",
        "huge folios, shared memory, zero pages",
        through::kinds,
    ),
    Entry::new(
        "through-killed",
        "the server dies under pressure: the disk has all",
        through::killed,
    ),
    Entry::new(
        "through-paused",
        "the server stands still: the disk is read",
        through::paused,
    ),
    Entry::new(
        "through-rewritten",
        "slots change while copies of them wait",
        through::rewritten,
    ),
    Entry::new(
        "through-gone-and-back",
        "another server, then the network away",
        through::gone_and_back,
    ),
    Entry::new(
        "through-swapoff",
        "swapoff with the server dead",
        through::swapoff,
    ),
    Entry::new(
        "through-unload",
        "rmmod with pages away, in the middle of reading",
        through::unload,
    ),
    Entry::new(
        "through-zswap",
        "zswap with older and with newer pages",
        through::zswap,
    ),
    Entry::new(
        "through-no-read",
        "a kernel without a function to read the disk by",
        through::no_read,
    ),
    Entry::new(
        "through-mirror",
        "one server dies, then the other",
        through::mirrored,
    ),
    Entry::demo(
        "mirror-figures",
        "not a test: stall, throughput, resync",
        figures::mirror,
    )
    .within(1800),
    Entry::measure(
        Kind::Measuring,
        "micro-quick",
        "a part of `make bench QUICK=1`: the same, fewer rounds and contenders",
        bench::quick,
    )
    .within(1200),
    Entry::measure(
        Kind::Measuring,
        "micro",
        "a part of `make bench`: how long a page takes",
        bench::time,
    )
    .within(3600),
    Entry::measure(
        Kind::Measuring,
        "links",
        "what `make bench-links` runs: narrow links",
        bench::links,
    )
    .within(3600),
    Entry::measure(
        Kind::Measuring,
        "links-quick",
        "what `make bench-links QUICK=1` runs: the same once",
        bench::quick_links,
    )
    .within(1200),
    Entry::second(
        TARGET_SCENARIO,
        "the second guest's part in `make bench`: serves its RAM by NVMe/TCP",
        bench::nvme_target,
    )
    .within(300),
    Entry::measure(
        Kind::Measuring,
        "apps",
        "a part of `make bench`: programs with less memory than they need",
        bench::apps,
    )
    .within(10_800),
    Entry::measure(
        Kind::Measuring,
        "apps-quick",
        "a part of `make bench QUICK=1`: the same with half of it",
        bench::quick_apps,
    )
    .within(1800),
    Entry::measure(
        Kind::Counting,
        "cost",
        "what `make bench-cost` runs: instructions for a page",
        bench::cost,
    )
    .within(900),
    Entry::demo("demo", "what `make demo` runs", demo::run).within(900),
];
