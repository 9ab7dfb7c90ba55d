//! The seam to whoever assigns replicas and notices dead servers (1.22). Nothing here decides when
//! to promote; [`FromFile`] is the control plane of a volume that nobody moves.

use std::fmt;

use seawall_snapshot::Volume;
use seawall_wal::{Epoch, LineageEntry, Lsn, VolumeId};
use serde::Deserialize;

use crate::id::ReplicaId;
use crate::registry::Assignment;
use crate::sender::{Endpoint, State};
use crate::session::Kind;

/// What a server reports of one volume in a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFact {
    /// The volume.
    pub volume: VolumeId,
    /// The replica that the server holds.
    pub replica: ReplicaId,
    /// The highest epoch that it has persisted.
    pub epoch: Epoch,
    /// The lineage entry of its last record; `None` without records.
    pub last_entry: Option<LineageEntry>,
    /// Last LSN synced there.
    pub durable: Lsn,
    /// Its state as last known.
    pub state: State,
    /// How it is reached.
    pub endpoint: Endpoint,
}

impl VolumeFact {
    /// What the primary of `volume` on `server` reports of itself; `None` without a server id,
    /// which is never made up from an address (A199).
    #[must_use]
    pub fn of_primary(volume: &Volume, server: &str, endpoint: Endpoint) -> Option<VolumeFact> {
        let meta = volume.meta().get();
        let durable = volume.log().frontiers().durable;
        Some(VolumeFact {
            volume: meta.volume,
            replica: ReplicaId::on_server(meta.volume, server)?,
            epoch: meta.epoch,
            last_entry: volume.log().lineage().entry_at(durable),
            durable,
            state: State::InSync,
            endpoint,
        })
    }
}

/// What the control plane wants of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The volume.
    pub volume: VolumeId,
    /// For [`Orchestrator::assign`](crate::orchestrator::Orchestrator::assign).
    pub assignment: Assignment,
}

/// A control plane: facts in, intents out.
pub trait ControlPlane {
    /// A server is alive and holds these volumes. The same facts MUST give the same intents until
    /// the control plane changes its mind; an intent MUST carry an epoch that never falls.
    fn heartbeat(&mut self, server: &str, facts: &[VolumeFact]) -> Vec<Intent>;

    /// A server is dead.
    fn failover(&mut self, dead: &str) -> Vec<Intent>;
}

/// What a primary is told to do with the replicas of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Serve; replicas are recovered as they come.
    Primary,
    /// Catch every replica up.
    CatchingUp,
    /// Rebuild every replica.
    Rebuilding,
    /// A role of a later version. Nothing is done about it.
    #[serde(other)]
    Unknown,
}

impl Role {
    /// The sessions that a role asks for: `None` when it is not known, then for none in `Some`.
    const fn recovery(self) -> Option<Option<Kind>> {
        match self {
            Role::Primary => Some(None),
            Role::CatchingUp => Some(Some(Kind::CatchUp)),
            Role::Rebuilding => Some(Some(Kind::Rebuild)),
            Role::Unknown => None,
        }
    }
}

/// A control plane that reads its assignments from a file and never changes them.
///
/// ```
/// use seawall_recovery::control::FromFile;
///
/// let plane = FromFile::parse(
///     br#"{"volumes": [{
///         "volume": "01010101010101010101010101010101",
///         "primary": "rack-1",
///         "role": "primary",
///         "epoch": 1,
///         "replicas": [{
///             "server": "rack-2", "data": "10.0.0.2:7000",
///             "control": "10.0.0.2:7001", "address_version": 1
///         }]
///     }]}"#,
/// );
/// assert!(plane.is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromFile {
    volumes: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    volume: String,
    primary: String,
    role: Role,
    epoch: u64,
    version: Option<u64>,
    replicas: Vec<Placed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Placed {
    server: Option<String>,
    data: String,
    control: String,
    address_version: u64,
}

/// Why a file is no assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the assignment file is {what} at line {line}, column {column}; correct it there")]
pub struct BadFile {
    what: Fault,
    line: usize,
    column: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NotJson,
    Fields,
    Short,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::NotJson => "no JSON",
            Fault::Fields => "JSON with a field that is missing, unknown or of another type",
            Fault::Short => "cut off",
        })
    }
}

impl FromFile {
    /// Reads the content of a file.
    ///
    /// # Errors
    /// [`BadFile`] with line and column of the first fault.
    pub fn parse(bytes: &[u8]) -> Result<FromFile, BadFile> {
        serde_json::from_slice(bytes).map_err(|error| BadFile {
            what: match error.classify() {
                serde_json::error::Category::Data => Fault::Fields,
                serde_json::error::Category::Eof => Fault::Short,
                serde_json::error::Category::Io | serde_json::error::Category::Syntax => {
                    Fault::NotJson
                }
            },
            line: error.line(),
            column: error.column(),
        })
    }
}

