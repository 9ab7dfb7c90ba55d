//! Directories of the simulated disk: which names exist, which of them are durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::rng::Rng;

/// A file or directory, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(pub(super) u64);

/// The directory that holds everything.
pub(super) const ROOT: NodeId = NodeId(0);

/// A place a node can have: a directory and a name in it.
pub(super) type Place = (NodeId, String);

type Entries = BTreeMap<Place, NodeId>;

/// One unsynced creation, rename or removal. Its changes survive together or not at all.
#[derive(Clone, Debug)]
struct Change {
    sequence: u64,
    entries: Vec<(Place, Option<NodeId>)>,
    /// Directories that must still be synced after it.
    unsynced: BTreeSet<NodeId>,
    /// Earlier changes without which this one cannot have happened.
    after: BTreeSet<u64>,
}

/// Names with their unsynced past.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: Entries,
    durable: Entries,
    changes: Vec<Change>,
}

/// The parts of a path below the root.
pub(super) fn components(path: &Path) -> io::Result<Vec<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => {
                let part = part.to_str().ok_or(Errno::INVAL)?;
                parts.push(part.to_owned());
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Errno::INVAL.into());
            }
        }
    }
    Ok(parts)
}

impl Names {
    pub(super) fn find(&self, directory: NodeId, name: &str) -> Option<NodeId> {
        self.live.get(&(directory, name.to_owned())).copied()
    }

    pub(super) fn of_directory(&self, directory: NodeId) -> Vec<(String, NodeId)> {
        self.live
            .range((directory, String::new())..)
            .take_while(|((parent, _), _)| *parent == directory)
            .map(|((_, name), node)| (name.clone(), *node))
            .collect()
    }

    /// Every live path with its node, sorted.
    pub(super) fn walk(&self) -> Vec<(PathBuf, NodeId)> {
        let mut found = Vec::new();
        let mut left = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, directory)) = left.pop() {
            for (name, node) in self.of_directory(directory) {
                found.push((path.join(&name), node));
                left.push((path.join(name), node));
            }
        }
        found.sort_unstable();
        found
    }

    /// Nodes that have a name, or may have one after a crash.
    pub(super) fn mentioned(&self) -> BTreeSet<NodeId> {
        let changed = self.changes.iter().flat_map(|change| &change.entries);
        let kept = self.live.values().chain(self.durable.values());
        kept.copied()
            .chain(changed.filter_map(|(_, node)| *node))
            .chain([ROOT])
            .collect()
    }

    pub(super) fn has_name(&self, node: NodeId) -> bool {
        self.live.values().any(|named| *named == node)
    }

    pub(super) fn insert(&mut self, sequence: u64, place: Place, node: NodeId) {
        self.apply(sequence, vec![(place, Some(node))], None);
    }

    /// Removes one name. A directory must be empty.
    pub(super) fn remove(&mut self, sequence: u64, place: Place) {
        self.apply(sequence, vec![(place, None)], None);
    }

    /// Moves one name over another. A directory that is replaced must be empty.
    pub(super) fn rename(&mut self, sequence: u64, from: Place, to: Place) {
        let node = self.live.get(&from).copied();
        // What is moved must not vanish with a new directory that a crash takes back.
        let home = Some(to.0);
        self.apply(sequence, vec![(from, None), (to, node)], home);
    }

    /// The change rests on every earlier one of the same names, and on the creation of `home`.
    fn apply(
        &mut self,
        sequence: u64,
        entries: Vec<(Place, Option<NodeId>)>,
        home: Option<NodeId>,
    ) {
        let rests = |(place, node): &(Place, Option<NodeId>)| {
            entries.iter().any(|(mine, _)| mine == place) || (node.is_some() && *node == home)
        };
        let after = self
            .changes
            .iter()
            .filter(|earlier| earlier.entries.iter().any(rests))
            .map(|earlier| earlier.sequence)
            .collect();
        write_entries(&mut self.live, &entries);
        self.changes.push(Change {
            sequence,
            unsynced: entries.iter().map(|((parent, _), _)| *parent).collect(),
            entries,
            after,
        });
    }

    /// Makes the names of `directory` durable that changed at or before `covers`. A rename between
    /// two directories needs both; what a durable change rests on is durable with it.
    pub(super) fn sync(&mut self, directory: NodeId, covers: u64) {
        for change in &mut self.changes {
            if change.sequence <= covers {
                change.unsynced.remove(&directory);
            }
        }
        let mut settled: BTreeSet<u64> = BTreeSet::new();
        for change in self.changes.iter().rev() {
            if change.unsynced.is_empty() || settled.contains(&change.sequence) {
                settled.insert(change.sequence);
                settled.extend(&change.after);
            }
        }
        let durable = &mut self.durable;
        self.changes.retain(|change| {
            let settles = settled.contains(&change.sequence);
            if settles {
                write_entries(durable, &change.entries);
            }
            !settles
        });
    }

    /// The names after a power cut that kept nothing unsynced.
    pub(super) fn lose_unsynced(&mut self) {
        self.changes.clear();
        self.live = std::mem::take(&mut self.durable);
        let mut reached: BTreeSet<NodeId> = self.walk().into_iter().map(|(_, node)| node).collect();
        reached.insert(ROOT);
        self.live.retain(|(parent, _), _| reached.contains(parent));
        self.durable = self.live.clone();
    }

    /// The names after a power cut that kept any subset of the changes, each with all it rests on.
    pub(super) fn settle(&mut self, rng: &mut Rng) {
        let weight = rng.pick(&[0, 4, 8, 8, 12, 16]);
        let mut lost = BTreeSet::new();
        for change in std::mem::take(&mut self.changes) {
            if rng.chance(weight) && change.after.is_disjoint(&lost) {
                write_entries(&mut self.durable, &change.entries);
            } else {
                lost.insert(change.sequence);
            }
        }
        self.lose_unsynced();
    }
}

fn write_entries(target: &mut Entries, entries: &[(Place, Option<NodeId>)]) {
    for (place, node) in entries {
        match node {
            Some(node) => drop(target.insert(place.clone(), *node)),
            None => drop(target.remove(place)),
        }
    }
}
