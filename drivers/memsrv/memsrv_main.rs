// SPDX-License-Identifier: GPL-2.0-only

//! memsrv: this machine's swapped pages live in another machine's RAM.
//!
//! The module hooks the kernel's swap path (`platform::hook`), keeps one bit for each page that the
//! server holds (`areas`), and sends and fetches pages over a few TCP connections (`lane`). The wire
//! format (`protocol`) and the order of operations (`engine`) are shared with user space.
//! `Documentation/design` tells how it all fits together.

#[macro_use]
#[path = "../../rust/memsrv/mod.rs"]
mod platform;
// What only user space or tests use of the shared code is unused here.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../../rust/engine/mod.rs"]
mod engine;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../../rust/protocol/mod.rs"]
mod protocol;

mod ahead;
mod areas;
mod client;
mod compress;
mod config;
mod control;
mod flights;
mod follow;
mod handshake;
mod lane;
mod link;
mod loads;
mod maker;
mod no_session;
mod pool;
mod refill;
mod relay;
mod rx;
mod session;
mod shared;
mod stages;
mod standings;
mod stats;
mod table;
mod through;
mod tx;
mod unread;
mod watch;

use areas::Areas;
use client::Client;
use config::Config;
use engine::Replica;
use kernel::{
    debugfs,
    prelude::*,
    sync::Arc, //
};
use lane::Lane;
use link::Link;
use maker::Maker;
use no_session::is_absence;
use platform::{
    hook::{HookError, Registration},
    power::Power,
    sys::{self, ModulePin},
    thread::Thread, //
};
use shared::Shared;
use stats::Report;
use through::Reader;

module! {
    type: Memsrv,
    name: "memsrv",
    authors: ["The memsrv authors"],
    description: "Remote memory: swap to another machine's RAM over TCP",
    license: "GPL v2",
}

/// The module. What is dropped first stands first: statistics, notifiers, hooks, threads.
struct Memsrv {
    _stats: Pin<KBox<debugfs::Scope<Report>>>,
    power: Option<Power<Client>>,
    client: Arc<Client>,
    hooks: Option<Registration<Client>>,
    links: Option<Links>,
    /// After the links, whose last loads it reads.
    _reader: Option<Thread<Reader>>,
    _maker: Thread<Maker>,
}

impl kernel::Module for Memsrv {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let mut session = open(module, Config::from_params()?)?;
        if let Some(mirror) = session.links.shared.areas.relay.found() {
            // Nothing is stored yet: anew, with what there is for two servers.
            let lz4 = session.links.shared.config.lz4;
            drop(session);
            session = open(
                module,
                Config {
                    lz4,
                    ..Config::forwarded_to(mirror)?
                },
            )?;
        }
        Self::with(session)
    }
}

/// The links' threads. Dropped, they stop from the last to the first, whose goodbye ends the session.
struct Links {
    threads: KVec<Thread<Link>>,
    shared: Arc<Shared>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.threads.iter_mut().rev().for_each(Thread::stop);
        // They hold `shared`, which holds them.
        *self.shared.areas.relay.lanes.lock() = KVec::new();
    }
}

/// Lanes with links that are up, or will be, to every server; nothing is hooked yet.
struct Session {
    lanes: KVec<Arc<Lane>>,
    links: Links,
    /// Which of two servers was not there.
    away: Option<Replica>,
}

/// Opens a session with the servers, without what one of them does not grant.
fn open(module: &'static ThisModule, config: Config) -> Result<Session> {
    let session = connect(module, config)?;
    let shared = &session.links.shared;
    if shared.compression.as_ref().is_none_or(|c| c.settle()) {
        return Ok(session);
    }
    pr_warn!("compress=lz4 is not granted by every server, so pages travel as they are; an older memsrvd, or one with --persist, does not grant it\n");
    let config = Config {
        lz4: false,
        ..shared.config
    };
    // Nothing is stored yet.
    drop(session);
    connect(module, config)
}

