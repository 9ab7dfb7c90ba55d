//! What an assignment does to replicas that are being kept level.

use seawall_wal::IoOp;
use seawall_wal::disk::sim::{Effect, Fault, SimDisk};

use super::*;
use crate::event::What;
use crate::failure::{Failure, Invalidation, StreamEnd};
use crate::id::ReplicaId;
use crate::registry::Assignment;
use crate::sender::Endpoint;
use crate::session::Kind;
use crate::transport::tcp::Socket;

/// These replicas where they listen, at `epoch`.
fn assignment(replicas: &[&Replica], epoch: u64) -> Assignment {
    let listed = replicas.iter().map(|replica| {
        let id = ReplicaId::new(&replica.status().id.unwrap());
        (id, at(&replica.address().to_string(), 1))
    });
    Assignment::of(listed.collect(), Epoch::new(epoch))
}

fn at(address: &str, version: u64) -> Endpoint {
    Endpoint {
        data: address.into(),
        control: address.into(),
        version,
    }
}

fn assigned(assignment: Assignment) -> PrimaryOptions {
    PrimaryOptions {
        assignment: Some(assignment),
        ..PrimaryOptions::default()
    }
}

/// Who holds a pin for `id`.
fn pins(served: &Served, id: &str) -> Vec<String> {
    let pins = served.primary.volume().pins().into_iter();
    let owners = pins.map(|pin| pin.owner);
    owners
        .filter(|owner| owner.ends_with(&format!("of {id}")))
        .collect()
}

/// The replicas that status lists.
fn listed(served: &Served) -> Vec<String> {
    let replicas = served.primary.status().replicas.into_iter();
    replicas.map(|replica| replica.id).collect()
}

fn ends(served: &Served, id: &str) -> Vec<What> {
    let events = served.primary.events().into_iter();
    let of = events.filter(|event| event.replica == Some(ReplicaId::new(id)));
    of.map(|event| event.what)
        .filter(|what| matches!(what, What::StreamEnded(_) | What::SessionInvalidated(_)))
        .collect()
}

#[test]
fn a_replica_is_kept_level_while_it_is_assigned_and_no_longer() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let served = lab.serve("p", assigned(assignment(&[&r1], 1)));
    let early = served.fill(0..20, 1);
    served.in_sync("r1", early);
    let done = served.primary.assign(&assignment(&[&r1, &r2], 1)).unwrap();
    assert_eq!(done.added, [ReplicaId::new("r2")]);
    served.in_sync("r2", early);
    let done = served.primary.assign(&assignment(&[&r2], 1)).unwrap();
    assert_eq!(done.removed, [ReplicaId::new("r1")]);
    // When the call returns, not when a thread has noticed.
    assert_eq!(pins(&served, "r1"), [""; 0]);
    assert_eq!(listed(&served), ["r2"]);
    let late = served.fill(0..20, 2);
    served.in_sync("r2", late);
    assert_eq!(r1.status().durable, early.get());
    assert!(!served.primary.wait_in_sync("r1", early, Duration::ZERO));
    assert_eq!(
        ends(&served, "r1"),
        [What::StreamEnded(StreamEnd::SenderStopped)]
    );
    served.primary.assign(&assignment(&[&r1, &r2], 1)).unwrap();
    served.in_sync("r1", late);
    assert_eq!(served.last("r1").outcome, "catch-up");
    // Not the thread of its first life, which would have begun a session of its own.
    let sessions = served.primary.events().into_iter().filter(|event| {
        event.replica == Some(ReplicaId::new("r1")) && event.what == What::SessionCreated
    });
    assert_eq!(sessions.count(), 2);
    served.stop();
    r1.shutdown().unwrap();
    r2.shutdown().unwrap();
}

