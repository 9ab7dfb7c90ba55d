//! Three nodes on loopback that take turns as primary, under quorum, and a record of what was
//! acknowledged that is kept outside of them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_snapshot::{Access, Volume};
use seawall_wal::disk::{Disk, FileDisk};
use seawall_wal::{Lsn, SystemClock};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Ended, Node, Random, free_port, program, run, scratch, seawall};

const BLOCK: usize = 4096;
const BLOCKS: usize = 4096;
/// The longest piece that is written at once.
const PIECE: u64 = 64;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What one block may hold: the last stamp that was acknowledged, or any that was sent later.
#[derive(Clone, Copy, Default)]
struct Register {
    acknowledged: u64,
    sent: u64,
}

/// A command whose answer is awaited.
enum Sent {
    Write(Vec<(usize, u64)>),
    Flush,
    Wait,
}

/// The nodes, which of them leads, and what its callers know.
pub(super) struct Site {
    dir: TempDir,
    nodes: [Option<Node>; 3],
    addresses: [String; 3],
    /// Those that were primary once, or tried to be.
    led: [bool; 3],
    pub(super) primary: usize,
    epoch: u64,
    /// Primaries start with the demand to rebuild everybody.
    pub(super) full: bool,
    registers: Vec<Register>,
    sent: VecDeque<Sent>,
    pieces: u64,
    /// Written, answered, and not yet flushed.
    written: Vec<(usize, u64)>,
    pub(super) random: Random,
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn stamped(block: usize, stamp: u64) -> Vec<u8> {
    let words = [block as u64, stamp].map(u64::to_le_bytes).concat();
    words.repeat(BLOCK / words.len())
}

impl Site {
    /// A volume without a record, and everybody in sync.
    pub(super) fn new(seed: u64) -> Site {
        let dir = scratch();
        let size = (BLOCKS * BLOCK).to_string();
        let first = text(&dir.path().join(NAMES[0]));
        seawall(&["create", &first, "--size", &size, "--segment-size", "1M"]).ok();
        let mut site = Site {
            dir,
            nodes: [None, None, None],
            // No connection that leaves from here takes a port of this address from a dead node.
            addresses: std::array::from_fn(|_| format!("127.0.0.2:{}", free_port())),
            led: [true, false, false],
            primary: 0,
            epoch: 1,
            full: false,
            registers: vec![Register::default(); BLOCKS],
            sent: VecDeque::new(),
            pieces: 0,
            written: Vec::new(),
            random: Random::new(seed),
        };
        site.start_all();
        site
    }

    pub(super) fn followers(&self) -> [usize; 2] {
        [(self.primary + 1) % 3, (self.primary + 2) % 3]
    }

    /// The two followers in any order.
    pub(super) fn any_followers(&mut self) -> [usize; 2] {
        let [one, other] = self.followers();
        match self.random.below(2) {
            0 => [one, other],
            _ => [other, one],
        }
    }

    pub(super) fn home(&self, node: usize) -> PathBuf {
        self.dir.path().join(NAMES[node])
    }

    fn named(&self, node: usize) -> String {
        format!("{}={}", NAMES[node], self.addresses[node])
    }

    /// Starts `node` in the role it has.
    pub(super) fn start(&mut self, node: usize) {
        let home = text(&self.home(node));
        let mut words = match node == self.primary {
            true => vec!["primary", &home, "--ack", "quorum", "--commands"],
            false => vec!["replica", &home, "--id", NAMES[node], "--listen"],
        };
        let peers = self.followers().map(|follower| self.named(follower));
        if node == self.primary {
            words.extend(["--replica", &peers[0], "--replica", &peers[1]]);
            if self.full {
                words.extend(["--rebuild", "full"]);
            }
        } else {
            words.push(&self.addresses[node]);
            if self.led[node] {
                words.push("--demote");
            }
        }
        let mut started = Node::start_fed(program("seawall"), &words);
        match node == self.primary {
            true => started.wait_for("\"primary\""),
            false => started.wait_for("listening"),
        };
        self.nodes[node] = Some(started);
    }

    pub(super) fn start_all(&mut self) {
        for node in self.followers() {
            self.start(node);
        }
        self.start(self.primary);
    }

    /// SIGKILL; what a primary answered before it counts.
    pub(super) fn kill(&mut self, node: usize) {
        let Some(killed) = self.nodes[node].take() else {
            return;
        };
        let lines = killed.last_words();
        if node == self.primary {
            self.hear(lines);
            self.sent.clear();
            self.written.clear();
        }
    }

