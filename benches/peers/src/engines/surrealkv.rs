//! surrealkv as a log: ascending keys, one synced transaction per record.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use surrealkv::{Durability, Mode, Options, Transaction, Tree, TreeBuilder};
use tokio::runtime::{Builder, Runtime};

use super::{Engine, Marks, Setup, failed};

struct Surrealkv {
    tree: Tree,
    runtime: Runtime,
    next: AtomicU64,
    marks: Marks<u64>,
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

fn open(
    setup: &Setup,
    options: Options,
    configuration: &'static str,
) -> io::Result<Box<dyn Engine>> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let options = options.with_path(setup.dir.join("surrealkv"));
    let tree = {
        let _inside = runtime.enter();
        TreeBuilder::with_options(options).build().map_err(failed)?
    };
    Ok(Box::new(Surrealkv {
        tree,
        runtime,
        next: AtomicU64::new(0),
        marks: Marks::new(),
        configuration,
    }))
}

/// Zeros are written ahead of the end of its log, so that a sync is one of data.
pub(super) fn fair(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let options = Options::new().without_compression();
    let configuration = "Durability::Immediate, with_wal_preallocation, without_compression; \
                         flushes and compactions included, delete_range every 64 MiB";
    open(setup, options.with_wal_preallocation(true), configuration)
}

/// Its log grows with every commit.
pub(super) fn default(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let configuration = "Durability::Immediate, otherwise defaults without compression; flushes \
                         and compactions included, delete_range every 64 MiB";
    open(setup, Options::new().without_compression(), configuration)
}

impl Surrealkv {
    fn commit(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Transaction) -> surrealkv::Result<()>,
    ) -> io::Result<()> {
        let mode = Mode::WriteOnly;
        let mut transaction = self.tree.begin_with_mode(mode).map_err(failed)?;
        transaction.set_durability(durability);
        change(&mut transaction).map_err(failed)?;
        let committed = self.runtime.block_on(transaction.commit());
        committed.map_err(failed)
    }
}

impl Engine for Surrealkv {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.commit(Durability::Immediate, |transaction| {
            transaction.set(key(number).as_slice(), payload)
        })
    }

    fn retire(&self) -> io::Result<()> {
        let now = self.next.load(Ordering::Relaxed);
        let Some(keep_from) = self.marks.next(now) else {
            return Ok(());
        };
        self.commit(Durability::Eventual, |transaction| {
            transaction.delete_range(key(0).as_slice(), key(keep_from).as_slice())
        })
    }

    fn configuration(&self) -> String {
        self.configuration.into()
    }
}
