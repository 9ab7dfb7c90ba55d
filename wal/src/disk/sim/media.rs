//! What lies on the simulated medium, and how operations change it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::image::{FileImage, SECTOR};
use super::names::{self, Names, NodeId, Place, ROOT};
use super::rng::Rng;
use crate::disk::{Buffer, Bytes};

/// The largest offset a file can have.
const OFFSET_MAX: u64 = i64::MAX.unsigned_abs();

#[derive(Clone, Debug)]
enum Node {
    File(FileImage),
    Directory,
}

/// An operation that changes the medium, kept so that a crash can carry it out or not.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create {
        path: PathBuf,
    },
    Write {
        node: NodeId,
        offset: u64,
        buffers: Vec<Bytes>,
    },
    SetLength {
        node: NodeId,
        length: u64,
    },
    PunchHole {
        node: NodeId,
        offset: u64,
        length: u64,
    },
    MakeDir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
}

/// Files, directories and their names.
#[derive(Clone, Debug)]
pub(super) struct Media {
    nodes: BTreeMap<NodeId, Node>,
    names: Names,
    /// Number of the last change. A sync covers the changes up to its submission.
    sequence: u64,
    next_node: u64,
    sectors_max: Option<u64>,
    /// Nodes that live without a name because a handle is open.
    open: BTreeMap<NodeId, u64>,
}