    /// Takes everything from a replica that is not running.
    pub(super) fn wipe(&mut self, node: usize) {
        std::fs::remove_dir_all(self.home(node)).unwrap();
        self.led[node] = false;
    }

    /// Lets all nodes run; gives what the primary answered to a pending wait.
    pub(super) fn run_for(&mut self, time: Duration) -> bool {
        let primary = self.nodes[self.primary].as_mut().unwrap();
        primary.runs_for(time);
        let lines = primary.take_said();
        self.hear(lines)
    }

    /// Notes answers; true if one of them says that a replica is in sync.
    fn hear(&mut self, lines: Vec<String>) -> bool {
        let mut in_sync = false;
        for line in lines.iter().filter(|line| line.starts_with("{\"")) {
            // A line may be cut off by the kill.
            let Ok(answer) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            if answer["ok"].is_null() {
                continue;
            }
            let ok = answer["ok"] == true;
            match self.sent.pop_front().expect("an answer has a command") {
                Sent::Write(blocks) if ok => self.written.extend(blocks),
                Sent::Flush if ok => {
                    for (block, stamp) in self.written.drain(..) {
                        self.registers[block].acknowledged = stamp;
                    }
                }
                Sent::Wait => in_sync |= answer["in_sync"] == true,
                Sent::Write(_) | Sent::Flush => println!("not acknowledged: {line}"),
            }
        }
        in_sync
    }

    fn tell(&mut self, command: &str) {
        self.nodes[self.primary].as_mut().unwrap().say(command);
    }

    /// Has the primary write `pieces`, without waiting for its answers.
    pub(super) fn write(&mut self, pieces: u64) {
        for _ in 0..pieces {
            let count = usize::try_from(1 + self.random.below(PIECE)).unwrap();
            let first = self.random.below((BLOCKS - count) as u64);
            let first = usize::try_from(first).unwrap();
            let (mut blocks, mut bytes) = (Vec::new(), Vec::new());
            for block in first..first + count {
                self.registers[block].sent += 1;
                let stamp = self.registers[block].sent;
                blocks.push((block, stamp));
                bytes.extend(stamped(block, stamp));
            }
            self.pieces += 1;
            let file = self.dir.path().join(format!("piece-{}", self.pieces));
            std::fs::write(&file, &bytes).unwrap();
            let (length, at) = (bytes.len(), first * BLOCK);
            self.sent.push_back(Sent::Write(blocks));
            self.tell(&format!("write 0 {length} {at} {}", file.display()));
        }
    }

    pub(super) fn flush(&mut self) {
        self.sent.push_back(Sent::Flush);
        self.tell("flush");
    }

    /// Asks when `node` is in sync, without waiting for the answer.
    pub(super) fn expect_in_sync(&mut self, node: usize) {
        self.sent.push_back(Sent::Wait);
        self.tell(&format!("wait {} 0 60000", NAMES[node]));
    }

    /// Waits for every answer that is owed.
    #[track_caller]
    pub(super) fn answered(&mut self) -> bool {
        let mut in_sync = false;
        while !self.sent.is_empty() {
            let primary = self.nodes[self.primary].as_mut().unwrap();
            primary.wait_for("{\"");
            let lines = primary.take_said();
            in_sync |= self.hear(lines);
        }
        in_sync
    }

