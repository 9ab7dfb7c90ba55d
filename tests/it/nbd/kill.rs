//! SIGKILL under load: what a flush or a FUA answered for is there, and nothing was invented.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::client::{Client, FUA};
use super::server::{Server, verify};
use crate::harness::{Random, scratch};

const BLOCK: usize = 4096;
const BLOCKS_PER_WRITER: usize = 64;
const WRITERS: usize = 4;

/// What one block may hold: the last stamp known durable, or any later one that was sent.
#[derive(Clone, Copy, Default)]
struct Register {
    durable: u64,
    answered: u64,
    sent: u64,
}

/// Every block of the volume, shared by all writers so that a flush covers all connections (N3).
struct Model(Mutex<Vec<Register>>);

impl Model {
    fn new() -> Model {
        Model(Mutex::new(vec![
            Register::default();
            WRITERS * BLOCKS_PER_WRITER
        ]))
    }

    fn sending(&self, block: usize) -> u64 {
        let mut registers = self.0.lock().unwrap();
        registers[block].sent += 1;
        registers[block].sent
    }

    fn answered(&self, block: usize, stamp: u64, durable: bool) {
        let register = &mut self.0.lock().unwrap()[block];
        register.answered = stamp;
        if durable {
            register.durable = stamp;
        }
    }

    /// What was answered before a flush is sent.
    fn snapshot(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|r| r.answered).collect()
    }

    fn flushed(&self, snapshot: &[u64]) {
        for (register, stamp) in self.0.lock().unwrap().iter_mut().zip(snapshot) {
            register.durable = register.durable.max(*stamp);
        }
    }

    /// Checks what survived, which is then all that can be durable.
    #[track_caller]
    fn survived(&self, contents: &[u8]) -> u64 {
        let mut registers = self.0.lock().unwrap();
        assert_eq!(contents.len(), registers.len() * BLOCK);
        for (n, (register, bytes)) in registers.iter_mut().zip(contents.chunks(BLOCK)).enumerate() {
            let stamp = stamp_of(n, bytes);
            assert!(
                (register.durable..=register.sent).contains(&stamp),
                "block {n} holds write {stamp}; {} was durable, {} was sent",
                register.durable,
                register.sent
            );
            *register = Register {
                durable: stamp,
                answered: stamp,
                sent: register.sent,
            };
        }
        registers.iter().map(|register| register.sent).sum()
    }
}

fn stamped(block: usize, stamp: u64) -> Vec<u8> {
    let words = [block as u64, stamp].map(u64::to_le_bytes).concat();
    words.repeat(BLOCK / words.len())
}

/// The stamp that fills a block; a mixture of stamps or a stamp of another block is a failure.
#[track_caller]
fn stamp_of(block: usize, bytes: &[u8]) -> u64 {
    let stamp = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    let whole = match stamp {
        0 => bytes.iter().all(|byte| *byte == 0),
        _ => bytes == stamped(block, stamp),
    };
    assert!(whole, "block {block} is torn around write {stamp}");
    stamp
}

/// Writes to its own blocks, with a flush now and then, until the server is gone.
fn load(mut client: Client, writer: usize, model: &Model, mut random: Random) {
    loop {
        let within = usize::try_from(random.below(BLOCKS_PER_WRITER as u64)).unwrap();
        let block = writer * BLOCKS_PER_WRITER + within;
        let flags = if random.below(8) == 0 { FUA } else { 0 };
        let stamp = model.sending(block);
        let offset = (block * BLOCK) as u64;
        if client.write(flags, offset, &stamped(block, stamp)).is_err() {
            return;
        }
        model.answered(block, stamp, flags == FUA);
        if random.below(8) == 0 {
            let snapshot = model.snapshot();
            if client.flush().is_err() {
                return;
            }
            model.flushed(&snapshot);
        }
    }
}

/// Runs the load for `time` and kills the server in the middle of it.
fn kill_under_load(home: &Path, model: &Model, random: &mut Random, time: Duration) {
    let mut server = Server::start(home, &[]);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let client = server.connect();
            let random = Random::new(random.next());
            scope.spawn(move || load(client, writer, model, random));
        }
        server.runs_for(time);
        server.kill();
    });
}

fn rounds() -> u64 {
    std::env::var("SEAWALL_KILLS").map_or(3, |text| text.parse().unwrap())
}

#[test]
fn what_any_connection_flushed_survives_a_kill_under_load() {
    let home = scratch();
    let size = format!("size={}", WRITERS * BLOCKS_PER_WRITER * BLOCK);
    Server::start(home.path(), &[&size, "segment-size=1M"]).stop();
    let model = Model::new();
    let mut random = Random::new(23);
    for round in 0..rounds() {
        let time = Duration::from_millis(random.below(700));
        kill_under_load(home.path(), &model, &mut random, time);
        verify(home.path());
        let server = Server::start(home.path(), &[]);
        let sent = model.survived(&server.contents(home.path()));
        println!("round {round}: killed after {time:?}, {sent} writes sent so far");
        // Every second round is killed again without a clean close in between.
        match random.below(2) {
            0 => server.stop(),
            _ => server.kill(),
        }
    }
}

#[test]
fn a_flush_on_one_connection_covers_writes_answered_on_another() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=1M", "segment-size=1M"]);
    let (mut writer, mut flusher) = (server.connect(), server.connect());
    writer.write(0, 0, &[3; 64 << 10]).unwrap();
    flusher.flush().unwrap();
    server.kill();
    let server = Server::start(home.path(), &[]);
    assert!(server.connect().read(0, 64 << 10).unwrap() == [3; 64 << 10]);
    server.stop();
    verify(home.path());
}

#[test]
fn fua_of_write_zero_and_trim_survives_a_kill_without_a_flush() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=1M", "segment-size=1M"]);
    let mut client = server.connect();
    client.write(FUA, 0, &[3; 64 << 10]).unwrap();
    client.zero(FUA, 16 << 10, 16 << 10).unwrap();
    client.trim(FUA, 48 << 10, 16 << 10).unwrap();
    server.kill();
    let server = Server::start(home.path(), &[]);
    let found = server.connect().read(0, 64 << 10).unwrap();
    let expected = [[3; 16 << 10], [0; 16 << 10], [3; 16 << 10], [0; 16 << 10]].concat();
    assert!(found == expected);
    server.stop();
    verify(home.path());
}
