// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the server is told: by its command line, by a TOML file, and by neither.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use memsrv_protocol::{Name, DEFAULT_PORT, PAGE_SIZE, VERSION};
use serde::Deserialize;

use crate::error::StartError;
use crate::listener::SocketOptions;
use crate::mirror::{self, MirrorAck};
use crate::num::{to_u64, to_usize};
use crate::persist;
use crate::pull::{Network, PullLimits};
use crate::size::Size;

const LISTEN_HELP: &str = "Where to listen, as 0.0.0.0:7170 or [::]:7170 [default: [::]:7170]";

/// What pages are sent by unless somebody says otherwise: it sends a page when it has one.
const CONGESTION: &str = "cubic";

const AFTER_HELP: &str = "\
Sizes are whole numbers of bytes, or of K, M, G, T (powers of 1024).

Exit codes: 0 stopped as asked (SIGTERM, SIGINT); 1 failed for another reason; 2 wrong option or
configuration; 3 address or port in use or not this machine's; 4 not enough memory; 5 limit on
locked memory too low; 6 the directory given with --persist cannot be used.

See memsrvd(8).";

/// Serves memory to other machines: keeps the pages that their kernels evict.
#[derive(Debug, Default, Parser)]
#[command(name = "memsrvd", version, after_help = AFTER_HELP)]
pub struct Args {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", help = LISTEN_HELP)]
    pub listen: Option<String>,
    /// How much memory to serve, as 2G; taken and locked at start
    #[arg(long, value_name = "SIZE")]
    pub capacity: Option<Size>,
    /// How much one client may store at most [default: the capacity]
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<Size>,
    /// Read further settings from this TOML file; the command line wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How many threads serve connections, 1 to 256 [default: the number of CPUs, at most 8]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How many connections may be open at a time [default: 512]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// TCP congestion control of the connections; "" is the host's choice [default: cubic]
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// DSCP of what is sent to clients and to a mirror, 0 to 63 [default: 0]
    #[arg(long, value_name = "N")]
    pub dscp: Option<u8>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines are written [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Seconds to go on serving after SIGTERM, so that clients fetch their pages [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub drain: Option<u64>,
    /// Write what is stored to a log in this directory, too, and begin with what is there
    #[arg(long, value_name = "DIR")]
    pub persist: Option<PathBuf>,
    /// Acknowledge only what the log has on the disk, so that a power cut loses nothing
    #[arg(long)]
    pub persist_ack: bool,
    /// Forward to this server what clients that ask for it store and free
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub mirror: Option<String>,
    /// Acknowledge what is forwarded after the mirror has, or before [default: after]
    #[arg(long, value_name = "WHEN")]
    pub mirror_ack: Option<MirrorAck>,
    /// Do not lock memory: for tests only, since a server whose pages are swapped may wait for itself
    #[arg(long)]
    pub no_lock: bool,
    /// Speak another version of the protocol: for tests only
    #[arg(long, hide = true, value_name = "N")]
    pub test_protocol_version: Option<u16>,
}

/// How log lines look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Which log lines are written: those of this level and of the levels before it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The server cannot do what it is for.
    Error,
    /// Somebody should look: a refused client, something that the kernel did not grant.
    Warn,
    /// Starts, stops, clients that come and go.
    #[default]
    Info,
    /// Connections one by one.
    Debug,
    /// As debug: there is nothing more to say yet.
    Trace,
}

/// Which clients are served.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Admit {
    #[default]
    All,
    Listed,
}

/// The TOML file. Its keys are the options' names, with `_` for `-`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<String>,
    capacity: Option<Size>,
    quota: Option<Size>,
    threads: Option<usize>,
    max_connections: Option<usize>,
    congestion: Option<String>,
    dscp: Option<u8>,
    max_regions: Option<usize>,
    hello_timeout_ms: Option<u64>,
    pull_threads: Option<usize>,
    pull_from: Vec<String>,
    log_format: Option<LogFormat>,
    log_level: Option<LogLevel>,
    drain: Option<u64>,
    no_lock: Option<bool>,
    persist: Option<PathBuf>,
    persist_ack: Option<bool>,
    mirror: Option<String>,
    mirror_ack: Option<MirrorAck>,
    admit: Admit,
    client: HashMap<String, FileClient>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileClient {
    quota: Option<Size>,
}