// 1.16, A144
#[test]
fn a_changed_endpoint_ends_the_session_there_and_the_next_one_is_elsewhere() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    // It takes the connection and never answers.
    let mute = Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
    let id = ReplicaId::new("r1");
    let of = |endpoint| Assignment::of(vec![(id.clone(), endpoint)], Epoch::new(1));
    let served = lab.serve("p", assigned(of(at(&mute.address().to_string(), 1))));
    let lsn = served.fill(0..20, 1);
    let first = served.primary.shared().wait(PATIENCE, |core| {
        let sender = core.orchestrator.registry().sender(&id).unwrap();
        sender.session_id()
    });
    let here = at(&replica.address().to_string(), 2);
    served.primary.assign(&of(here.clone())).unwrap();
    served.in_sync("r1", lsn);
    let ended = What::SessionInvalidated(Invalidation::EndpointChanged);
    assert_eq!(ends(&served, "r1"), [ended]);
    let core = served.primary.shared().core();
    let stream = core
        .orchestrator
        .registry()
        .sender(&id)
        .unwrap()
        .stream_id();
    assert!(stream > first && first.is_some(), "{first:?} {stream:?}");
    drop(core);
    // A live stream ends as well, though only the version changed.
    let moved = Endpoint { version: 3, ..here };
    served.primary.assign(&of(moved)).unwrap();
    served.in_sync("r1", lsn);
    assert_eq!(
        ends(&served, "r1")[1..],
        [What::StreamEnded(StreamEnd::EndpointChanged)]
    );
    served.stop();
    replica.shutdown().unwrap();
}

// D2, D5, D8
#[test]
fn a_promoted_epoch_is_in_the_lineage_and_at_the_replica_and_does_not_fall() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let served = lab.serve("p", assigned(assignment(&[&replica], 1)));
    let before = served.fill(0..20, 1);
    served.in_sync("r1", before);
    served.stop();
    lab.promote("p", 5);
    let served = lab.serve("p", assigned(assignment(&[&replica], 5)));
    let lsn = served.fill(0..1, 2);
    served.in_sync("r1", lsn);
    let lineage = served.primary.volume().log().lineage();
    let entry = lineage.entry_at(lsn).unwrap();
    assert_eq!((entry.epoch, entry.first), (Epoch::new(5), before.next()));
    assert_eq!(replica.status().epoch, 5);
    let stale = served.primary.assign(&assignment(&[], 4));
    assert!(
        matches!(
            &stale,
            Err(Error::Failure(Failure::StaleAssignment { current, .. })) if current.get() == 5
        ),
        "{stale:?}"
    );
    assert_eq!(listed(&served), ["r1"], "a refused one changes nothing");
    served.stop();
    // A control plane that has forgotten it does not take a restart back.
    let volume = lab.open("p", Access::Primary);
    let old = assigned(assignment(&[&replica], 4));
    let refused = Primary::start(&lab.disk, &lab.clock, volume, old);
    assert!(
        matches!(
            &refused,
            Err(Error::Failure(Failure::StaleAssignment { .. }))
        ),
        "{refused:?}"
    );
    replica.shutdown().unwrap();
}

// D8, A152: an older list of members asks for fewer copies than were promised since.
#[test]
fn a_restart_remembers_which_version_was_assigned_last() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let versioned = |replicas: &[&Replica], version| Assignment {
        version,
        ..assignment(replicas, 1)
    };
    let served = lab.serve("p", assigned(versioned(&[], Some(7))));
    let both = versioned(&[&replica], Some(8));
    served.primary.assign(&both).unwrap();
    served.stop();
    let volume = lab.open("p", Access::Primary);
    let older = assigned(versioned(&[], Some(7)));
    let refused = Primary::start(&lab.disk, &lab.clock, volume, older);
    let versions = match refused {
        Err(Error::Failure(Failure::StaleAssignment {
            given_version,
            current_version,
            ..
        })) => (given_version, current_version),
        other => panic!("{other:?}"),
    };
    assert_eq!(versions, (Some(7), Some(8)));
    // One without a version does not make it forgotten, the same one again is no older one.
    lab.serve("p", assigned(versioned(&[&replica], None)))
        .stop();
    let served = lab.serve("p", assigned(both));
    let refused = served.primary.assign(&versioned(&[], Some(7)));
    assert!(matches!(
        refused,
        Err(Error::Failure(Failure::StaleAssignment { .. }))
    ));
    assert_eq!(listed(&served), ["r1"]);
    served.stop();
    // Versions count within one epoch.
    lab.promote("p", 2);
    let first = Assignment {
        version: Some(1),
        ..assignment(&[&replica], 2)
    };
    lab.serve("p", assigned(first)).stop();
    replica.shutdown().unwrap();
}

