//! No space: the client hears ENOSPC, reads go on, and writes too once space returns (L-E1, L8).

use std::path::Path;

use tempfile::TempDir;

use super::client::{Client, Failure};
use super::server::{Server, verify};
use crate::harness::{run, scratch};

const ENOSPC: u32 = 28;
const CHUNK: usize = 256 << 10;

/// A tmpfs, unmounted when the value goes away.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts it, or `None` where the user may not.
    fn mount(size: &str) -> Option<SmallDisk> {
        let dir = scratch();
        let options = format!("size={size}");
        let path = dir.path().to_str().unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", &options, "none", path]);
        (mounted.code == Some(0)).then_some(SmallDisk(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        run("mount", &["-o", &options, self.path().to_str().unwrap()]).ok();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &[self.0.path()]);
    }
}

fn chunk(n: u64) -> Vec<u8> {
    vec![u8::try_from(n % 250).unwrap() + 1; CHUNK]
}

/// Writes and flushes chunk after chunk; gives how many were taken, and the errno that ended it.
fn fill(client: &mut Client, chunks: std::ops::Range<u64>) -> (u64, Option<u32>) {
    for n in chunks.clone() {
        let written = client.write(0, n * CHUNK as u64, &chunk(n));
        match written.and_then(|()| client.flush()) {
            Ok(()) => {}
            Err(Failure::Errno(errno)) => return (n, Some(errno)),
            Err(Failure::Gone(error)) => panic!("the connection is gone: {error}"),
        }
    }
    (chunks.end, None)
}

#[test]
fn a_full_disk_is_enospc_and_writing_goes_on_when_space_returns() {
    let Some(disk) = SmallDisk::mount("24M") else {
        println!("not shown: mounting a tmpfs needs root");
        return;
    };
    let server = Server::start(disk.path(), &["size=64M", "segment-size=1M"]);
    let mut client = server.connect();
    let (taken, errno) = fill(&mut client, 0..256);
    assert_eq!(errno, Some(ENOSPC), "{taken} chunks were taken");
    assert!(taken > 0);
    let mut other = server.connect();
    for n in 0..taken {
        assert!(
            other.read(n * CHUNK as u64, CHUNK).unwrap() == chunk(n),
            "chunk {n}"
        );
    }
    disk.resize("256M");
    assert_eq!(fill(&mut client, taken..256), (256, None));
    for n in 0..256 {
        assert!(
            other.read(n * CHUNK as u64, CHUNK).unwrap() == chunk(n),
            "chunk {n}"
        );
    }
    drop((client, other));
    server.stop();
    verify(disk.path());
}