/// Opens a session with the servers, and says what is wrong if there is none.
#[inline(never)]
fn connect(module: &'static ThisModule, config: Config) -> Result<Session> {
    // Where the disk has every page, the module need not stay for those that are away.
    let pin = match config.through {
        true => None,
        false => Some(ModulePin::new(module)),
    };
    if config.through {
        through::prepare()?;
    }
    let areas = Areas::new(pin, config.mirror.is_some(), config.forwarded)?;
    let shared = Arc::pin_init(Shared::new(config, areas)?, GFP_KERNEL)?;
    // Areas that are on already: nobody tells which, so the first two are taken to be as large as
    // all that is free. What is missing all the same is made when it is first asked for.
    let free = sys::free_swap_pages();
    for area in 0..2 {
        if free > 0 {
            shared.areas.make(area << 48, free.min(1 << 24))?;
        }
    }

    let mut session = Session {
        lanes: KVec::new(),
        links: Links {
            threads: KVec::new(),
            shared: shared.clone(),
        },
        away: None,
    };
    // Of two that the administrator has named.
    let mut may_lack = shared.config.mirror.is_some() && !shared.config.forwarded;
    for number in 0..shared.config.connections {
        let lane = Lane::new(shared.clone(), number)?;
        shared
            .areas
            .relay
            .lanes
            .lock()
            .push(lane.clone(), GFP_KERNEL)?;
        for replica in shared.config.replicas() {
            let link = Link::new(lane.clone(), replica)?;
            session.links.threads.reserve(1, GFP_KERNEL)?;
            let thread = Thread::start(session::THREAD_NAME, link.clone())?;
            session.links.threads.push(thread, GFP_KERNEL)?;
            // One after the other: a server's first opens the session that the others join, and says
            // what is wrong for all. A mirror that the server has named need not be there, nor one of two
            // servers: it is filled when it comes.
            let named = replica == Replica::Mirror && shared.config.forwarded;
            if named || session.away == Some(replica) {
                continue;
            }
            match link.wait_first() {
                Err(error) if number == 0 && may_lack && is_absence(error) => {
                    may_lack = false;
                    session.away = Some(replica);
                }
                ended => ended?,
            }
        }
        session.lanes.push(lane, GFP_KERNEL)?;
        if shared.areas.relay.found().is_some() {
            break;
        }
    }
    Ok(session)
}

impl Memsrv {
    /// Hooks the swap path to a session.
    fn with(session: Session) -> Result<Self> {
        let Session { lanes, links, away } = session;
        let shared = links.shared.clone();
        let reader = match shared.config.through {
            true => Some(Reader::start(shared.clone(), copy(&lanes)?)?),
            false => None,
        };
        let maker = Maker::new(shared.clone())?;
        let maker_thread = Thread::start(c"memsrv-maker", maker.clone())?;
        let client = Client::new(shared.clone(), copy(&lanes)?, maker);
        let client = Arc::new(client, GFP_KERNEL)?;
        let hooks = match Registration::new(client.clone()) {
            Ok(hooks) => hooks,
            Err(HookError { function, error }) => {
                explain(function, error);
                return Err(error);
            }
        };
        let stats = KBox::pin_init(
            debugfs::Scope::dir(
                Report::new(shared.clone(), lanes),
                c"memsrv",
                |report, dir| {
                    dir.read_callback_file(c"stats", report, &Report::write);
                    dir.write_only_callback_file(c"control", report, &control::control);
                },
            ),
            GFP_KERNEL,
        )?;
        let power = Power::new(client.clone())?;
        client.accept(true);
        let (connections, granted) = (shared.config.connections, shared.granted());
        match shared.config.mirror {
            None => pr_info!(
                "swapping to {}, {connections} connections, {granted} pages granted\n",
                shared.config.server
            ),
            Some(mirror) if shared.config.forwarded => pr_info!(
                "swapping to {}, which forwards to {mirror}, {connections} connections, {granted} pages granted\n",
                shared.config.server
            ),
            Some(mirror) => pr_info!(
                "swapping to {} and {mirror}, {connections} connections to each, {granted} pages granted\n",
                shared.config.server
            ),
        }
        if let Some(away) = away {
            pr_warn!(
                "{} is away: pages are on {} alone until it comes and has been filled\n",
                shared.address(away),
                shared.address(away.other())
            );
        }
        Ok(Self {
            _stats: stats,
            power: Some(power),
            client,
            hooks: Some(hooks),
            links: Some(links),
            _reader: reader,
            _maker: maker_thread,
        })
    }
}

impl Drop for Memsrv {
    fn drop(&mut self) {
        // Nothing but memory comes and goes from here on.
        self.power = None;
        self.client.accept(false);
        // Waits until nobody is inside.
        self.hooks = None;
        self.links = None;
        pr_info!("unloaded\n");
    }
}

fn copy(lanes: &KVec<Arc<Lane>>) -> Result<KVec<Arc<Lane>>> {
    let mut all = KVec::with_capacity(lanes.len(), GFP_KERNEL)?;
    for lane in lanes {
        all.push(lane.clone(), GFP_KERNEL)?;
    }
    Ok(all)
}

fn explain(function: &CStr, error: Error) {
    if error == EBUSY {
        pr_err!("{function} cannot be hooked now: unload the livepatch or kprobe that sits on it, and see that the sysctl kernel.ftrace_enabled is 1\n");
    } else if error == EINVAL {
        pr_err!("this kernel has no {function} to hook: it needs CONFIG_ZSWAP and a 7.x kernel\n");
    } else {
        pr_err!("cannot hook {function}: {error:?}\n");
    }
}