// D8: were the registry first, a crash would take back what replicas have heard of.
#[test]
fn a_version_that_cannot_be_made_durable_changes_nothing() {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = sim.clone();
    let clock: Arc<dyn Clock> = SystemClock::new();
    let (p, r) = (Path::new("/p"), Path::new("/r"));
    create(&disk, p, 64 * BLOCK);
    let (volume, _) = Volume::open(&disk, p, &clock, Access::Primary).unwrap();
    let usual = ReplicaOptions::default();
    let replica = Replica::serve(&disk, &clock, r, "r1", "127.0.0.1:0", usual).unwrap();
    let first = assigned(assignment(&[&replica], 1));
    let primary = Primary::start(&disk, &clock, volume, first).unwrap();
    assert!(primary.wait_in_sync("r1", Lsn::ZERO, PATIENCE));
    let fault = Fault::at(IoOp::Write, Effect::FailErrno(5));
    sim.inject(fault.on("/p/recovery/state").for_ever());
    let before = primary.events();
    let failed = primary.assign(&Assignment {
        version: Some(2),
        ..assignment(&[], 1)
    });
    assert!(matches!(&failed, Err(Error::Log(_))), "{failed:?}");
    assert_eq!(primary.events(), before);
    assert_eq!(primary.status().replicas[0].state, "in_sync");
}

// H18: the assignment comes with a session, and the mark that forbids it is only remembered.
#[test]
fn a_marked_replica_that_is_assigned_again_is_still_marked() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let by_hand = PrimaryOptions {
        auto_rebuild: false,
        ..assigned(assignment(&[&replica], 1))
    };
    let served = lab.serve("p", by_hand);
    let lsn = served.fill(0..20, 1);
    served.in_sync("r1", lsn);
    let id = ReplicaId::new("r1");
    let entry = crate::state::Entry::Mark {
        replica: "r1".into(),
        set: true,
        cause: "outcome".into(),
    };
    served.primary.assign(&assignment(&[], 1)).unwrap();
    served.primary.shared().core().state.append(entry).unwrap();
    let with_session = assignment(&[&replica], 1).recovering(id.clone(), Kind::CatchUp);
    let done = served.primary.assign(&with_session).unwrap();
    let replica_id = id.clone();
    let marked = Failure::NeedsRebuild {
        replica: replica_id,
    };
    assert_eq!(done.failed, [(id.clone(), marked)]);
    let state = &served.primary.status().replicas[0].state;
    assert_eq!(state, "needs_rebuild");
    let rebuild = assignment(&[&replica], 1).recovering(id, Kind::Rebuild);
    let done = served.primary.assign(&rebuild).unwrap();
    assert_eq!(done.created.len(), 1);
    served.in_sync("r1", lsn);
    let record = served.last("r1");
    let created = done.created[0].1.to_string();
    assert_eq!((&*record.outcome, record.session), ("rebuild", created));
    served.stop();
    replica.shutdown().unwrap();
}

