//! fjall as a log: ascending keys, one synced batch per record; batches sync one after the other.

use std::io;
use std::sync::{Arc, Mutex};

use fjall::compaction::Fifo;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Engine, RETAINED_BYTES, Setup, failed};

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    /// Its Fifo compaction asserts that keys come in ascending order: a commit is made under this
    /// lock. That costs little: it holds the lock of its journal from the write to the sync anyway.
    next: Mutex<u64>,
    configuration: &'static str,
}

/// Keys sort as they count.
#[expect(
    clippy::big_endian_bytes,
    reason = "the order of the keys, not ours to choose"
)]
fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// Old tables are dropped whole once 256 MiB lie in tables.
pub(super) fn fair(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let builder = Database::builder(setup.dir.join("fjall"));
    let builder = builder.manual_journal_persist(true);
    let builder = builder.journal_compression(CompressionType::None);
    let database = builder.open().map_err(failed)?;
    let options = || {
        let fifo = Fifo::new(RETAINED_BYTES, None);
        KeyspaceCreateOptions::default().compaction_strategy(Arc::new(fifo))
    };
    let keyspace = database.keyspace("log", options).map_err(failed)?;
    Ok(Box::new(Fjall {
        database,
        keyspace,
        next: Mutex::new(0),
        configuration: "PersistMode::SyncData, manual_journal_persist, journal_compression None, \
                        Fifo compaction at 256 MiB; flushes included, journals of 64 MB are sparse",
    }))
}

/// Leveled compaction, and the journal compresses what it can.
pub(super) fn default(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let database = Database::builder(setup.dir.join("fjall")).open();
    let database = database.map_err(failed)?;
    let keyspace = database.keyspace("log", KeyspaceCreateOptions::default);
    Ok(Box::new(Fjall {
        keyspace: keyspace.map_err(failed)?,
        database,
        next: Mutex::new(0),
        configuration: "PersistMode::SyncData, otherwise defaults; flushes and compactions \
                        included, nothing is given up",
    }))
}

impl Engine for Fjall {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let mut next = self.next.lock().expect("no thread panics holding it");
        let batch = self.database.batch();
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        batch.insert(&self.keyspace, key(*next), payload);
        *next += 1;
        batch.commit().map_err(failed)
    }

    fn configuration(&self) -> String {
        self.configuration.into()
    }
}
