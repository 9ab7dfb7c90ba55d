//! What a rebuild moves over the wire, beside the old base and in place, whole and cut off, and
//! with sums that do not vouch for their blocks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::message::Message;
use crate::transport::Link;
use crate::transport::tcp::{Socket, dial};

const LOOK: Duration = Duration::from_millis(20);

/// Stands between a primary and its replica: counts what the primary sends, and cuts one connection
/// off.
struct Wire {
    listener: Socket,
    /// Bytes that came from the primary, of all messages.
    moved: AtomicU64,
    /// The connection is cut when so many have passed; 0 is never.
    cut_at: AtomicU64,
}

impl Wire {
    fn new(cut_at: u64) -> Wire {
        Wire {
            listener: Socket::bind("127.0.0.1:0", &Security::default()).unwrap(),
            moved: AtomicU64::new(0),
            cut_at: AtomicU64::new(cut_at),
        }
    }

    /// Begins to count anew.
    fn moved(&self) -> u64 {
        self.moved.swap(0, Ordering::SeqCst)
    }

    fn options(&self, id: &str, rebuild_full: bool) -> PrimaryOptions {
        PrimaryOptions {
            replicas: vec![ReplicaAddress {
                id: id.into(),
                address: self.listener.address().to_string(),
            }],
            rebuild_full,
            ..PrimaryOptions::default()
        }
    }

    /// Runs `story` while connections to the wire end at `address`.
    fn to<R>(&self, address: &str, story: impl FnOnce() -> R) -> R {
        let carry = || {
            while let Ok(Some(primary)) = self.listener.accept() {
                if let Ok(replica) = dial(address, &Security::default(), PATIENCE) {
                    self.connect(&primary, &replica);
                }
                primary.close();
            }
        };
        beside("wire", carry, || {
            // A story that fails ends the wire too.
            let _closes = Closes(&self.listener);
            story()
        })
    }

    fn connect(&self, primary: &Link, replica: &Link) {
        let answers = || {
            carry(replica, primary, |_| true);
            primary.close();
        };
        beside("answers", answers, || {
            carry(primary, replica, |message| self.passes(message));
            replica.close();
        });
    }

    fn passes(&self, message: &Message) -> bool {
        let bytes = message.encode().len() as u64;
        let moved = self.moved.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let cut_at = self.cut_at.load(Ordering::SeqCst);
        if cut_at > 0 && moved > cut_at {
            self.cut_at.store(0, Ordering::SeqCst);
            return false;
        }
        true
    }
}