// 1.8: attach demotes `in_sync`.
#[test]
fn a_rebuild_that_is_assigned_ends_the_live_stream() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let served = lab.serve("p", assigned(assignment(&[&replica], 1)));
    let lsn = served.fill(0..20, 1);
    served.in_sync("r1", lsn);
    let rebuild = assignment(&[&replica], 1).recovering(ReplicaId::new("r1"), Kind::Rebuild);
    served.primary.assign(&rebuild).unwrap();
    served.recovered("r1", "rebuild");
    served.in_sync("r1", lsn);
    assert_eq!(
        ends(&served, "r1"),
        [What::StreamEnded(StreamEnd::SessionAttached)]
    );
    served.stop();
    replica.shutdown().unwrap();
}

// D5: a higher epoch in a file does not give back what another primary may have acknowledged.
#[test]
fn a_deposed_primary_takes_no_assignment() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let served = lab.serve("p", assigned(assignment(&[&replica], 1)));
    served.in_sync("r1", Lsn::ZERO);
    let address = replica.address().to_string();
    promise_epoch(&address, Epoch::new(9), &Security::Loopback).unwrap();
    let deposed = served
        .primary
        .shared()
        .wait(PATIENCE, |core| core.deposed.map(drop));
    assert!(deposed.is_some());
    let refused = served.primary.assign(&assignment(&[&replica], 10));
    assert!(
        matches!(&refused, Err(Error::Deposed { promised, .. }) if promised.get() == 9),
        "{refused:?}"
    );
    assert_eq!(served.primary.status().epoch, 1);
    served.stop();
    replica.shutdown().unwrap();
}

// D5: without a majority that promised it, a higher epoch takes away what another primary was
// acknowledged meanwhile. It is refused at the start and while serving.
#[test]
fn an_epoch_that_nobody_was_promoted_to_takes_no_acknowledged_write_away() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let quorum = |replicas: &[&Replica], epoch| PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..assigned(assignment(replicas, epoch))
    };
    let served = lab.serve("p", quorum(&[&r1, &r2], 1));
    let before = served.fill(0..20, 1);
    served.in_sync("r1", before);
    served.in_sync("r2", before);
    let raised = served.primary.assign(&assignment(&[&r2], 3));
    not_promoted(raised.as_ref().unwrap_err());
    let refusals = served.primary.events().into_iter().map(|event| event.what);
    let refusals = refusals.filter(|what| matches!(what, What::AssignmentRefused(_)));
    assert_eq!(refusals.count(), 1);
    assert_eq!(served.primary.status().epoch, 1);
    served.in_sync("r1", before);
    served.stop();

    let second = promise_epoch(
        &r2.address().to_string(),
        Epoch::new(2),
        &Security::Loopback,
    );
    assert_eq!(second.unwrap().durable, before);
    r1.shutdown().unwrap();
    lab.promote("r1", 2);
    let served = lab.serve("r1", quorum(&[&r2], 2));
    let acknowledged = served.fill(0..20, 2);
    served.in_sync("r2", acknowledged);
    served.stop();

    let volume = lab.open("p", Access::Primary);
    let returned = Primary::start(
        &lab.disk,
        &lab.clock,
        Arc::clone(&volume),
        quorum(&[&r2], 3),
    );
    match returned {
        Err(error) => not_promoted(&error),
        Ok(primary) => {
            let taken = primary.wait_in_sync("r2", Lsn::ZERO, PATIENCE);
            panic!("in sync: {taken}; r2 is at {:?}", r2.status());
        }
    }
    assert_eq!(
        (r2.status().epoch, r2.status().durable),
        (2, acknowledged.get())
    );
    let mut bytes = [0; BLOCK_BYTES];
    r2.volume().unwrap().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [2; BLOCK_BYTES], "acknowledged in epoch 2");
    r2.shutdown().unwrap();
}

#[track_caller]
fn not_promoted(error: &Error) {
    assert!(
        matches!(
            error,
            Error::Failure(Failure::NotPromoted { given, current })
                if (given.get(), current.get()) == (3, 1)
        ),
        "{error:?}"
    );
}
