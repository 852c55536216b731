// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the mirror makes of a session: whether it is forwarded, what its client may be told, and when.
//!
//! What changes the stream, or lets the client rely on something, is decided under the stream's lock and only while
//! the stream is this connection's: a newer one goes by what it finds there.

use std::sync::atomic::Ordering;
use std::time::Instant;

use memsrv_protocol::{Hello, Message, Status, Welcome};

use super::{End, Session, State};
use crate::mirror::forward::{Forward, Reason};
use crate::mirror::Mirror;
use crate::mirror::Streaming;
use crate::num::to_u32;
use crate::regions::{Attachment, Life};

impl Session {
    /// What goes to the mirror and comes from it.
    pub fn forward(&mut self) -> &mut Forward {
        &mut self.forward
    }

    /// Whether a call of [`Session::settle`] would say something that the mirror has made due.
    pub fn has_news(&self) -> bool {
        self.forward.has_news() || self.due() > self.acks.sent
    }

    /// Whether it was stalled, and can go on now.
    pub fn can_go_on(&self) -> bool {
        !self.stalled && !self.forward.blocks()
    }

    /// Welcomes a client, or asks the mirror first.
    pub(super) fn greeted(
        &mut self,
        hello: &Hello,
        mut welcome: Welcome,
        life: &Life,
        output: &mut Vec<u8>,
    ) {
        if let Some(mirror) = &self.shared.mirror {
            if hello.options & Hello::FORWARD != 0 {
                welcome.mirror = Some(mirror.endpoint());
                let until = Instant::now().checked_add(mirror.options.welcome);
                let until = until.filter(|_| !life.mirror_lost.load(Ordering::Relaxed));
                if let Some(until) = until {
                    let ours = Hello {
                        version_min: self.shared.version,
                        version_max: self.shared.version,
                        options: (welcome.options & Hello::LZ4) | mirror.no_refusal(),
                        instance: Default::default(),
                        ..*hello
                    };
                    self.forward = Forward::ask(&ours, &mirror.options, until);
                    self.held = Some((*hello, welcome));
                    return;
                }
            }
        }
        self.welcome(hello, &welcome, output);
    }

    /// Tells the client what the mirror has made due, but for ACKs.
    pub(super) fn hear_mirror(&mut self, output: &mut Vec<u8>) -> Result<(), End> {
        if let Some(answer) = self.forward.take_answer() {
            self.answered(answer, output)?;
        }
        for (seq, status) in self.forward.take_refused() {
            output.extend_from_slice(&Message::Nak { seq, status }.encode());
        }
        if self.forward.is_lost() {
            // What it has acknowledged is not on this server alone.
            self.acknowledge(output)?;
        }
        match self.forward.take_loss() {
            Some(reason) => self.lost(&reason, output),
            None => Ok(()),
        }
    }

    /// Acknowledges what is due.
    pub(super) fn acknowledge(&mut self, output: &mut Vec<u8>) -> Result<(), End> {
        let seq = self.due();
        if seq <= self.acks.sent {
            return Ok(());
        }
        if self.shared.mirror.is_some() {
            let mut stream = self.attachment()?.own().ok_or(End::Fenced)?;
            stream.released = stream.released.max(seq);
        }
        self.acks.sent = seq;
        output.extend_from_slice(&Message::Ack { seq }.encode());
        Ok(())
    }

    /// Up to where the client may be acknowledged.
    fn due(&self) -> memsrv_protocol::Seq {
        let ours = self.acks.ours;
        self.forward.limit().map_or(ours, |limit| limit.min(ours))
    }

    fn attachment(&self) -> Result<&Attachment, End> {
        match &self.state {
            State::Open(at) => Ok(at),
            _ => Err(End::Fenced),
        }
    }

    /// The mirror has answered the HELLO, or has not: welcomes the client.
    fn answered(
        &mut self,
        answer: Result<Welcome, Reason>,
        output: &mut Vec<u8>,
    ) -> Result<(), End> {
        let Some((hello, mut welcome)) = self.held.take() else {
            return Ok(());
        };
        let stream = self.attachment()?.own().ok_or(End::Fenced)?;
        let (executed, released) = (stream.executed, stream.released);
        drop(stream);
        let lz4 = welcome.options & Hello::LZ4;
        let life = self.attachment()?.life.clone();
        let compressed = lz4 != 0 && life.lz4.load(Ordering::Relaxed);
        let wanted = self.shared.mirror.as_ref().map_or(0, Mirror::no_refusal);
        let fits = answer.and_then(|theirs| {
            if theirs.options & wanted != wanted {
                Err("it would refuse stores that were acknowledged; an older memsrvd?".to_owned())
            } else if theirs.version != self.shared.version {
                Err(format!("it speaks version {}", theirs.version))
            } else if theirs.executed < released {
                Err(format!(
                    "it has executed operation {} of the stream, and the client was acknowledged {}",
                    theirs.executed.0, released.0
                ))
            } else if compressed && theirs.options & lz4 == 0 {
                Err("it takes no compressed pages, and there are some".to_owned())
            } else {
                Ok(theirs)
            }
        });
        match fits {
            Ok(theirs) => {
                // What it lacks the client sends again.
                welcome.executed = executed.min(theirs.executed);
                if theirs.options & lz4 == 0 {
                    welcome.options &= !Hello::LZ4;
                    let quota = &life.client.quota;
                    welcome.granted = quota.granted(&self.shared.arena, hello.wanted, false);
                }
                welcome.granted = welcome.granted.min(theirs.granted);
                welcome.options |= Hello::FORWARD;
                if self.forward.is_first() {
                    welcome.options |= hello.options & Hello::MIRROR_FIRST;
                }
                self.forward.start(&theirs, Streaming::new(&self.shared));
            }
            Err(reason) => {
                tracing::warn!(client = %hello.client, region = %hello.region, stream = hello.stream,
                    mirror = self.mirror_address(), reason, "the stream is not forwarded");
            }
        }
        self.welcome(&hello, &welcome, output);
        Ok(())
    }

    /// Tells the client that it is to see to its second copy itself, before anything that this server has alone is
    /// acknowledged.
    fn lost(&mut self, reason: &Reason, output: &mut Vec<u8>) -> Result<(), End> {
        let at = self.attachment()?;
        // Otherwise a newer connection to the mirror may just have taken the older one's place.
        drop(at.own().ok_or(End::Fenced)?);
        at.life.mirror_lost.store(true, Ordering::Relaxed);
        let address = self.mirror_address();
        tracing::warn!(client = %at.client, region = %at.region, stream = at.stream, mirror = address,
            reason, "the mirror is lost: the stream is no longer forwarded");
        if let Some(mirror) = &self.shared.mirror {
            mirror.count_lost();
        }
        let words = format!(
            "the server's mirror {address} is lost: {reason}; stores are on this server alone"
        );
        let message = Message::Notice {
            status: Status::MirrorLost,
            len: to_u32(words.len()),
        };
        output.extend_from_slice(&message.encode());
        output.extend_from_slice(words.as_bytes());
        Ok(())
    }

    fn mirror_address(&self) -> String {
        let mirror = self.shared.mirror.as_ref();
        mirror.map_or_else(String::new, |mirror| mirror.options.address.to_string())
    }
}
