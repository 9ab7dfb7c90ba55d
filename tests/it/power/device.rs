//! A block device that records what it is told: a file in userspace behind a loop device.
//!
//! `DIR/fuse/disk` is the device. What programs append to `DIR/fuse/notes` gets its place in the
//! same record, so that it is known of every acknowledgement before which write the world had it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use tempfile::TempDir;

use super::record::{Record, Write};
use crate::harness::{run, scratch};

/// Size of every device; only what is written takes memory.
pub(super) const BYTES: u64 = 512 << 20;
/// How long something that ended may hold on to a mount.
const PATIENCE: Duration = Duration::from_secs(10);
const DISK: INodeNo = INodeNo(2);
const NOTES: INodeNo = INodeNo(3);
/// The bits of fallocate that leave zeroes: punch a hole, zero a range.
const ZEROING: i32 = 0x02 | 0x10;

/// What the device was told, shared by the threads that serve it.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Record>>);

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }
}

/// The files of the recorder.
#[derive(Debug)]
struct Files {
    shared: Shared,
    /// Writes are answered by another thread, so that other requests may arrive between.
    answers: Sender<Answer>,
}

type Answer = (usize, u32, ReplyWrite);

fn answer(shared: &Shared, answers: &Receiver<Answer>) {
    for (began, bytes, reply) in answers {
        shared.record().write_ended(began);
        reply.written(bytes);
    }
}

impl Files {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let record = self.shared.record();
        let (kind, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0),
            DISK => (FileType::RegularFile, BYTES),
            _ => (FileType::RegularFile, record.noted().len() as u64),
        };
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o777,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // OK because without it requests only follow one another more often.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            Some("disk") => DISK,
            Some("notes") => NOTES,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&Duration::ZERO, &self.attributes(ino), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let record = self.shared.record();
        if ino == DISK {
            let length = u64::from(size).min(BYTES.saturating_sub(offset));
            let length = usize::try_from(length).unwrap();
            return reply.data(&record.now().read(offset, length));
        }
        let rest = record.noted().get(usize::try_from(offset).unwrap()..);
        let rest = rest.unwrap_or_default();
        reply.data(&rest[..rest.len().min(size as usize)]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = u32::try_from(data.len()).unwrap();
        if ino == DISK {
            let write = Write::Bytes(offset, data.into());
            let began = self.shared.record().write_began(write);
            self.answers.send((began, bytes, reply)).unwrap();
        } else {
            self.shared.record().note(data);
            reply.written(bytes);
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if ino == DISK {
            let mut record = self.shared.record();
            let began = record.flush_began();
            record.flush_ended(began);
        }
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & ZEROING == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut record = self.shared.record();
        let began = record.write_began(Write::Zeroes(offset..(offset + length).min(BYTES)));
        record.write_ended(began);
        drop(record);
        reply.ok();
    }
}

/// A file system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }
}

/// A device with power, and its file system where one is mounted.
pub(super) struct Device {
    shared: Shared,
    dir: TempDir,
    /// The loop device, once there is one.
    node: String,
    mounted: bool,
    session: Option<BackgroundSession>,
}

impl Device {
    /// Powers a device on.
    #[track_caller]
    pub(super) fn on(record: Record) -> Device {
        Device::try_on(record).unwrap_or_else(|missing| panic!("{missing}"))
    }

    /// As [`Device::on`]; the error says what this machine does not have.
    fn try_on(record: Record) -> Result<Device, String> {
        let (shared, dir) = (Shared(Arc::new(Mutex::new(record))), scratch());
        for name in ["fuse", "mnt"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let (answers, received) = channel();
        let answering = shared.clone();
        // The thread ends when the files go away, and the sender with them.
        std::thread::spawn(move || answer(&answering, &received));
        let files = Files {
            shared: shared.clone(),
            answers,
        };
        let mount = fuser::spawn_mount(files, dir.path().join("fuse"), &Config::default());
        let session =
            mount.map_err(|e| format!("no mount of FUSE, which needs root and /dev/fuse: {e}"))?;
        let mut device = Device {
            shared,
            dir,
            node: String::new(),
            mounted: false,
            session: Some(session),
        };
        let disk = device.dir.path().join("fuse/disk");
        let loops = ["--find", "--show", "--direct-io=on", disk.to_str().unwrap()];
        let ended = run("losetup", &loops);
        if ended.code != Some(0) {
            return Err(format!("no loop device: {}", ended.stderr.trim()));
        }
        device.node = ended.stdout.trim().to_owned();
        Ok(device)
    }

    /// A new device with a new file system, mounted.
    #[track_caller]
    pub(super) fn formatted(kind: Kind) -> Device {
        Device::try_formatted(kind).unwrap_or_else(|missing| panic!("{missing}"))
    }

    /// As [`Device::formatted`]; the error says what this machine does not have.
    #[track_caller]
    pub(super) fn try_formatted(kind: Kind) -> Result<Device, String> {
        let mut device = Device::try_on(Record::default())?;
        let force = if kind == Kind::Ext4 { "-F" } else { "-f" };
        let program = format!("mkfs.{}", kind.name());
        run(&program, &["-q", force, &device.node]).ok();
        let mounted = device.mount(kind);
        let known = std::fs::read_to_string("/proc/filesystems").unwrap();
        if !known.split_whitespace().any(|word| word == kind.name()) {
            return Err(format!("no {} in this kernel", kind.name()));
        }
        mounted.unwrap_or_else(|e| panic!("{e}"));
        Ok(device)
    }

    /// Mounts what is on the device, as a machine does that comes back.
    pub(super) fn mount(&mut self, kind: Kind) -> Result<(), String> {
        let dir = self.dir.path().join("mnt");
        let args = ["-t", kind.name(), &self.node, dir.to_str().unwrap()];
        let ended = run("mount", &args);
        self.mounted = ended.code == Some(0);
        self.mounted.then_some(()).ok_or(format!("{ended:#?}"))
    }

    /// A path on the mounted file system.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    /// The file whose bytes get their place in the record.
    pub(super) fn notes(&self) -> PathBuf {
        self.dir.path().join("fuse/notes")
    }

    /// Says something to the world outside.
    pub(super) fn note(&self, text: &str) {
        self.shared.record().note(text.as_bytes());
    }

    /// Acknowledgements noted so far.
    pub(super) fn kept(&self) -> usize {
        let record = self.shared.record();
        record
            .noted()
            .windows(4)
            .filter(|word| *word == b"kept")
            .count()
    }

    /// Events so far.
    pub(super) fn position(&self) -> usize {
        self.shared.record().length()
    }

    /// Unmounts, and gives what the device was told.
    #[track_caller]
    pub(super) fn off(mut self) -> Record {
        self.stop();
        std::mem::take(&mut *self.shared.record())
    }

    fn stop(&mut self) {
        if std::mem::take(&mut self.mounted) {
            unmount(&self.dir.path().join("mnt"));
        }
        if let Some(session) = self.session.take() {
            if !self.node.is_empty() {
                run("losetup", &["--detach", &self.node]);
            }
            unmount(&self.dir.path().join("fuse"));
            // OK because whoever reads the record finds what it holds.
            let _ = session.join();
        }
    }
}

/// Unmounts what a killed process or a loop device may hold for a moment after its end.
#[track_caller]
fn unmount(dir: &Path) {
    let until = Instant::now() + PATIENCE;
    let mut ended = run("umount", &[dir]);
    while ended.code != Some(0) && Instant::now() < until {
        ended = run("umount", &[dir]);
    }
    assert!(
        ended.code == Some(0) || std::thread::panicking(),
        "{ended:#?}"
    );
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop();
    }
}