impl ControlPlane for FromFile {
    fn heartbeat(&mut self, server: &str, facts: &[VolumeFact]) -> Vec<Intent> {
        let of_volume = |fact: &VolumeFact| {
            let name = fact.volume.to_string();
            let mut entries = self.volumes.iter();
            entries.find(|entry| entry.volume == name && entry.primary == server)
        };
        facts
            .iter()
            .filter_map(|fact| intent(fact.volume, of_volume(fact)?))
            .collect()
    }

    /// Nothing: a file does not elect. Without the dead server in the assignment the ack rule would
    /// ask for fewer copies, so that is left to a person.
    fn failover(&mut self, _dead: &str) -> Vec<Intent> {
        Vec::new()
    }
}

/// An unknown role gives no intent at all: an assignment without replicas would stop every sender.
/// A replica without a server id is skipped; its id is never made up from an address (A199).
fn intent(volume: VolumeId, entry: &Entry) -> Option<Intent> {
    let recovery = entry.role.recovery()?;
    let replicas = entry.replicas.iter().filter_map(|placed| {
        let id = ReplicaId::on_server(volume, placed.server.as_deref()?)?;
        let endpoint = Endpoint {
            data: placed.data.clone(),
            control: placed.control.clone(),
            version: placed.address_version,
        };
        Some((id, endpoint))
    });
    let mut assignment = Assignment::of(replicas.collect(), Epoch::new(entry.epoch));
    assignment.version = entry.version;
    if let Some(kind) = recovery {
        for (id, _) in assignment.replicas.clone() {
            assignment = assignment.recovering(id, kind);
        }
    }
    Some(Intent { volume, assignment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{VOLUME, endpoint};

    fn fact() -> VolumeFact {
        VolumeFact {
            volume: VOLUME,
            replica: ReplicaId::new("r0"),
            epoch: Epoch::new(1),
            last_entry: None,
            durable: Lsn::ZERO,
            state: State::Disconnected,
            endpoint: endpoint("10.0.0.1"),
        }
    }

    fn heartbeat(role: &str, server: &str, data: &str) -> Vec<Intent> {
        let text = format!(
            r#"{{"volumes": [{{
                "volume": "{VOLUME}", "primary": "rack-1", "role": "{role}", "epoch": 3,
                "version": 7, "replicas": [{{"server": {server}, "data": "{data}",
                "control": "c", "address_version": 2}}]
            }}]}}"#
        );
        let mut plane = FromFile::parse(text.as_bytes()).unwrap();
        assert_eq!(plane.failover("rack-2"), []);
        assert_eq!(plane.heartbeat("rack-9", &[fact()]), [], "not its primary");
        plane.heartbeat("rack-1", &[fact()])
    }

    // A200
    #[test]
    fn a_role_says_who_is_recovered_and_an_unknown_one_says_nothing() {
        let kinds = |role| {
            let intents = heartbeat(role, r#""rack-2""#, "d");
            let [intent] = intents.as_slice() else {
                panic!("one intent for {role}");
            };
            assert_eq!(intent.assignment.epoch, Epoch::new(3));
            assert_eq!(intent.assignment.version, Some(7));
            assert_eq!(intent.assignment.replicas.len(), 1);
            let targets = intent.assignment.targets.iter();
            targets.map(|(_, options)| options.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds("rebuilding"), [Kind::Rebuild]);
        assert_eq!(kinds("catching_up"), [Kind::CatchUp]);
        assert_eq!(kinds("primary"), []);
        assert_eq!(heartbeat("observer", r#""rack-2""#, "d"), []);
    }

    // A198, A199
    #[test]
    fn a_replica_is_named_after_its_server_wherever_it_is_reached() {
        let id = |server, data| {
            let intent = heartbeat("rebuilding", server, data).remove(0);
            let ids = intent.assignment.replicas.into_iter().map(|(id, _)| id);
            ids.collect::<Vec<_>>()
        };
        let here = id(r#""rack-2""#, "10.0.0.2");
        assert_eq!(here, id(r#""rack-2""#, "10.0.0.3"));
        assert_eq!(here, [ReplicaId::on_server(VOLUME, "rack-2").unwrap()]);
        assert_eq!(id("null", "10.0.0.2"), []);
        assert_eq!(id(r#""""#, "10.0.0.2"), []);
    }

    #[test]
    fn a_file_that_is_no_assignment_is_refused_with_its_place() {
        let fault = |text: &str| {
            let bad = FromFile::parse(text.as_bytes()).unwrap_err();
            let BadFile { what, line, column } = bad;
            (what, line, column)
        };
        assert_eq!(fault("{\n  \"volumes\": ["), (Fault::Short, 2, 14));
        assert_eq!(fault("{]"), (Fault::NotJson, 1, 2));
        assert_eq!(fault(r#"{"volume": []}"#).0, Fault::Fields);
    }
}
