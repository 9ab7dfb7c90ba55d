//! The running disk: handles, operations in flight, boundaries and faults over the medium.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::super::file::{bad_handle, used_token};
use super::super::{Buffer, Bytes, Completion, FileId, OpenMode, Operation, Output, Token};
use super::fault::{Effect, Script};
use super::media::{Change, Media, zeros};
use super::names::NodeId;
use super::rng::Rng;
use crate::error::IoOp;

#[derive(Debug)]
struct Handle {
    node: NodeId,
    path: PathBuf,
    writable: bool,
    direct: bool,
}

#[derive(Debug)]
struct InFlight {
    token: Token,
    operation: Operation,
    /// Last change that was complete at submission: what a sync makes durable.
    covers: u64,
}

/// Where the machine stops.
#[derive(Debug, Default)]
enum Boundary {
    #[default]
    None,
    Syncs(u64),
    Changes(u64),
    /// It stopped. What was in flight then may or may not have reached the medium.
    Frozen(Vec<Change>),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) media: Media,
    pub(super) faults: Script,
    rng: Rng,
    next_id: u64,
    handles: BTreeMap<FileId, Handle>,
    locks: BTreeMap<NodeId, FileId>,
    in_flight: Vec<InFlight>,
    completions: BTreeMap<Token, Completion>,
    boundary: Boundary,
    syncs: u64,
    changes: u64,
    descriptors_max: usize,
}

fn frozen() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

impl State {
    pub(super) fn new(media: Media, rng: Rng, next_id: u64) -> State {
        State {
            media,
            faults: Script::default(),
            rng,
            next_id,
            handles: BTreeMap::new(),
            locks: BTreeMap::new(),
            in_flight: Vec::new(),
            completions: BTreeMap::new(),
            boundary: Boundary::None,
            syncs: 0,
            changes: 0,
            descriptors_max: 0,
        }
    }

    pub(super) fn rng(&self) -> Rng {
        self.rng.clone()
    }

    /// Ids of a crashed disk go on, so that a handle from before the crash is not taken for a new
    /// one.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// What the open handles would take of an operating system: one descriptor, and a second one
    /// where something goes past the page cache.
    fn descriptors(&self) -> usize {
        let handles = self.handles.values();
        handles.map(|handle| 1 + usize::from(handle.direct)).sum()
    }

