// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Connections that only read a life (ATTACH): those of a server that pulls, and of a client that another server
//! forwards for.
//!
//! They own no stream, fence nobody, and do not keep a newer life of the client out. They are closed when
//! the life ends.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use memsrv_protocol::{Hello, Instance, Status, Welcome};

use super::{refused, Attachment, Life, Peer, Refused, Shared, WINDOW};
use crate::arena::{lock, Arena};

impl Life {
    /// Frees all pages, and hangs up on who reads them; gives back how many there were. The life has left
    /// the registry, whose lock the caller does not hold.
    pub(super) fn end(&self, arena: &Arena) -> u64 {
        let freed = self.table.end(arena, &self.client.quota);
        let readers = std::mem::take(&mut *lock(&self.readers));
        readers.iter().for_each(|(_, peer)| peer.hang_up());
        freed
    }
}

impl Shared {
    /// Lets a connection read the pages of a life that is there.
    ///
    /// # Errors
    ///
    /// The refusal to send. Whether there is no such region, or another life of it, who does not know the
    /// incarnation is not told.
    pub fn attach_reader(
        &self,
        hello: &Hello,
        peer: &Arc<dyn Peer>,
    ) -> Result<(Attachment, Welcome), Refused> {
        let registry = lock(&self.registry);
        let life = registry.regions.get(&(hello.client, hello.region));
        let Some(life) = life.filter(|life| life.incarnation == hello.incarnation) else {
            let text = format!(
                "no region {} of this life of client {}",
                hello.region, hello.client
            );
            return Err(refused(Status::NotFound, text));
        };
        // Who names none has other ways to know whether the pages are what he is after.
        if hello.instance != Instance::default() && hello.instance != self.instance {
            let text = "the server has started anew since";
            return Err(refused(Status::Stale, text));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // Under the registry's lock: a life that ends has left the registry before it looks here.
        lock(&life.readers).push((id, peer.clone()));
        let attachment = Attachment {
            life: life.clone(),
            stream: None,
            follows: usize::from(hello.stream),
            id,
            client: hello.client,
            region: hello.region,
        };
        drop(registry);
        let welcome = Welcome {
            version: self.version,
            options: self.options(hello.options),
            instance: self.instance,
            granted: 0,
            stored: attachment.life.table.pages(),
            executed: attachment.followed(),
            window: WINDOW,
            mirror: None,
        };
        Ok((attachment, welcome))
    }
}
