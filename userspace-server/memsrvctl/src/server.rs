// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Asks a server for its statistics: a STAT, without a session.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memsrv_protocol::{Message, Sender, Tag, DEFAULT_PORT, HEADER_LEN};
use memsrvd::stats::Report;
use serde::Serialize;

use crate::error::Error;

/// How long the server may take for the whole of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the server said.
#[derive(Debug, Serialize)]
pub struct Sample {
    /// Where it was asked.
    pub address: SocketAddr,
    /// Its report.
    #[serde(flatten)]
    pub report: Report,
}

/// Pages per second, over all regions.
#[derive(Debug, Serialize)]
pub struct Rates {
    /// Seconds between the two looks.
    pub seconds: f64,
    /// Stored.
    pub stores_per_s: f64,
    /// Given out.
    pub loads_per_s: f64,
    /// Freed.
    pub frees_per_s: f64,
    /// The same by region, as `CLIENT/REGION`: stored, given out, freed.
    pub regions: BTreeMap<String, [f64; 3]>,
}

/// An address with or without a port. Names are not looked up.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = |_| {
        bare.parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, DEFAULT_PORT))
    };
    text.parse().or_else(with_port).map_err(|_| {
        format!("not an IP address; write it as 10.0.0.2, 10.0.0.2:{DEFAULT_PORT} or [2001:db8::2]")
    })
}

/// Reads from a server until a moment, however slowly it sends.
struct Timed {
    stream: TcpStream,
    end: Instant,
}

impl Read for Timed {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(room)
    }
}

/// Asks the server.
///
/// # Errors
///
/// It cannot be reached, or does not answer as a server does.
pub fn take(address: SocketAddr) -> Result<Sample, Error> {
    let unreachable = |error: io::Error| Error::Unreachable { address, error };
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(unreachable)?;
    let end = Instant::now() + TIMEOUT;
    stream
        .set_write_timeout(Some(TIMEOUT))
        .map_err(unreachable)?;
    stream
        .write_all(&Message::Stat { tag: Tag(1) }.encode())
        .map_err(unreachable)?;
    let mut stream = Timed { stream, end };
    let nonsense = |what: String| Error::Nonsense { address, what };
    let broken = |error: io::Error| nonsense(format!("no whole answer came ({error})"));
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).map_err(broken)?;
    let message =
        Message::decode(&header, Sender::Server).map_err(|error| nonsense(format!("{error:?}")))?;
    let len = usize::try_from(message.payload_len()).unwrap_or(0);
    // The decoder has checked the length against the protocol's limit.
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).map_err(broken)?;
    match message {
        Message::Stats { .. } => {
            let report = serde_json::from_slice(&payload)
                .map_err(|error| nonsense(format!("its statistics are no such JSON ({error})")))?;
            Ok(Sample { address, report })
        }
        Message::Refused { .. } => Err(Error::Refused {
            address,
            words: String::from_utf8_lossy(&payload).into_owned(),
        }),
        other => Err(nonsense(format!("it says {other:?}"))),
    }
}

/// What happened between two looks.
pub fn rates(before: &Sample, now: &Sample, elapsed: Duration) -> Rates {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let mut rates = Rates {
        seconds,
        stores_per_s: 0.0,
        loads_per_s: 0.0,
        frees_per_s: 0.0,
        regions: BTreeMap::new(),
    };
    for region in &now.report.regions {
        let older = before.report.regions.iter();
        let same = |r: &&_| key(r) == key(region);
        let older = older
            .clone()
            .find(same)
            .map(|r| r.operations.clone())
            .unwrap_or_default();
        let per_s = |now: u64, before: u64| number(now.saturating_sub(before)) / seconds;
        let stores = per_s(region.operations.stores, older.stores);
        let loads = per_s(region.operations.loads, older.loads);
        let frees = per_s(region.operations.frees, older.frees);
        rates.stores_per_s += stores;
        rates.loads_per_s += loads;
        rates.frees_per_s += frees;
        rates.regions.insert(key(region), [stores, loads, frees]);
    }
    rates
}

/// A region's name in [`Rates::regions`].
pub fn key(region: &memsrvd::stats::RegionReport) -> String {
    format!("{}/{}", region.client, region.region)
}

/// A count as a number to divide; what is beyond 2^53 is rounded.
pub fn number(count: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits & 0xffff_ffff).unwrap_or(u32::MAX));
    half(count >> 32) * 4_294_967_296.0 + half(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_above_32_bits_are_what_they_are() {
        assert_eq!(number(0), 0.0);
        assert_eq!(number((5 << 32) | 7), 21_474_836_487.0);
    }
}