/// Who may store how much, in pages.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// What a client may store that is not listed; `None`: it is not admitted.
    pub unlisted: Option<u64>,
    /// What listed clients may store.
    pub listed: HashMap<String, u64>,
    /// The most regions, over all clients.
    pub regions: usize,
    /// What is fetched from other servers.
    pub pull: PullLimits,
}

impl Limits {
    /// What a client may store; `None`: it is not admitted.
    pub fn quota(&self, client: &str) -> Option<u64> {
        self.listed.get(client).copied().or(self.unlisted)
    }
}

/// What the server does, all of it decided.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether nobody said where, so that a machine without IPv6 may use another address.
    pub listen_anywhere: bool,
    /// Pages to serve.
    pub capacity_pages: usize,
    /// Who may store how much.
    pub limits: Limits,
    /// Threads that serve connections.
    pub threads: usize,
    /// The most connections.
    pub max_connections: usize,
    /// What the connections' sockets are told.
    pub sockets: SocketOptions,
    /// How long a connection may be silent at its beginning.
    pub hello_timeout: Duration,
    /// How long to go on serving once told to stop.
    pub drain: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_level: LogLevel,
    /// The log, if one is to be kept.
    pub persist: Option<persist::Options>,
    /// The mirror, if there is one.
    pub mirror: Option<mirror::Options>,
    /// Whether to lock the memory.
    pub lock: bool,
    /// The version of the protocol to speak.
    pub version: u16,
}

fn usage(text: impl Into<String>) -> StartError {
    StartError::Usage(text.into())
}

impl Config {
    /// Puts command line, file and defaults together.
    ///
    /// # Errors
    ///
    /// [`StartError::Usage`] naming the option and what it may be.
    pub fn resolve(args: Args) -> Result<Config, StartError> {
        let file = args
            .config
            .as_deref()
            .map(read)
            .transpose()?
            .unwrap_or_default();
        let capacity = args.capacity.or(file.capacity).ok_or_else(|| {
            usage("no capacity given; say how much memory to serve with --capacity, as in --capacity 2G")
        })?;
        let capacity_pages = pages("capacity", capacity)?;
        let threads = args
            .threads
            .or(file.threads)
            .unwrap_or_else(default_threads);
        if !(1..=256).contains(&threads) {
            return Err(usage(format!(
                "threads is {threads}; give a number from 1 to 256"
            )));
        }
        let max_connections = args.max_connections.or(file.max_connections).unwrap_or(512);
        if max_connections == 0 {
            return Err(usage("max-connections is 0; nobody could connect"));
        }
        if file.max_regions == Some(0) {
            return Err(usage("max_regions is 0; nobody could store"));
        }
        let hello_timeout_ms = file.hello_timeout_ms.unwrap_or(10_000);
        if hello_timeout_ms == 0 {
            return Err(usage("hello_timeout_ms is 0; nobody could connect"));
        }
        let congestion = args.congestion.or(file.congestion.clone());
        let dscp = args.dscp.or(file.dscp).unwrap_or(0);
        if dscp > SocketOptions::MAX_DSCP {
            return Err(usage("dscp is above 63; it has six bits"));
        }
        let sockets = SocketOptions {
            congestion: congestion.unwrap_or_else(|| CONGESTION.to_owned()),
            dscp,
        };
        let ack = args.persist_ack || file.persist_ack.unwrap_or(false);
        let persist = args.persist.or(file.persist.clone());
        if ack && persist.is_none() {
            return Err(usage(
                "persist-ack without persist; say where to keep the pages, as in --persist DIR",
            ));
        }
        let mirror = mirror(
            args.mirror.as_deref().or(file.mirror.as_deref()),
            args.mirror_ack.or(file.mirror_ack),
        )?;
        let listen = args.listen.as_deref().or(file.listen.as_deref());
        Ok(Config {
            listen: address(listen.unwrap_or("[::]"))?,
            mirror,
            listen_anywhere: listen.is_none(),
            capacity_pages,
            limits: limits(&file, args.quota.or(file.quota))?,
            threads,
            max_connections,
            sockets,
            hello_timeout: Duration::from_millis(hello_timeout_ms),
            drain: Duration::from_secs(args.drain.or(file.drain).unwrap_or(0)),
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            log_level: args.log_level.or(file.log_level).unwrap_or_default(),
            persist: persist.map(|dir| persist::Options {
                dir,
                ack,
                queue_len: persist::QUEUE_LEN,
            }),
            lock: !(args.no_lock || file.no_lock.unwrap_or(false)),
            version: args.test_protocol_version.unwrap_or(VERSION),
        })
    }
}