impl Media {
    pub(super) fn new(capacity: Option<u64>) -> Media {
        Media {
            nodes: BTreeMap::from([(ROOT, Node::Directory)]),
            names: Names::default(),
            sequence: 0,
            next_node: ROOT.0 + 1,
            sectors_max: capacity.map(|bytes| bytes / SECTOR),
            open: BTreeMap::new(),
        }
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn set_capacity(&mut self, capacity: Option<u64>) {
        self.sectors_max = capacity.map(|bytes| bytes / SECTOR);
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Carries a change out.
    pub(super) fn apply(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::Create { path } => self.create(path).map(drop),
            Change::Write {
                node,
                offset,
                buffers,
            } => self.write(*node, *offset, buffers, usize::MAX),
            Change::SetLength { node, length } => self.set_length(*node, *length),
            Change::PunchHole {
                node,
                offset,
                length,
            } => {
                let sequence = self.next_sequence();
                self.file_mut(*node)?.punch_hole(sequence, *offset, *length);
                Ok(())
            }
            Change::MakeDir { path } => self.make_dir(path),
            Change::Rename { from, to } => self.rename(from, to),
            Change::Remove { path } => self.remove(path),
        }
    }

    /// Writes the first `limit` bytes of the buffers, as far as space reaches.
    pub(super) fn write(
        &mut self,
        node: NodeId,
        offset: u64,
        buffers: &[Bytes],
        limit: usize,
    ) -> io::Result<()> {
        let mut bytes: Vec<u8> = Vec::new();
        for buffer in buffers {
            bytes.extend_from_slice(buffer);
        }
        if offset > OFFSET_MAX || bytes.len() as u64 > OFFSET_MAX - offset {
            return Err(Errno::INVAL.into());
        }
        let limited = &bytes[..bytes.len().min(limit)];
        let mut free = self.free_sectors();
        let sequence = self.next_sequence();
        let file = self.file_mut(node)?;
        if file.write(sequence, offset, limited, &mut free) < limited.len() {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    fn free_sectors(&self) -> u64 {
        let Some(capacity) = self.sectors_max else {
            return u64::MAX;
        };
        let used: u64 = self
            .nodes
            .iter()
            .filter(|(id, _)| self.open.contains_key(id) || self.names.has_name(**id))
            .map(|(_, node)| match node {
                Node::File(file) => file.allocated(),
                Node::Directory => 0,
            })
            .sum();
        capacity.saturating_sub(used)
    }

    fn set_length(&mut self, node: NodeId, length: u64) -> io::Result<()> {
        if length > OFFSET_MAX {
            return Err(Errno::INVAL.into());
        }
        let sequence = self.next_sequence();
        self.file_mut(node)?.set_length(sequence, length);
        Ok(())
    }

    pub(super) fn sync(&mut self, node: NodeId, covers: u64) -> io::Result<()> {
        self.file_mut(node)?.sync(covers);
        Ok(())
    }

    /// Makes durable what was written to the file behind `before`, and with it the older versions
    /// of the same sectors.
    pub(super) fn sync_since(&mut self, node: NodeId, before: u64) -> io::Result<()> {
        self.file_mut(node)?.sync_since(before);
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, path: &Path, covers: u64) -> io::Result<()> {
        let directory = self.directory(path)?;
        self.names.sync(directory, covers);
        self.forget_unreachable();
        Ok(())
    }

    /// Drops nodes that no name, no possible name and no handle leads to.
    fn forget_unreachable(&mut self) {
        let mentioned = self.names.mentioned();
        let open = &self.open;
        self.nodes
            .retain(|id, _| mentioned.contains(id) || open.contains_key(id));
    }

    pub(super) fn hold_open(&mut self, node: NodeId) {
        *self.open.entry(node).or_default() += 1;
    }

    pub(super) fn release(&mut self, node: NodeId) {
        if let Some(handles) = self.open.get_mut(&node) {
            *handles -= 1;
            if *handles == 0 {
                self.open.remove(&node);
                self.forget_unreachable();
            }
        }
    }

    pub(super) fn file(&self, node: NodeId) -> io::Result<&FileImage> {
        match self.nodes.get(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn file_mut(&mut self, node: NodeId) -> io::Result<&mut FileImage> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.nodes.get(&node), Some(Node::Directory))
    }

    /// The node of a path.
    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names::components(path)? {
            if !self.is_directory(node) {
                return Err(Errno::NOTDIR.into());
            }
            let next = self.names.find(node, &name);
            node = next.ok_or(Errno::NOENT)?;
        }
        Ok(node)
    }

    fn directory(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        if self.is_directory(node) {
            Ok(node)
        } else {
            Err(Errno::NOTDIR.into())
        }
    }

    /// Where a path lies: its directory, which exists, and its name.
    fn place(&self, path: &Path) -> io::Result<Place> {
        let mut parts = names::components(path)?;
        let name = parts.pop().ok_or(Errno::INVAL)?;
        let parent: PathBuf = parts.iter().collect();
        Ok((self.directory(&parent)?, name))
    }

    fn insert(&mut self, place: Place, node: Node) -> NodeId {
        let id = NodeId(self.next_node);
        self.next_node += 1;
        self.nodes.insert(id, node);
        let sequence = self.next_sequence();
        self.names.insert(sequence, place, id);
        id
    }

    /// An empty file of a new name.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<NodeId> {
        let place = self.place(path)?;
        if self.names.find(place.0, &place.1).is_some() {
            return Err(Errno::EXIST.into());
        }
        Ok(self.insert(place, Node::File(FileImage::default())))
    }

    fn make_dir(&mut self, path: &Path) -> io::Result<()> {
        if path.parent().is_none() {
            return Ok(());
        }
        let place = self.place(path)?;
        match self.names.find(place.0, &place.1) {
            Some(found) if self.is_directory(found) => Ok(()),
            Some(_) => Err(Errno::EXIST.into()),
            None => {
                self.insert(place, Node::Directory);
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let (from_place, to_place) = (self.place(from)?, self.place(to)?);
        if to.starts_with(from) && to != from {
            return Err(Errno::INVAL.into());
        }
        let replaced = self.names.find(to_place.0, &to_place.1);
        if replaced == Some(node) {
            return Ok(());
        }
        if let Some(replaced) = replaced {
            match (self.is_directory(node), self.is_directory(replaced)) {
                (true, false) => return Err(Errno::NOTDIR.into()),
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, true) if !self.names.of_directory(replaced).is_empty() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                _ => {}
            }
        }
        let sequence = self.next_sequence();
        self.names.rename(sequence, from_place, to_place);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let place = match self.find(path).and_then(|_| self.place(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        self.remove_place(place);
        Ok(())
    }

    /// Removes a name, after every name below it: each is a change of its own.
    fn remove_place(&mut self, place: Place) {
        let Some(node) = self.names.find(place.0, &place.1) else {
            return;
        };
        for (name, _) in self.names.of_directory(node) {
            self.remove_place((node, name));
        }
        let sequence = self.next_sequence();
        self.names.remove(sequence, place);
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let directory = self.directory(path)?;
        let entries = self.names.of_directory(directory);
        Ok(entries.into_iter().map(|(name, _)| name).collect())
    }

    /// Paths of all files, sorted.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let named = self.names.walk().into_iter();
        named
            .filter(|(_, node)| !self.is_directory(*node))
            .map(|(path, _)| path)
            .collect()
    }

    /// No process has a file open any more.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
        self.forget_unreachable();
    }

    /// The medium after a power cut that kept nothing unsynced.
    pub(super) fn lose_unsynced(&mut self) {
        self.names.lose_unsynced();
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.lose_unsynced();
            }
        }
        self.close_all();
    }

    /// The medium after a power cut that kept any subset of what was unsynced.
    pub(super) fn settle(&mut self, rng: &mut Rng) {
        self.names.settle(rng);
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.settle(rng);
            }
        }
        self.close_all();
    }
}

/// So many zeros, of which memory holds few.
pub(super) fn zeros(length: u64) -> Vec<Bytes> {
    const PIECE: u64 = 1 << 16;
    let whole = Arc::new(Buffer::zeroed(1 << 16));
    let mut buffers = Vec::new();
    for _ in 0..length / PIECE {
        buffers.push(Arc::clone(&whole));
    }
    let rest = usize::try_from(length % PIECE).expect("less than a piece");
    buffers.push(Arc::new(Buffer::zeroed(rest)));
    buffers
}
