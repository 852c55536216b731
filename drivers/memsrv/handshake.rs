// SPDX-License-Identifier: GPL-2.0-only

//! HELLO or ATTACH, and WELCOME.

use super::engine::Replica;
use super::link::Link;
use super::no_session::NoSession;
use super::platform::socket::Connection;
use super::protocol::{Hello, Instance, Message, Sender, Status, Welcome, HEADER_LEN, VERSION};

/// The smallest window that leaves room for loads beside stores.
const MIN_WINDOW: u32 = 16;

impl Link {
    pub(super) fn handshake(
        &self,
        connection: &Connection,
        instance: Instance,
    ) -> Result<Welcome, NoSession> {
        let lane = &self.lane;
        if self.replica == Replica::Mirror && self.config().forwarded {
            // It has followed the primary's streams, or served them.
            lane.state.lock().streams.skip_to_other(self.replica);
        }
        let forward = match self.asks_to_forward() {
            true => Hello::FORWARD | Hello::MIRROR_FIRST,
            false => 0,
        };
        let hello = self.hello(forward | self.lz4(), instance, self.replica);
        let welcome = self.say(connection, Message::Hello, &hello)?;
        self.check_options(&welcome)?;
        Ok(welcome)
    }

    /// The option that is on if pages travel compressed.
    pub(super) fn lz4(&self) -> u32 {
        if self.config().lz4 {
            Hello::LZ4
        } else {
            0
        }
    }

    /// Opens a connection that only reads what the other server's stream has brought here, whatever life this one is.
    pub(super) fn ask_to_read(&self, connection: &Connection) -> Result<Welcome, NoSession> {
        let lz4 = self.lz4();
        let hello = self.hello(lz4, Instance::default(), self.replica.other());
        let welcome = self.say(connection, Message::Attach, &hello)?;
        if welcome.options & lz4 != lz4 {
            return Err(NoSession::WholeOnly);
        }
        Ok(welcome)
    }

    /// What we are, and how far that server's stream has come.
    fn hello(&self, options: u32, instance: Instance, stream: Replica) -> Hello {
        let (lane, config) = (&self.lane, self.config());
        Hello {
            version_min: VERSION,
            version_max: VERSION,
            options,
            incarnation: lane.shared.incarnation,
            instance,
            stream: lane.number,
            streams: config.connections,
            wanted: 0,
            issued: lane.state.lock().streams.issued(stream),
            client: config.client,
            region: config.region,
        }
    }

    fn say(
        &self,
        connection: &Connection,
        opening: Message,
        hello: &Hello,
    ) -> Result<Welcome, NoSession> {
        let network = NoSession::Network;
        let mut bytes = [0u8; HEADER_LEN + Hello::LEN];
        let (header, payload) = bytes.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&opening.encode());
        payload.copy_from_slice(&hello.encode());
        connection.send_all(&bytes).map_err(network)?;

        let mut header = [0u8; HEADER_LEN];
        connection.receive_exact(&mut header).map_err(network)?;
        match Message::decode(&header, Sender::Server) {
            Ok(Message::Welcome) => {
                let mut payload = [0u8; Welcome::LEN];
                connection.receive_exact(&mut payload).map_err(network)?;
                let welcome = Welcome::decode(&payload).map_err(|_| NoSession::Stranger)?;
                if welcome.version != VERSION || welcome.window < MIN_WINDOW {
                    return Err(NoSession::Stranger);
                }
                // As the server checks, too: it must not know of more than we have asked for.
                if welcome.executed > hello.issued {
                    return Err(NoSession::Refused(Status::Stale));
                }
                Ok(welcome)
            }
            Ok(Message::Refused { status, .. }) => Err(NoSession::Refused(status)),
            _ => Err(NoSession::Stranger),
        }
    }

    /// What was granted to begin with must be always: pages may be stored so.
    fn check_options(&self, welcome: &Welcome) -> Result<(), NoSession> {
        let Some(compression) = &self.lane.shared.compression else {
            return Ok(());
        };
        let granted = welcome.options & Hello::LZ4 != 0;
        if granted || compression.deny() {
            Ok(())
        } else {
            Err(NoSession::WholeOnly)
        }
    }
}
