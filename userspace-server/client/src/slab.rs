// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A table of things in flight, each known by a number until it is taken out.

/// The table.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Puts an entry in; `None` when 2^32 are there.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            *self.get_place(number)? = Some(value);
            return Some(number);
        }
        let number = u32::try_from(self.entries.len()).ok()?;
        self.entries.push(Some(value));
        Some(number)
    }

    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.entries.get(usize::try_from(number).ok()?)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.get_place(number)?.as_mut()
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.get_place(number)?.take()?;
        self.free.push(number);
        Some(value)
    }

    fn get_place(&mut self, number: u32) -> Option<&mut Option<T>> {
        self.entries.get_mut(usize::try_from(number).ok()?)
    }
}
