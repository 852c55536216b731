// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Log lines, on standard error, through a queue of bounded length and a thread that writes them.
//!
//! Who logs never waits for who reads: a line that finds the queue full is dropped and counted, and a
//! line that cannot be written is forgotten. So a reader that stalls or goes away stops nothing.
//!
//! (tracing-appender does the same, but when it ends while its queue is full it prints to standard
//! output, which panics or waits if that has the same reader.)

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use crate::arena::lock;
use crate::config::{LogFormat, LogLevel};

/// How many lines may wait to be written; they are some 200 bytes each.
const LINES: usize = 1024;

/// The writing thread's stack.
const STACK_LEN: usize = 256 * 1024;

/// How long the end of the program waits for the lines that it is to leave behind.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    more: Condvar,
    empty: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Lines dropped since that was last said.
    dropped: u64,
    /// Whether a line that was taken is not written yet.
    writing: bool,
}

impl Queue {
    fn push(&self, line: &[u8]) {
        let mut state = lock(&self.state);
        if state.lines.len() < LINES {
            state.lines.push_back(line.to_vec());
            self.more.notify_one();
        } else {
            state.dropped = state.dropped.saturating_add(1);
        }
    }

    /// Waits for a line; with it comes how many were dropped.
    fn pop(&self) -> (Vec<u8>, u64) {
        let mut state = lock(&self.state);
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.writing = true;
                return (line, std::mem::take(&mut state.dropped));
            }
            state.writing = false;
            self.empty.notify_all();
            state = self
                .more
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all lines are written, at most for [`PATIENCE`].
    fn flush(&self) {
        let state = lock(&self.state);
        let unwritten = |state: &mut State| state.writing || !state.lines.is_empty();
        // Poisoned or not, waited long enough or not: there is nothing more to do.
        let _ = self.empty.wait_timeout_while(state, PATIENCE, unwritten);
    }
}

/// Takes the lines of the log, and at the end of the program waits until they are written.
pub struct Log(Arc<Queue>);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// One line each write.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Line(&self.0).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Lines(Arc<Queue>);

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// Begins to write log lines, with a thread that inherits what [`crate::memory::protect`] has set.
///
/// # Errors
///
/// The kernel's, if there is no thread or no descriptor to be had.
pub fn start(format: LogFormat, level: LogLevel) -> io::Result<Log> {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let queue = Arc::new(Queue::default());
    // Not `Stderr`, whose lock the thread would hold while it waits for the reader.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let lines = queue.clone();
    std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(STACK_LEN)
        .spawn(move || write_lines(&lines, out))?;
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(Lines(queue.clone()));
    // Fails where a test has set up another log; that one is as good.
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(Log(queue))
}

fn write_lines(queue: &Queue, mut out: File) {
    loop {
        let (line, dropped) = queue.pop();
        // Nobody reads: nobody to tell.
        let _ = out.write_all(&line);
        if dropped > 0 {
            tracing::warn!(
                lines = dropped,
                "log lines were dropped: they are not read as fast as they come"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_bound_are_dropped_and_counted_once() {
        let queue = Queue::default();
        for n in 0..LINES + 3 {
            queue.push(n.to_string().as_bytes());
        }
        assert_eq!(queue.pop(), (b"0".to_vec(), 3));
        assert_eq!(queue.pop(), (b"1".to_vec(), 0));
    }
}
