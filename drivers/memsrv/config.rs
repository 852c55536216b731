// SPDX-License-Identifier: GPL-2.0-only

//! The module's parameters, checked; a wrong one ends `insmod` with one line that says what to do.

use super::engine::Replica;
use super::platform::{params, sys};
use super::protocol::{Endpoint, Name, DEFAULT_PORT, MAX_STREAMS};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use kernel::{
    prelude::*,
    str::CStr, //
};

/// The most connections that are made unless more are asked for.
const DEFAULT_CONNECTIONS: u32 = 4;

/// The most pages in flight unless more are asked for (32 MiB), and the least: two huge pages.
const DEFAULT_INFLIGHT: (u64, u64) = (1024, 8192);

/// The most entries in all connections' tables, of about 180 bytes each.
const MAX_TABLES: u64 = 1 << 19;

/// The most pages that may be in flight: 256 MiB.
const MAX_INFLIGHT: u32 = 65536;

/// A server that owes an answer and says nothing for so long is given up, in milliseconds; sooner where
/// another one has the pages, or the disk.
const SILENCE_MS: u32 = 5000;
const BACKED_SILENCE_MS: u32 = 1000;

/// A server's address.
#[derive(Clone, Copy)]
pub(crate) struct Server(pub(crate) SocketAddr);

impl From<Endpoint> for Server {
    fn from(at: Endpoint) -> Self {
        let ip = Ipv6Addr::from(at.address);
        let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
        Self(SocketAddr::new(ip, at.port))
    }
}

impl kernel::fmt::Display for Server {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}

/// What the module was told to do.
#[derive(Clone, Copy)]
pub(crate) struct Config {
    /// The server's address.
    pub(crate) server: Server,
    /// The mirror's address, if there is one.
    pub(crate) mirror: Option<Server>,
    /// Whether the server named the mirror, and feeds it.
    pub(crate) forwarded: bool,
    /// Whether a page that only one of the two servers would hold is not taken.
    pub(crate) mirror_strict: bool,
    /// Who this client is.
    pub(crate) client: Name,
    /// Which of the client's sets of slots.
    pub(crate) region: Name,
    /// How many connections.
    pub(crate) connections: u16,
    /// How many pages may be on their way to the server.
    pub(crate) inflight: u32,
    /// After how many milliseconds a store ends as failed.
    pub(crate) store_ms: u64,
    /// Whether every page goes to the disk, too, and a load that no server answers is read from there.
    pub(crate) through: bool,
    /// Whether pages travel compressed.
    pub(crate) lz4: bool,
    /// How many milliseconds a load waits for a server that is away; none if the disk has the page.
    pub(crate) hold_ms: u64,
    /// How many milliseconds a load waits for a server that is there and answers other things.
    pub(crate) load_ms: u64,
    /// After how many milliseconds of silence a server that owes an answer is given up.
    pub(crate) silence_ms: u64,
    /// After how many milliseconds a load is asked of the other server, too.
    pub(crate) hedge_ms: u64,
    /// For how many microseconds a load may be waited for without sleeping.
    pub(crate) spin_us: u32,
    /// For how many pages a lane has buffers that nobody has asked for yet.
    pub(crate) ahead: u32,
    /// Whether the server's copy of a page outlives the page's return.
    pub(crate) keep_clean: bool,
}

impl Config {
    /// Reads the parameters.
    ///
    /// # Errors
    ///
    /// `EINVAL`, after a line in the log.
    pub(crate) fn from_params() -> Result<Self> {
        let server = address("server", params::server())?;
        let mirror = if params::mirror().is_empty() {
            None
        } else {
            Some(address("mirror", params::mirror())?)
        };
        if mirror.is_some_and(|mirror| mirror.0 == server.0) {
            pr_err!(
                "server= and mirror= are both {server}: two copies there are no better than one\n"
            );
            return Err(EINVAL);
        }
        if mirror.is_none() && params::mirror_strict() {
            pr_err!("mirror_strict=1 without mirror=HOST[:PORT]: give both or none\n");
            return Err(EINVAL);
        }
        let through = word("disk", params::disk(), (c"fallback", c"through"))?;
        let silence_ms = match params::silence_ms() {
            0 if through || mirror.is_some() => BACKED_SILENCE_MS,
            0 => SILENCE_MS,
            n => n,
        };
        let silence_ms = u64::from(between("silence_ms", silence_ms, 100, 600_000)?);
        let hold_ms = u64::from(between("hold_ms", params::hold_ms(), 0, 86_400_000)?);
        // The sockets read it where it was given.
        between("dscp", params::dscp(), 0, 63)?;
        let connections = match params::connections() {
            0 => sys::cpus().clamp(1, DEFAULT_CONNECTIONS),
            n => n,
        };
        let inflight = match params::inflight() {
            0 => {
                let (least, most) = DEFAULT_INFLIGHT;
                u32::try_from((sys::ram_pages() / 32).clamp(least, most))?
            }
            n => n,
        };
        if u64::from(inflight) * u64::from(connections) > MAX_TABLES {
            pr_err!("inflight={inflight} with connections={connections} takes too much memory: give less of one\n");
            return Err(EINVAL);
        }
        Ok(Self {
            server,
            mirror,
            forwarded: false,
            mirror_strict: params::mirror_strict(),
            client: client()?,
            region: name("region", params::region())?,
            connections: u16::try_from(between(
                "connections",
                connections,
                1,
                u32::from(MAX_STREAMS),
            )?)?,
            inflight: between("inflight", inflight, 1, MAX_INFLIGHT)?,
            store_ms: u64::from(between("store_ms", params::store_ms(), 1000, 600_000)?),
            through,
            lz4: word("compress", params::compress(), (c"none", c"lz4"))?,
            hold_ms: if through { 0 } else { hold_ms },
            load_ms: if through { silence_ms } else { hold_ms },
            silence_ms,
            hedge_ms: u64::from(between("hedge_ms", params::hedge_ms(), 1, 600_000)?),
            spin_us: between("spin_us", params::spin_us(), 0, 10_000)?,
            ahead: between("ahead", params::ahead(), 0, 64)?,
            keep_clean: params::keep_clean(),
        })
    }
}

