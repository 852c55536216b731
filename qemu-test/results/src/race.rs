// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a race of servers measures.

use serde::{Deserialize, Serialize};

use crate::figures::float;

/// All that a race has measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Raced {
    /// How often each was measured, in turns.
    pub rounds: usize,
    /// How long each measurement took.
    pub ms: u64,
    /// All measurements, in that order.
    pub samples: Vec<Sample>,
    /// Memory that our server takes beside so many pages.
    pub memory: Vec<Beside>,
}

/// One measurement, and what it was of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Which of the series: `compare`, `grow` or `crowd`.
    pub series: String,
    /// What was asked for, as a row's first cell.
    pub case: String,
    /// Who was asked.
    pub who: String,
    /// In which round of the whole, from 0.
    pub round: usize,
    /// What memsrv-race said.
    pub line: Line,
}

/// Memory beside the pages, of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beside {
    /// Pages that are stored.
    pub pages: u64,
    /// Of the process, in RAM.
    pub rss_bytes: u64,
    /// Of its tables, as the server says itself.
    pub overhead_bytes: u64,
    /// What is in RAM beside the pages that are stored, in hundredths of those.
    pub percent: f64,
}

/// One measurement, as memsrv-race tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Connections to the server.
    pub connections: u64,
    /// Requests in flight on each of them.
    pub depth: u64,
    /// So many of a hundred requests load, the others store.
    pub loads_percent: u64,
    /// Pages that the server was filled with.
    pages: u64,
    requests: u64,
    seconds: f64,
    /// Requests a second.
    pub per_second: f64,
    loads: Side,
    stores: Side,
    /// What the server has used.
    pub server: Used,
    generator: Used,
}

/// How long loads or stores took.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Side {
    count: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

/// What a process has used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Used {
    /// Microseconds of processors.
    pub cpu_us: u64,
    /// Bytes in RAM, of a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locked_bytes: Option<u64>,
}

impl Line {
    /// Microseconds of the server's processor for a request.
    #[must_use]
    pub fn cost_us(&self) -> f64 {
        float(self.server.cpu_us.max(1)) / float(self.requests.max(1))
    }

    /// Requests for a second of the server's processor.
    #[must_use]
    pub fn per_cpu_second(&self) -> f64 {
        1e6 / self.cost_us()
    }

    fn side(&self) -> &Side {
        if self.loads_percent > 0 {
            &self.loads
        } else {
            &self.stores
        }
    }

    /// In how many microseconds half of the loads were done; of the stores, where there were no loads.
    #[must_use]
    pub fn p50_us(&self) -> f64 {
        self.side().p50_us
    }

    /// The same for 99 of a hundred.
    #[must_use]
    pub fn p99_us(&self) -> f64 {
        self.side().p99_us
    }
}
