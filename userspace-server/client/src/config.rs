// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a client says of itself, and how long and how much it waits for.

use std::time::Duration;

use memsrv_protocol::{Hello, Incarnation, Instance, Name, Seq, MAX_STREAMS, VERSION};

use crate::error::Error;

/// A client's settings. [`ClientConfig::new`] gives usual ones.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who the client is: its quota on the server goes by this name. 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub client: String,
    /// Which of the client's sets of slots; the same characters.
    pub region: String,
    /// How many connections, 1 to 64. It cannot change while the server keeps the region.
    pub streams: u16,
    /// The client's life. `None`: a new, random one, which frees what an earlier one left. To resume a life
    /// its streams must not have done anything since.
    pub incarnation: Option<Incarnation>,
    /// How many pages it would like to store; 0: as many as it is given.
    pub wanted_pages: u64,
    /// How many stores may be unanswered on each stream; asking for more waits.
    pub stores_in_flight: usize,
    /// How many loads may be unanswered on each stream; asking for more waits.
    pub loads_in_flight: usize,
    /// How long to wait for a connection and for the server's answer to HELLO.
    pub connect_timeout: Duration,
    /// How long a server that owes an answer may be silent before the connection is made anew.
    pub silence_timeout: Duration,
    /// How old a store may get. It fails when it is older and the connection is gone, as it is after silence.
    pub store_timeout: Duration,
    /// How old a load may get; likewise.
    pub load_timeout: Duration,
}

impl ClientConfig {
    /// Two streams, 256 stores and 256 loads in flight on each, and waits of 5 to 60 seconds.
    pub fn new(client: &str, region: &str) -> Self {
        Self {
            client: client.to_owned(),
            region: region.to_owned(),
            streams: 2,
            incarnation: None,
            wanted_pages: 0,
            stores_in_flight: 256,
            loads_in_flight: 256,
            connect_timeout: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(10),
            store_timeout: Duration::from_secs(30),
            load_timeout: Duration::from_secs(60),
        }
    }

    /// The HELLO of stream 0 before anything was done.
    pub(crate) fn hello(&self) -> Result<Hello, Error> {
        let name = |what, name: &str| {
            let invalid = || Error::Name {
                what,
                name: name.to_owned(),
            };
            Name::new(name.as_bytes()).ok_or_else(invalid)
        };
        if self.streams == 0 || self.streams > MAX_STREAMS {
            return Err(Error::Streams {
                streams: self.streams,
            });
        }
        Ok(Hello {
            version_min: VERSION,
            version_max: VERSION,
            options: 0,
            incarnation: self.incarnation.map_or_else(random_incarnation, Ok)?,
            instance: Instance::default(),
            stream: 0,
            streams: self.streams,
            wanted: self.wanted_pages,
            issued: Seq(0),
            client: name("client", &self.client)?,
            region: name("region", &self.region)?,
        })
    }
}

fn random_incarnation() -> Result<Incarnation, Error> {
    let mut bytes = [0; 16];
    // 16 bytes come whole: getrandom(2) is interrupted only above 256.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::Random(error.into()))?;
    Ok(Incarnation(bytes))
}
