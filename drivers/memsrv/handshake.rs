// SPDX-License-Identifier: GPL-2.0-only

//! HELLO and WELCOME.

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
        let (lane, config) = (&self.lane, self.config());
        if self.replica == Replica::Mirror && config.forwarded {
            // It has followed the primary's streams, or served them.
            lane.state.lock().streams.skip_to_other(self.replica);
        }
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            options: self.options(),
            incarnation: lane.shared.incarnation,
            instance,
            stream: lane.number,
            streams: config.connections,
            wanted: 0,
            issued: lane.state.lock().streams.issued(self.replica),
            client: config.client,
            region: config.region,
        };
        let network = NoSession::Network;
        let mut bytes = [0u8; HEADER_LEN + Hello::LEN];
        let (header, payload) = bytes.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&Message::Hello.encode());
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
                self.check_options(&welcome)?;
                Ok(welcome)
            }
            Ok(Message::Refused { status, .. }) => Err(NoSession::Refused(status)),
            _ => Err(NoSession::Stranger),
        }
    }

    fn options(&self) -> u32 {
        let forward = if self.asks_to_forward() {
            Hello::FORWARD
        } else {
            0
        };
        let lz4 = if self.config().lz4 { Hello::LZ4 } else { 0 };
        forward | lz4
    }

    /// What was granted to begin with must be always: pages may be stored so.
    fn check_options(&self, welcome: &Welcome) -> Result<(), NoSession> {
        let Some(compression) = &self.lane.shared.compression else {
            return Ok(());
        };
        if welcome.options & Hello::LZ4 == 0 {
            if !self.is_first() {
                return Err(NoSession::WholeOnly);
            }
            compression.deny();
        }
        Ok(())
    }
}
