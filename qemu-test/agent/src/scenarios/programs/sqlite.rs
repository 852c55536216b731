// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! sqlite with a database in memory: a hundred thousand rows of 300 bytes, an index, and lookups by it all over the
//! table.

use anyhow::Result;

use super::{write, Printing, Ran};
use crate::guest::Cgroup;

/// 100003 is prime, so that every key is another.
const STATEMENTS: &str = "\
CREATE TABLE rows(id INTEGER PRIMARY KEY, key INTEGER, text TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
  INSERT INTO rows SELECT i, (i * 7919) % 100003, printf('%0300d', i * 7919) FROM n;
CREATE INDEX by_key ON rows(key);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
  SELECT sum(rows.id), sum(length(text)) FROM n JOIN rows ON rows.key = (n.i * 104729) % 100003;
";

const SQLITE: Printing = Printing {
    name: "sqlite",
    words: &["/usr/bin/sqlite3", ":memory:", ".read /srv/lookups.sql"],
};

/// Its statements, and what they print.
pub fn prepare() -> Result<()> {
    write("/srv/lookups.sql", STATEMENTS)?;
    SQLITE.prepare()
}

/// Runs it.
pub fn run(cgroup: &Cgroup) -> Result<Ran> {
    SQLITE.run(cgroup)
}