impl Config {
    /// With a mirror that the server has named.
    ///
    /// # Errors
    ///
    /// As for [`Config::from_params`].
    pub(crate) fn forwarded_to(mirror: Server) -> Result<Self> {
        let config = Self::from_params()?;
        let silence_ms = match params::silence_ms() {
            0 => u64::from(BACKED_SILENCE_MS),
            _ => config.silence_ms,
        };
        Ok(Self {
            mirror: Some(mirror),
            forwarded: true,
            silence_ms,
            ..config
        })
    }

    /// Whether a page that did not come back well is asked for again of the only server: nobody else has it.
    pub(crate) fn asks_again(&self) -> bool {
        self.mirror.is_none() && !self.through
    }

    /// The replicas that there are, the primary first.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = Replica> {
        let count = if self.mirror.is_some() { 2 } else { 1 };
        Replica::BOTH.into_iter().take(count)
    }

    /// A replica's address, as the parameters give it.
    pub(crate) fn address(&self, replica: Replica) -> Server {
        match (replica, self.mirror) {
            (Replica::Mirror, Some(mirror)) => mirror,
            _ => self.server,
        }
    }
}

fn between(what: &str, value: u32, min: u32, max: u32) -> Result<u32> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    pr_err!("{what}={value} is out of range: give a number from {min} to {max}\n");
    Err(EINVAL)
}

/// Whether the second of two words was given.
fn word(what: &str, given: &CStr, (no, yes): (&CStr, &CStr)) -> Result<bool> {
    if given == no || given == yes {
        return Ok(given == yes);
    }
    pr_err!("{what}={given} is neither: give {what}={no} or {what}={yes}\n");
    Err(EINVAL)
}

fn name(what: &str, given: &CStr) -> Result<Name> {
    Name::new(given.to_bytes()).ok_or_else(|| {
        pr_err!("{what}={given} is no name: give 1 to 64 of the characters A-Z a-z 0-9 . _ -\n");
        EINVAL
    })
}

fn client() -> Result<Name> {
    let given = params::client();
    if !given.is_empty() {
        return name("client", given);
    }
    let host = sys::hostname();
    Name::new(host.to_bytes()).ok_or_else(|| {
        pr_err!("the host name {host} cannot name this client: give client=NAME\n");
        EINVAL
    })
}

fn address(what: &str, given: &CStr) -> Result<Server> {
    let text = given.to_str().unwrap_or("");
    if text.is_empty() {
        pr_err!("no {what} given: load the module with {what}=HOST[:PORT]\n");
        return Err(EINVAL);
    }
    server(what, text)
}

/// The address that somebody gave as `what`.
///
/// # Errors
///
/// `EINVAL`, after a line in the log.
pub(crate) fn server(what: &str, text: &str) -> Result<Server> {
    parse_server(text).map(Server).ok_or_else(|| {
        pr_err!(
            "{what}={text} is no address: give an IPv4 address like 10.0.0.2 or 10.0.0.2:{port}, \
             or an IPv6 address in brackets like [fd00::2]:{port}; the port is 1 to 65535\n",
            port = DEFAULT_PORT
        );
        EINVAL
    })
}

fn parse_server(text: &str) -> Option<SocketAddr> {
    let (host, port, v6) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            let port = if port.is_empty() {
                None
            } else {
                Some(port.strip_prefix(':')?)
            };
            (host, port, true)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port), false),
            None => (text, None, false),
        },
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
    };
    let ip = params::parse_ip(host, v6)?;
    (port != 0 && !ip.is_unspecified()).then(|| SocketAddr::new(ip, port))
}