struct Closes<'a>(&'a Socket);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn carry(from: &Link, to: &Link, passes: impl Fn(&Message) -> bool) {
    loop {
        match from.receive(LOOK) {
            Ok(None) => {}
            Ok(Some(message)) if passes(&message) && to.send(&message).is_ok() => {}
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

/// A primary of so many chunks with one block in each, all of it in the image.
fn filled(lab: &Lab, chunks: u64, byte: u8) -> Lsn {
    if list(lab.disk.as_ref(), &lab.dir("p")).is_err() {
        lab.create("p", chunks * MIB);
    }
    let served = lab.serve("p", PrimaryOptions::default());
    for chunk in 0..chunks {
        write(&served, chunk, byte);
    }
    let lsn = captured(&served);
    served.stop();
    lsn
}

fn write(served: &Served, chunk: u64, byte: u8) {
    let block = [byte.wrapping_add(chunk.to_le_bytes()[0]).max(1); BLOCK_BYTES];
    let written = served
        .primary
        .write(chunk * MIB, &block, Durability::Volatile);
    written.unwrap();
}

fn captured(served: &Served) -> Lsn {
    let lsn = served.primary.flush().unwrap();
    assert_eq!(served.primary.volume().checkpoint(None).unwrap(), lsn);
    lsn
}

/// Brings the replica in sync over the wire; gives what that moved and what the record says. A
/// rebuild is asked for, or has to follow from what the replica reports.
fn synced(lab: &Lab, wire: &Wire, lsn: Lsn, asked: bool) -> (u64, RecoveryRecord) {
    wire.moved();
    let served = lab.serve("p", wire.options("r1", asked));
    served.in_sync("r1", lsn);
    let moved = wire.moved();
    let record = served.last("r1");
    assert_eq!(record.outcome, "rebuild", "{record:#?}");
    served.stop();
    (moved, record)
}

// D12
#[test]
fn a_replica_that_differs_in_one_chunk_of_a_hundred_moves_at_most_two_percent() {
    let lab = Lab::new();
    let lsn = filled(&lab, 100, 1);
    let replica = lab.replica("r1");
    let wire = Wire::new(0);
    wire.to(&replica.address().to_string(), || {
        let (all, _) = synced(&lab, &wire, lsn, true);
        assert!(all > 100 * MIB, "{all} bytes");
        let served = lab.serve("p", PrimaryOptions::default());
        write(&served, 37, 200);
        let lsn = captured(&served);
        served.stop();
        let (moved, record) = synced(&lab, &wire, lsn, true);
        println!("{moved} of {all} bytes");
        assert_eq!((record.chunks_sent, record.chunks_matched), (1, 99));
        assert!(moved * 100 <= all * 2, "{moved} of {all} bytes");
        assert_equal(&lab.open("p", Access::ReadOnly), &replica, lsn);
    });
    replica.shutdown().unwrap();
}

/// Cuts a rebuild at half of its bytes, restarts the replica, and gives what the next one moved of
/// `chunks`.
fn cut_at_half(chunks: u64, in_place: bool) {
    let lab = Lab::new();
    let lsn = filled(&lab, chunks, 1);
    let serve = || {
        let options = ReplicaOptions {
            in_place,
            ..ReplicaOptions::default()
        };
        let listen = "127.0.0.1:0";
        Replica::serve(&lab.disk, &lab.clock, &lab.dir("r1"), "r1", listen, options).unwrap()
    };
    let wire = Wire::new(chunks / 2 * MIB);
    let replica = serve();
    wire.to(&replica.address().to_string(), || {
        let served = lab.serve("p", wire.options("r1", true));
        let cut = served.primary.shared().wait(PATIENCE, |core| {
            let mut records = core.state.recoveries().iter();
            let cut = records.find(|record| record.result != "in sync");
            cut.cloned()
        });
        assert!(cut.is_some(), "the rebuild is cut off");
        served.primary.shutdown();
    });
    let half_way = replica.volume().unwrap();
    replica.shutdown().unwrap();
    drop(half_way);
    let replica = serve();
    let half_way = replica.volume().unwrap();
    assert_eq!(half_way.incomplete_base().is_some(), in_place);
    assert_eq!(half_way.read(0, &mut [0; 1]).is_err(), in_place);
    drop(half_way);
    let wire = Wire::new(0);
    wire.to(&replica.address().to_string(), || {
        let (moved, record) = synced(&lab, &wire, lsn, !in_place);
        let all = chunks * MIB;
        assert_eq!(
            record.proof.contains("installed a base"),
            in_place,
            "{record:#?}"
        );
        println!("{moved} of {all} bytes, {} chunks", record.chunks_sent);
        assert!(moved * 100 <= all * 55, "{moved} of {all} bytes");
        assert!(record.chunks_matched * 100 >= chunks * 45, "{record:#?}");
        assert_equal(&lab.open("p", Access::ReadOnly), &replica, lsn);
        let volume = replica.volume().unwrap();
        assert_eq!(volume.incomplete_base(), None);
        assert_eq!(volume.base_state().untrusted, None);
    });
    replica.shutdown().unwrap();
}

// A238, D12
#[test]
fn a_rebuild_that_was_cut_at_half_moves_the_other_half() {
    cut_at_half(64, false);
}

// A136, D12, P05
#[test]
fn an_install_in_place_that_was_cut_leaves_an_incomplete_volume_and_goes_on() {
    cut_at_half(64, true);
}

fn sums_of(lab: &Lab, name: &str, base: u64) -> (File, Buffer) {
    let path = lab.dir(name).join(format!("base/{base}/sums"));
    let file = File::open(&lab.disk, &path, OpenMode::ReadWrite).unwrap();
    let length = file.length().unwrap();
    let bytes = file.read_exact(0, usize::try_from(length).unwrap());
    (file, bytes.unwrap())
}

/// The sums without their checks: a sector without sums may be written or absent.
fn only_sums(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks_exact(512).map(|sector| &sector[..496])
}

fn overwrite(file: &File, bytes: &[u8]) {
    file.write_bytes(0, Buffer::copy_of(bytes)).unwrap();
    file.sync().unwrap();
}

/// Two copies that differ in one block, and the sums of one of them at the other: chunks that seem
/// to be equal and are not.
fn lying(primary_lies: bool) {
    let lab = Lab::new();
    let old = filled(&lab, 8, 1);
    let replica = lab.replica("r1");
    let wire = Wire::new(0);
    wire.to(&replica.address().to_string(), || {
        synced(&lab, &wire, old, true);
    });
    replica.shutdown().unwrap();
    let (_, before) = sums_of(&lab, "p", 1);
    let served = lab.serve("p", PrimaryOptions::default());
    write(&served, 5, 99);
    let lsn = captured(&served);
    served.stop();
    let (ours, after) = sums_of(&lab, "p", 1);
    assert!(*before != *after);
    let (theirs, installed) = sums_of(&lab, "r1", 2);
    assert!(only_sums(&before).eq(only_sums(&installed)));
    match primary_lies {
        true => overwrite(&ours, &before),
        false => overwrite(&theirs, &after),
    }
    let replica = lab.replica("r1");
    let wire = Wire::new(0);
    wire.to(&replica.address().to_string(), || {
        let (_, record) = synced(&lab, &wire, lsn, true);
        let expected = match primary_lies {
            // The chunks seemed equal, the states were not: the next session compared nothing.
            true => (8, 0),
            // Its own block did not vouch for the sum.
            false => (1, 7),
        };
        assert_eq!((record.chunks_sent, record.chunks_matched), expected);
        assert_equal(&lab.open("p", Access::ReadOnly), &replica, lsn);
    });
    replica.shutdown().unwrap();
}

// D12, D18
#[test]
fn sums_of_the_replica_that_lie_make_no_chunk_pass_for_equal() {
    lying(false);
}

// D12, D18
#[test]
fn sums_of_the_primary_that_lie_are_caught_by_the_digest_of_the_state() {
    lying(true);
}
