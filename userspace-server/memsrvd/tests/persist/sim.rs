// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A disk that remembers what was synced, and forgets the rest as a disk does when the power goes.
//!
//! What was written and not synced is lost or kept sector by sector, in any combination; names made or
//! removed and not synced are so up to some moment. Any operation can be the last one, or can fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use memsrvd::num::{to_u64, to_usize};
use memsrvd::persist::disk::Disk;

const SECTOR: usize = 512;

/// Numbers that look random and are the same for the same seed.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Cut(usize),
}

#[derive(Clone, Default)]
struct Inode {
    /// What a program reads.
    view: Vec<u8>,
    /// What the disk surely has.
    durable: Vec<u8>,
    /// What came after that.
    pending: Vec<Change>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, new) => {
            bytes.resize(bytes.len().max(at + new.len()), 0);
            bytes[*at..at + new.len()].copy_from_slice(new);
        }
        Change::Cut(len) => bytes.resize(*len, 0),
    }
}

/// Which operations fail, and how.
#[derive(Clone, Default)]
pub struct Faults {
    /// The operation, counted from 1, during which the power goes.
    pub cut: Option<u64>,
    /// From this operation on `sync` fails; so many times.
    pub sync: Option<(u64, u64)>,
    /// Bytes that files may take together.
    pub room: Option<u64>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    /// The names after each change since they were synced, from the synced ones on.
    versions: Vec<BTreeMap<String, usize>>,
    operations: u64,
    faults: Faults,
    dead: bool,
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub struct Sim(Arc<Mutex<State>>);

impl Sim {
    pub fn faults(&self, faults: Faults) {
        self.0.lock().unwrap().faults = faults;
    }

    pub fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// Whether the power has gone.
    pub fn is_dead(&self) -> bool {
        self.0.lock().unwrap().dead
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let state = self.0.lock().unwrap();
        state.used()
    }

    /// The disk as it is found after the power has gone now.
    pub fn after_power_cut(&self, random: &mut Random) -> Sim {
        let state = self.0.lock().unwrap();
        let mut new = State::default();
        let versions = to_u64(state.versions.len());
        let names = match versions {
            0 => &state.names,
            n => &state.versions[to_usize(random.below(n))],
        };
        let style = random.below(4);
        for (name, &inode) in names {
            let inode = &state.inodes[inode];
            let mut bytes = inode.durable.clone();
            for change in &inode.pending {
                match change {
                    Change::Write(at, new) => {
                        let mut from = 0;
                        while from < new.len() {
                            let sector = SECTOR - (at + from) % SECTOR;
                            let to = (from + sector).min(new.len());
                            let keep = match style {
                                0 => false,
                                1 => true,
                                2 => random.below(2) == 0,
                                _ => random.below(16) != 0,
                            };
                            // Beyond the end that the disk knows there is nothing to keep.
                            if keep {
                                apply(
                                    &mut bytes,
                                    &Change::Write(at + from, new[from..to].to_vec()),
                                );
                            }
                            from = to;
                        }
                    }
                    cut => {
                        if random.below(2) == 0 {
                            apply(&mut bytes, cut);
                        }
                    }
                }
            }
            new.put(name, bytes);
        }
        Sim(Arc::new(Mutex::new(new)))
    }

    /// The disk as it is, all of it synced.
    pub fn copy(&self) -> Sim {
        let state = self.0.lock().unwrap();
        let mut new = State::default();
        for (name, &inode) in &state.names {
            new.put(name, state.inodes[inode].view.clone());
        }
        Sim(Arc::new(Mutex::new(new)))
    }

    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().names.keys().cloned().collect()
    }

    /// A file's bytes, to look at or to damage.
    pub fn edit<T>(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut state = self.0.lock().unwrap();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        let result = edit(&mut inode.view);
        inode.durable = inode.view.clone();
        result
    }
}

impl State {
    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.inodes.push(Inode {
            view: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
        });
        self.names.insert(name.to_owned(), self.inodes.len() - 1);
    }

    fn used(&self) -> u64 {
        let len = |inode: &usize| to_u64(self.inodes[*inode].view.len());
        self.names.values().map(len).sum()
    }

    fn rename(&mut self, change: impl FnOnce(&mut BTreeMap<String, usize>)) {
        if self.versions.is_empty() {
            self.versions.push(self.names.clone());
        }
        change(&mut self.names);
        self.versions.push(self.names.clone());
    }

    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let inode = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[inode])
    }

    fn change(&mut self, name: &str, change: Change) -> io::Result<()> {
        let inode = self.inode(name)?;
        apply(&mut inode.view, &change);
        inode.pending.push(change);
        Ok(())
    }

    /// Counts an operation; an error once the power has gone, after what `last` does in the moment it goes.
    fn step(&mut self, last: impl FnOnce(&mut State)) -> io::Result<()> {
        if !self.dead {
            self.operations += 1;
            if self.faults.cut == Some(self.operations) {
                last(self);
                self.dead = true;
            }
        }
        match self.dead {
            true => Err(io::Error::other("no power")),
            false => Ok(()),
        }
    }
}

impl Disk for Sim {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let room = state.faults.room.unwrap_or(u64::MAX);
        state.step(|_| {})?;
        if state.used() + len > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.rename(|names| {
            names.insert(name.to_owned(), inode);
        });
        state.change(name, Change::Cut(to_usize(len)))
    }

    fn read(&mut self, name: &str, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        let view = &state.inode(name)?.view;
        let from = view.len().min(to_usize(offset));
        let len = to.len().min(view.len() - from);
        to[..len].copy_from_slice(&view[from..from + len]);
        Ok(len)
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let write = Change::Write(to_usize(offset), bytes.to_vec());
        state.step(|state| state.change(name, write.clone()).unwrap())?;
        state.change(name, write)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step(|_| {})?;
        let now = state.operations;
        if let Some((from, times)) = &mut state.faults.sync {
            if now >= *from && *times > 0 {
                *times -= 1;
                // As Linux does it: what could not be written is clean afterwards, and may be gone.
                return Err(io::Error::other("the disk failed"));
            }
        }
        let inode = state.inode(name)?;
        for change in std::mem::take(&mut inode.pending) {
            apply(&mut inode.durable, &change);
        }
        Ok(())
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let cut = Change::Cut(to_usize(len));
        state.step(|state| state.change(name, cut.clone()).unwrap())?;
        state.change(name, cut)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.inode(name)?;
        state.step(|state| {
            state.rename(|names| {
                names.remove(name);
            })
        })?;
        state.rename(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step(|_| {})?;
        state.versions.clear();
        Ok(())
    }

    fn room(&mut self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn forget(&mut self, _name: &str) {}
}