    /// A command that changes nothing that is noted here, and its answer.
    #[track_caller]
    pub(super) fn ask(&mut self, command: &str) -> Value {
        self.answered();
        self.tell(command);
        let primary = self.nodes[self.primary].as_mut().unwrap();
        let line = primary.wait_for("\"ok\"");
        primary.take_said();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// Writes `pieces`, and waits until they are acknowledged.
    #[track_caller]
    pub(super) fn write_through(&mut self, pieces: u64) {
        self.write(pieces);
        self.flush();
        self.answered();
        assert!(self.written.is_empty(), "the flush failed");
    }

    /// Starts `seawall promote` of `node`, for the next epoch.
    pub(super) fn promotion(&mut self, node: usize) -> Vec<String> {
        self.epoch += 1;
        self.led[node] = true;
        let (home, epoch) = (text(&self.home(node)), self.epoch.to_string());
        let mut words = vec!["promote".into(), home, "--epoch".into(), epoch];
        for other in [(node + 1) % 3, (node + 2) % 3] {
            words.extend(["--peer".into(), self.named(other)]);
        }
        words
    }

    /// Promotes `first`, or `second` if that one holds more; the other one listens.
    #[track_caller]
    pub(super) fn promote(&mut self, first: usize, second: usize) {
        let ended = seawall(&self.promotion(first));
        let winner = match ended.code {
            Some(0) => first,
            _ => {
                assert!(ended.stderr.contains("holds a newer history"), "{ended:#?}");
                self.kill(second);
                self.start(first);
                seawall(&self.promotion(second)).ok();
                second
            }
        };
        self.primary = winner;
    }

    /// The primary's record of the recovery of `node` that ended last.
    #[track_caller]
    pub(super) fn recovery(&mut self, node: usize) -> Value {
        let status = self.ask("status")["status"].take();
        let mut recoveries = status["recoveries"].as_array().unwrap().iter();
        let newest = recoveries.rfind(|recovery| recovery["replica"] == NAMES[node]);
        let found = newest.unwrap_or_else(|| panic!("no recovery of {}: {status:#}", NAMES[node]));
        found.clone()
    }

    /// Everybody is in sync with everything acknowledged, and only streams hold pins.
    #[track_caller]
    pub(super) fn settle(&mut self) {
        self.write_through(2);
        let head = self.ask("status")["status"]["head"].as_u64().unwrap();
        for node in self.followers() {
            let answer = self.ask(&format!("wait {} {head} 60000", NAMES[node]));
            assert_eq!(answer["in_sync"], true, "{:#}", self.ask("status"));
        }
        let status = self.ask("status")["status"].take();
        assert_eq!(status["committed"], head, "{status:#}");
        let mut followers = self
            .followers()
            .map(|node| format!(" of {}", NAMES[node]))
            .to_vec();
        for pin in status["pins"].as_array().unwrap() {
            let owner = pin["owner"].as_str().unwrap();
            // The log is looked through again after an open; everything else is a stream's.
            if owner != "scan" {
                let stream = followers
                    .iter()
                    .position(|follower| owner.ends_with(follower));
                followers.remove(stream.unwrap_or_else(|| panic!("{owner}: {status:#}")));
                assert_eq!(
                    (&pin["kind"], &pin["lsn"]),
                    (&"wal".into(), &head.into()),
                    "{pin}"
                );
            }
        }
        assert_eq!(followers, [""; 0], "{status:#}");
    }

    /// Ends everybody, and demands three equal copies that hold what was acknowledged.
    #[track_caller]
    pub(super) fn compare(&mut self) {
        for node in 0..3 {
            match self.random.below(2) {
                0 => self.kill(node),
                _ => {
                    let node = self.nodes[node].take().unwrap();
                    run("kill", &["-TERM", &node.id().to_string()]).ok();
                    assert!(node.ended().success());
                }
            }
        }
        self.sent.clear();
        let copies = [0, 1, 2].map(|node| self.copy(node));
        for (name, copy) in NAMES.iter().zip(&copies) {
            assert_eq!(copy.0, copies[0].0, "{name}: head, digest");
            assert!(copy.1 == copies[0].1, "{name} holds other bytes than a");
        }
        for (n, bytes) in copies[0].1.chunks(BLOCK).enumerate() {
            let stamp = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
            let empty = stamp == 0 && bytes.iter().all(|byte| *byte == 0);
            assert!(empty || bytes == stamped(n, stamp), "block {n} is torn");
            let register = &mut self.registers[n];
            assert!(
                (register.acknowledged..=register.sent).contains(&stamp),
                "block {n} holds write {stamp}; {} was acknowledged, {} was sent",
                register.acknowledged,
                register.sent
            );
            register.acknowledged = stamp;
        }
    }

    /// What a node holds at rest: LSN and digest, and its bytes.
    #[track_caller]
    fn copy(&self, node: usize) -> ((Lsn, String), Vec<u8>) {
        let home = text(&self.home(node));
        let verified: Ended = seawall(&["verify", &home]);
        verified.ok();
        let status = seawall(&["status", &home, "--json"]).ok().json();
        assert_eq!(status["pins"], serde_json::json!([]), "{status:#}");
        assert_eq!(status["needs_rebuild"], false, "{status:#}");
        let image = self.dir.path().join("image");
        seawall(&["export", &home, &text(&image)]).ok();
        let bytes = std::fs::read(&image).unwrap();
        std::fs::remove_file(&image).unwrap();
        let (disk, clock) = (FileDisk::new() as Arc<dyn Disk>, SystemClock::new());
        let opened = Volume::open(&disk, &self.home(node), &clock, Access::ReadOnly).unwrap();
        let head = opened.0.log().frontiers().head;
        let digest = opened.0.digest_at(head).unwrap().to_string();
        ((head, digest), bytes)
    }
}