fn read(path: &Path) -> Result<File, StartError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        usage(format!(
            "cannot read configuration {}: {error}",
            path.display()
        ))
    })?;
    toml::from_str(&text)
        .map_err(|error| usage(format!("configuration {}: {error}", path.display())))
}

/// An address with or without a port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_default = || bare.parse().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
    text.parse().or_else(|_| with_default()).ok()
}

/// The mirror's address and when to acknowledge. It is told to clients: one that means every address is none.
fn mirror(
    text: Option<&str>,
    ack: Option<MirrorAck>,
) -> Result<Option<mirror::Options>, StartError> {
    let Some(text) = text else {
        return match ack {
            None => Ok(None),
            Some(_) => Err(usage(
                "mirror-ack without mirror; say what server to forward to, as in --mirror 192.0.2.2",
            )),
        };
    };
    let address = parse_address(text)
        .filter(|address| !address.ip().to_canonical().is_unspecified() && address.port() != 0)
        .ok_or_else(|| {
            usage(format!(
                "\"{text}\" is not the address of a mirror; write it as 192.0.2.2, 192.0.2.2:{DEFAULT_PORT} or \
                 [2001:db8::2]:{DEFAULT_PORT} (names are not looked up)"
            ))
        })?;
    Ok(Some(mirror::Options {
        address: SocketAddr::new(address.ip().to_canonical(), address.port()),
        ack: ack.unwrap_or_default(),
        welcome: mirror::MIRROR_WELCOME,
        silence: mirror::MIRROR_TIMEOUT,
    }))
}

/// The address to listen on.
fn address(text: &str) -> Result<SocketAddr, StartError> {
    parse_address(text).ok_or_else(|| {
        usage(format!(
            "\"{text}\" is not an address to listen on; \
                 write it as 192.0.2.1:{DEFAULT_PORT} or [2001:db8::1]:{DEFAULT_PORT}"
        ))
    })
}

fn pages(what: &str, size: Size) -> Result<usize, StartError> {
    let pages = size.0 / to_u64(PAGE_SIZE);
    if pages == 0 {
        return Err(usage(format!(
            "{what} of {size} is less than one page ({PAGE_SIZE} bytes)"
        )));
    }
    Ok(to_usize(pages))
}

fn limits(file: &File, quota: Option<Size>) -> Result<Limits, StartError> {
    let in_pages = |size: Size| pages("quota", size).map(to_u64);
    // Without a quota the capacity is the limit, and a client that reaches it is told "full".
    let quota = quota.map_or(Ok(u64::MAX), in_pages)?;
    let mut listed = HashMap::new();
    for (name, client) in &file.client {
        if Name::new(name.as_bytes()).is_none() {
            return Err(usage(format!(
                "client name \"{name}\" is not 1 to 64 characters of A-Z a-z 0-9 . _ -"
            )));
        }
        listed.insert(name.clone(), client.quota.map_or(Ok(quota), in_pages)?);
    }
    Ok(Limits {
        unlisted: (file.admit == Admit::All).then_some(quota),
        listed,
        regions: file.max_regions.unwrap_or(1024),
        pull: pull(file)?,
    })
}

fn pull(file: &File) -> Result<PullLimits, StartError> {
    let defaults = PullLimits::default();
    let threads = file.pull_threads.unwrap_or(defaults.threads);
    if threads > 64 {
        return Err(usage(format!(
            "pull_threads is {threads}; give a number from 0 to 64"
        )));
    }
    let network = |text: &String| {
        Network::parse(text).ok_or_else(|| {
            usage(format!(
                "\"{text}\" in pull_from is not an address; write it as 10.0.0.3, 10.0.0.0/24 or 2001:db8::3"
            ))
        })
    };
    Ok(PullLimits {
        threads,
        from: file
            .pull_from
            .iter()
            .map(network)
            .collect::<Result<_, _>>()?,
        ..defaults
    })
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(8))
}
