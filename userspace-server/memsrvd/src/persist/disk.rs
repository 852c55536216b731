// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The directory that the log lives in, as the few operations that the log needs.
//!
//! They stand behind a trait so that tests can cut the power between any two of them, lose what was not
//! synced, and make them fail. The real one writes through the page cache and drops what is on the disk
//! from it: direct I/O would spare that copy, but not every file system has it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{fadvise, fallocate, flock, Advice, FallocateFlags, FlockOperation};
use rustix::io::retry_on_intr as retry;

use crate::num::to_u64;

/// A directory. Names have no slash in them.
pub trait Disk: Send {
    /// The files that there are.
    ///
    /// # Errors
    ///
    /// The kernel's, as of all of these.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// Makes a file of `len` zeroes, in place of one of that name, with room for all of it.
    fn create(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Reads up to `to.len()` bytes from `offset`; fewer only at the end of the file.
    fn read(&mut self, name: &str, offset: u64, to: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it.
    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Waits until what was written to the file is on the disk.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Waits until names made and removed are so on the disk.
    fn sync_names(&mut self) -> io::Result<()>;
    /// Bytes that there is room for.
    fn room(&mut self) -> io::Result<u64>;
    /// The file will not be read soon.
    fn forget(&mut self, name: &str);
}

/// Whether an error says that there is no room, which may come again.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A real directory, locked against a second server for as long as this lives.
pub struct Directory {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
    open: HashMap<String, File>,
}

/// The file that carries the lock.
pub const LOCK: &str = "lock";

impl Directory {
    /// Opens a directory, made if it is not there, and locks it.
    ///
    /// # Errors
    ///
    /// The kernel's; `WouldBlock`: another process has the lock.
    pub fn open(path: &Path) -> io::Result<Directory> {
        fs::create_dir_all(path)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let lock = options.open(path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Directory {
            path: path.to_owned(),
            _lock: lock,
            open: HashMap::new(),
        })
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path.join(name))?;
            self.open.insert(name.to_owned(), file);
        }
        self.open
            .get(name)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Directory {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir(&self.path)?.map(name).collect()
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.open.remove(name);
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).read(true).write(true);
        let file = options.open(&path)?;
        let room = match retry(|| fallocate(&file, FallocateFlags::empty(), 0, len)) {
            Ok(()) => Ok(()),
            // Not every file system can promise room; there a write may find none.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(len),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = room {
            // What of it there is takes the room of others.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.open.insert(name.to_owned(), file);
        Ok(())
    }

    fn read(&mut self, name: &str, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let file = self.file(name)?;
        let mut done: usize = 0;
        while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset.saturating_add(to_u64(done))) {
                Ok(0) => break,
                Ok(n) => done = done.saturating_add(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let file = self.file(name)?;
        file.sync_data()?;
        // The pages are in our memory already; a hint, so its failure means nothing.
        let _ = fadvise(file, 0, None, Advice::DontNeed);
        Ok(())
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.file(name)?.set_len(len)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn room(&mut self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn forget(&mut self, name: &str) {
        if let Some(file) = self.open.remove(name) {
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
    }
}
