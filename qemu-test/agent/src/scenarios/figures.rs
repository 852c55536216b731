// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What two servers cost and give, as figures: not part of `make test`, since no test depends on speed.
//!
//! `build/qemu-test test mirror-figures`; they are in `build/test-logs/mirror-figures/result`.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::common::{evicted, filled, small, ROOMY};
use super::mirror::{begin, end, settled, verify_while, whole};
use crate::guest::{poll, Filler, Guest};

/// How often the primary is killed.
const KILLS: usize = 20;

/// 96 MiB in pages: what a server is filled with.
const MANY: usize = 24576;

/// Stall at failover, throughput whole, degraded and while resyncing, and the time of a resync.
pub fn mirror(guest: &mut Guest) -> Result<()> {
    failover(guest)?;
    throughput(guest)?;
    resync(guest)
}

/// The longest that a load waited when the primary was killed, of each kill.
fn failover(guest: &mut Guest) -> Result<()> {
    let mut stalls = Vec::new();
    for kill in 0..KILLS {
        let disk = begin(guest, "")?;
        let (_cgroup, mut filler) = evicted(guest, &format!("figures-{kill}"), small(4096, 80))?;
        settled(guest)?;
        verify_while(&mut filler, || guest.host.kill_server())?;
        if guest.stat("failovers")? > 0 {
            stalls.push(guest.stat("failover_us_max")?);
        }
        filler.end()?;
        end(guest, &disk, false, true)?;
        guest.host.note(format!("kill {kill}: {stalls:?} us"))?;
    }
    stalls.sort_unstable();
    let figures = &mut guest.figures;
    figures.insert("failovers".to_owned(), u64::try_from(stalls.len())?);
    if let (Some(median), Some(worst)) = (stalls.get(stalls.len() / 2), stalls.last()) {
        figures.insert("failover_us_median".to_owned(), *median);
        figures.insert("failover_us_worst".to_owned(), *worst);
    }
    Ok(())
}

/// How long a program takes to write and read all its pages, in milliseconds, with half of them away.
fn round(filler: &mut Filler) -> Result<u64> {
    let started = Instant::now();
    filler.perform("rewrite")?;
    filler.expect_right("shuffled")?;
    Ok(u64::try_from(started.elapsed().as_millis())?)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn throughput(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let (cgroup, mut filler) = filled(guest, "figures-rounds", 32, small(16384, 81))?;
    let (mut both, mut alone, mut resyncing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        both.push(round(&mut filler)?);
        guest.host.mirror(|host| host.kill_server())?;
        poll(
            "the end of the mirror's links",
            Duration::from_secs(30),
            || Ok(guest.stat("degraded")? == 1),
        )?;
        alone.push(round(&mut filler)?);
        guest.host.mirror(|host| host.start_server(ROOMY))?;
        // It begins with a resync, which may be over before the round is.
        resyncing.push(round(&mut filler)?);
        whole(guest)?;
    }
    for (name, values) in [
        ("round_ms_whole", both),
        ("round_ms_degraded", alone),
        ("round_ms_resyncing", resyncing),
    ] {
        guest.figures.insert(name.to_owned(), median(values));
    }
    cgroup.set_limit(0)?;
    filler.end()?;
    end(guest, &disk, true, true)
}

fn resync(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let (_cgroup, mut filler) = evicted(guest, "figures-resync", small(MANY, 82))?;
    settled(guest)?;
    let mut times = Vec::new();
    for _ in 0..3 {
        guest.host.mirror(|host| host.kill_server())?;
        poll(
            "the end of the mirror's links",
            Duration::from_secs(30),
            || Ok(guest.stat("degraded")? == 1),
        )?;
        guest.host.mirror(|host| host.start_server(ROOMY))?;
        poll("the mirror's return", Duration::from_secs(30), || {
            Ok(crate::guest::module::text("mirror_link.0.state")? == "up")
        })?;
        let started = Instant::now();
        whole(guest)?;
        times.push(u64::try_from(started.elapsed().as_millis())?);
    }
    let pages = guest.stat("remote_pages")?;
    guest.figures.insert("resync_pages".to_owned(), pages);
    guest.figures.insert("resync_ms".to_owned(), median(times));
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, true, true)
}