    pub(super) fn descriptors_max(&self) -> usize {
        self.descriptors_max
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn is_frozen(&self) -> bool {
        matches!(self.boundary, Boundary::Frozen(_))
    }

    pub(super) fn freeze_after_syncs(&mut self, syncs: u64) {
        if !self.is_frozen() {
            self.boundary = Boundary::Syncs(syncs);
        }
    }

    pub(super) fn freeze_after_changes(&mut self, changes: u64) {
        if !self.is_frozen() {
            self.boundary = Boundary::Changes(changes);
        }
    }

    pub(super) fn submit(&mut self, operation: Operation) -> Token {
        let token = Token(self.fresh_id());
        if self.is_frozen() {
            self.completions.insert(token, Err(frozen()));
        } else {
            self.in_flight.push(InFlight {
                token,
                operation,
                covers: self.media.sequence(),
            });
        }
        token
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn take(&mut self, token: Token) -> Option<Completion> {
        self.completions.remove(&token)
    }

    pub(super) fn wait(&mut self, token: Token) -> Completion {
        loop {
            if let Some(completion) = self.take(token) {
                return completion;
            }
            if self.in_flight.iter().all(|flying| flying.token != token) {
                return Err(used_token());
            }
            self.step();
        }
    }

    /// Carries out one operation in flight, drawn from the seed.
    pub(super) fn step(&mut self) {
        if !self.in_flight.is_empty() {
            let index = self.rng.index(self.in_flight.len());
            self.run(index);
        }
    }

    fn run(&mut self, index: usize) {
        if let Operation::Close { file } = self.in_flight[index].operation
            && let Some(earlier) = self.earlier_on(file, self.in_flight[index].token)
        {
            return self.run(earlier);
        }
        if self.reaches_boundary(index) {
            return self.freeze();
        }
        let flying = self.in_flight.swap_remove(index);
        let completion = self.perform(flying.operation, flying.covers);
        self.completions.insert(flying.token, completion);
    }

    /// An operation on the handle that a close must finish first.
    fn earlier_on(&self, file: FileId, close: Token) -> Option<usize> {
        self.in_flight
            .iter()
            .position(|flying| flying.token < close && needs(&flying.operation, file))
    }

    fn reaches_boundary(&self, index: usize) -> bool {
        let operation = &self.in_flight[index].operation;
        match self.boundary {
            Boundary::Syncs(syncs) => is_sync(operation) && self.syncs >= syncs,
            Boundary::Changes(changes) => {
                (is_sync(operation) || self.change_of(operation).is_some())
                    && self.changes >= changes
            }
            Boundary::None | Boundary::Frozen(_) => false,
        }
    }

    fn freeze(&mut self) {
        self.boundary = Boundary::Frozen(self.changes_in_flight());
        for flying in std::mem::take(&mut self.in_flight) {
            self.completions.insert(flying.token, Err(frozen()));
        }
    }

    fn changes_in_flight(&self) -> Vec<Change> {
        let flying = self.in_flight.iter();
        flying
            .filter_map(|flying| self.change_of(&flying.operation))
            .collect()
    }

    /// The medium as it is when some of the operations in flight took place, in any order.
    pub(super) fn media_with_some_in_flight(&self, rng: &mut Rng) -> Media {
        let mut changes = match &self.boundary {
            Boundary::Frozen(changes) => changes.clone(),
            _ => self.changes_in_flight(),
        };
        let mut media = self.media.clone();
        let weight = rng.pick(&[0, 8, 16]);
        while !changes.is_empty() {
            let change = changes.swap_remove(rng.index(changes.len()));
            if rng.chance(weight) {
                // OK to ignore: an operation that cannot take place did not.
                let _ = media.apply(&change);
            }
        }
        media
    }

    /// What an operation would do to the medium; `None` where it does nothing or is refused.
    fn change_of(&self, operation: &Operation) -> Option<Change> {
        let writable = |file: &FileId| {
            let handle = self.handles.get(file)?;
            handle.writable.then_some(handle.node)
        };
        match operation {
            Operation::Open { path, mode, .. } => {
                let creates = matches!(mode, OpenMode::CreateNew | OpenMode::CreateOrOpen)
                    && self.media.find(path).is_err();
                creates.then(|| Change::Create { path: path.clone() })
            }
            Operation::Write {
                file,
                offset,
                buffers,
                ..
            } => Some(Change::Write {
                node: writable(file)?,
                offset: *offset,
                buffers: buffers.clone(),
            }),
            Operation::WriteZeros {
                file,
                offset,
                length,
            } => Some(Change::Write {
                node: writable(file)?,
                offset: *offset,
                buffers: zeros(*length),
            }),
            Operation::SetLength { file, length } => Some(Change::SetLength {
                node: writable(file)?,
                length: *length,
            }),
            Operation::PunchHole {
                file,
                offset,
                length,
            } => Some(Change::PunchHole {
                node: writable(file)?,
                offset: *offset,
                length: *length,
            }),
            Operation::Copy {
                from,
                from_offset,
                file,
                offset,
                length,
            } => Some(Change::Write {
                node: writable(file)?,
                offset: *offset,
                buffers: vec![self.bytes_of(*from, *from_offset, *length).ok()?],
            }),
            Operation::MakeDir { path } => Some(Change::MakeDir { path: path.clone() }),
            Operation::Rename { from, to } => Some(Change::Rename {
                from: from.clone(),
                to: to.clone(),
            }),
            Operation::Remove { path } => Some(Change::Remove { path: path.clone() }),
            Operation::Close { .. }
            | Operation::Read { .. }
            | Operation::Sync { .. }
            | Operation::Length { .. }
            | Operation::NextData { .. }
            | Operation::Lock { .. }
            | Operation::List { .. }
            | Operation::SyncDir { .. } => None,
        }
    }

    fn perform(&mut self, operation: Operation, covers: u64) -> Completion {
        let effect = self.fault_for(&operation)?;
        let change = self.change_of(&operation);
        self.syncs += u64::from(is_sync(&operation));
        self.changes += u64::from(is_sync(&operation) || change.is_some());
        if let Some(effect) = effect {
            self.suffer(effect, change.as_ref(), &operation);
            return Err(effect.error());
        }
        match operation {
            Operation::Open { path, mode, direct } => {
                self.open(path, mode, direct).map(Output::File)
            }
            Operation::Close { file } => self.close(file),
            Operation::Read {
                file,
                offset,
                buffer,
            } => self.read(file, offset, buffer),
            Operation::Write { file, durable, .. } => {
                let node = self.handle(file)?.node;
                let before = self.media.sequence();
                let done = self.apply(change.ok_or(Errno::BADF)?)?;
                if durable {
                    self.media.sync_since(node, before)?;
                }
                Ok(done)
            }
            Operation::WriteZeros { file, .. } | Operation::PunchHole { file, .. } => {
                self.handle(file)?;
                self.apply(change.ok_or(Errno::BADF)?)
            }
            Operation::Copy {
                from,
                from_offset,
                file,
                length,
                ..
            } => {
                self.handle(file)?;
                self.bytes_of(from, from_offset, length)?;
                self.apply(change.ok_or(Errno::BADF)?)
            }
            Operation::SetLength { file, .. } => {
                self.handle(file)?;
                self.apply(change.ok_or(Errno::INVAL)?)
            }
            Operation::MakeDir { .. } | Operation::Rename { .. } | Operation::Remove { .. } => {
                self.apply(change.ok_or(Errno::INVAL)?)
            }
            Operation::Sync { file } => {
                let node = self.handle(file)?.node;
                self.media.sync(node, covers).map(|()| Output::Done)
            }
            Operation::SyncDir { path } => {
                self.media.sync_dir(&path, covers).map(|()| Output::Done)
            }
            Operation::Length { file } => {
                let node = self.handle(file)?.node;
                Ok(Output::Length(self.media.file(node)?.size()))
            }
            Operation::NextData { file, offset } => {
                let node = self.handle(file)?.node;
                Ok(Output::Data(self.media.file(node)?.next_data(offset)))
            }
            Operation::Lock { file } => self.lock(file),
            Operation::List { path } => self.media.list(&path).map(Output::Names),
        }
    }

    /// The scripted effect on an operation; an unknown handle fails before the script is asked.
    fn fault_for(&mut self, operation: &Operation) -> io::Result<Option<Effect>> {
        let Some((op, first, second)) = describe(operation) else {
            return Ok(None);
        };
        let of_handle = match handle_of(operation) {
            Some(file) => Some(
                self.handles
                    .get(&file)
                    .ok_or_else(bad_handle)?
                    .path
                    .as_path(),
            ),
            None => None,
        };
        let paths: Vec<&Path> = [of_handle, first, second].into_iter().flatten().collect();
        Ok(self.faults.meets(op, &paths))
    }

    /// What a faulty operation does to the medium before it fails.
    fn suffer(&mut self, effect: Effect, change: Option<&Change>, operation: &Operation) {
        match (effect, change, operation) {
            (
                Effect::ShortWrite(limit),
                Some(Change::Write {
                    node,
                    offset,
                    buffers,
                }),
                _,
            ) => {
                // OK to ignore: the operation fails either way.
                let _ = self.media.write(*node, *offset, buffers, limit);
            }
            (Effect::LoseUnsynced, _, Operation::Sync { file }) => {
                if let Some(node) = self.handles.get(file).map(|handle| handle.node)
                    && let Ok(image) = self.media.file_mut(node)
                {
                    image.forget_unsynced();
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, change: Change) -> Completion {
        self.media.apply(&change).map(|()| Output::Done)
    }

    fn handle(&self, file: FileId) -> io::Result<&Handle> {
        self.handles.get(&file).ok_or_else(bad_handle)
    }

    fn open(&mut self, path: PathBuf, mode: OpenMode, direct: bool) -> io::Result<FileId> {
        let node = match (self.media.find(&path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(Errno::EXIST.into()),
            (Ok(node), _) => node,
            (Err(error), OpenMode::CreateNew | OpenMode::CreateOrOpen)
                if error.kind() == ErrorKind::NotFound =>
            {
                self.media.create(&path)?
            }
            (Err(error), _) => return Err(error),
        };
        self.media.file(node)?;
        self.media.hold_open(node);
        let id = FileId(self.fresh_id());
        let writable = mode != OpenMode::Read;
        self.handles.insert(
            id,
            Handle {
                node,
                path,
                writable,
                direct,
            },
        );
        self.descriptors_max = self.descriptors_max.max(self.descriptors());
        Ok(id)
    }

    fn close(&mut self, file: FileId) -> Completion {
        let handle = self.handles.remove(&file).ok_or_else(bad_handle)?;
        if self.locks.get(&handle.node) == Some(&file) {
            self.locks.remove(&handle.node);
        }
        self.media.release(handle.node);
        Ok(Output::Done)
    }

    fn read(&self, file: FileId, offset: u64, mut buffer: Buffer) -> Completion {
        let handle = self.handle(file)?;
        let image = self.media.file(handle.node)?;
        if image.is_unreadable(offset, buffer.len() as u64) {
            return Err(Errno::IO.into());
        }
        let filled = match handle.direct && !handle.writable {
            true => image.read_medium(offset, &mut buffer),
            false => image.read(offset, &mut buffer),
        };
        Ok(Output::Read { buffer, filled })
    }

    /// Bytes that a copy takes, all of them.
    fn bytes_of(&self, file: FileId, offset: u64, length: u64) -> io::Result<Bytes> {
        let image = self.media.file(self.handle(file)?.node)?;
        if offset
            .checked_add(length)
            .is_none_or(|end| end > image.size())
        {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if image.is_unreadable(offset, length) {
            return Err(Errno::IO.into());
        }
        let mut bytes = Buffer::zeroed(usize::try_from(length).map_err(io::Error::other)?);
        image.read(offset, &mut bytes);
        Ok(Arc::new(bytes))
    }

    fn lock(&mut self, file: FileId) -> Completion {
        let node = self.handle(file)?.node;
        match self.locks.get(&node) {
            Some(holder) if *holder != file => Err(Errno::WOULDBLOCK.into()),
            _ => {
                self.locks.insert(node, file);
                Ok(Output::Done)
            }
        }
    }

    /// Changes bytes behind everybody's back.
    pub(super) fn rot(
        &mut self,
        path: &Path,
        offset: u64,
        length: usize,
        change: impl Fn(usize, u8) -> u8,
    ) -> io::Result<()> {
        let node = self.media.find(path)?;
        let image = self.media.file_mut(node)?;
        let end = offset.checked_add(length as u64);
        if end.is_none_or(|end| end > image.size()) {
            return Err(Errno::INVAL.into());
        }
        for index in 0..length {
            image.rot(offset + index as u64, |byte| change(index, byte));
        }
        Ok(())
    }
}

fn is_sync(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Sync { .. } | Operation::SyncDir { .. }
    )
}

fn handle_of(operation: &Operation) -> Option<FileId> {
    match operation {
        Operation::Close { file }
        | Operation::Read { file, .. }
        | Operation::Write { file, .. }
        | Operation::Sync { file }
        | Operation::Length { file }
        | Operation::SetLength { file, .. }
        | Operation::WriteZeros { file, .. }
        | Operation::PunchHole { file, .. }
        | Operation::Copy { file, .. }
        | Operation::NextData { file, .. }
        | Operation::Lock { file } => Some(*file),
        Operation::Open { .. }
        | Operation::List { .. }
        | Operation::MakeDir { .. }
        | Operation::Rename { .. }
        | Operation::Remove { .. }
        | Operation::SyncDir { .. } => None,
    }
}

/// Whether the handle must stay open for an operation.
fn needs(operation: &Operation, file: FileId) -> bool {
    let reads = matches!(operation, Operation::Copy { from, .. } if *from == file);
    reads || handle_of(operation) == Some(file)
}

/// Kind and paths of an operation as the fault script sees it; closing never fails.
fn describe(operation: &Operation) -> Option<(IoOp, Option<&Path>, Option<&Path>)> {
    Some(match operation {
        Operation::Close { .. } => return None,
        Operation::Open { path, .. } => (IoOp::Open, Some(path), None),
        Operation::Read { .. } => (IoOp::Read, None, None),
        Operation::Write { .. } | Operation::WriteZeros { .. } => (IoOp::Write, None, None),
        Operation::Sync { .. } => (IoOp::Sync, None, None),
        Operation::Length { .. } => (IoOp::Length, None, None),
        Operation::SetLength { .. } => (IoOp::SetLength, None, None),
        Operation::PunchHole { .. } => (IoOp::PunchHole, None, None),
        Operation::Copy { .. } => (IoOp::Copy, None, None),
        Operation::NextData { .. } => (IoOp::NextData, None, None),
        Operation::Lock { .. } => (IoOp::Lock, None, None),
        Operation::List { path } => (IoOp::List, Some(path), None),
        Operation::MakeDir { path } => (IoOp::MakeDir, Some(path), None),
        Operation::Rename { from, to } => (IoOp::Rename, Some(from), Some(to)),
        Operation::Remove { path } => (IoOp::Remove, Some(path), None),
        Operation::SyncDir { path } => (IoOp::SyncDir, Some(path), None),
    })
}
