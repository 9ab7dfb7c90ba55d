//! Races made certain: something happens exactly between two operations of a reader.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use super::*;
use seawall_wal::disk::{Completion, FileId, Operation, Output, Token};

type Hook = Box<dyn FnOnce() + Send>;

/// A disk that runs a hook once, before the next read of a file whose path ends in `name`.
struct Hooked {
    inner: Arc<SimDisk>,
    paths: Mutex<HashMap<FileId, PathBuf>>,
    opening: Mutex<HashMap<Token, PathBuf>>,
    hook: Mutex<Option<(&'static str, Hook)>>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl Hooked {
    fn before_read_of(&self, name: &'static str, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().unwrap() = Some((name, Box::new(hook)));
    }

    fn due(&self, file: FileId) -> Option<Hook> {
        let paths = self.paths.lock().unwrap();
        let mut hook = self.hook.lock().unwrap();
        let (name, _) = hook.as_ref()?;
        let hit = paths.get(&file)?.ends_with(name);
        hit.then(|| hook.take().map(|(_, hook)| hook)).flatten()
    }
}

impl Disk for Hooked {
    fn submit(&self, operation: Operation) -> Token {
        if let Operation::Read { file, .. } = &operation
            && let Some(hook) = self.due(*file)
        {
            hook();
        }
        let opened = match &operation {
            Operation::Open { path, .. } => Some(path.clone()),
            _ => None,
        };
        let token = self.inner.submit(operation);
        if let Some(path) = opened {
            self.opening.lock().unwrap().insert(token, path);
        }
        token
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.inner.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        let completion = self.inner.wait(token);
        let path = self.opening.lock().unwrap().remove(&token);
        if let (Ok(Output::File(file)), Some(path)) = (&completion, path) {
            self.paths.lock().unwrap().insert(*file, path);
        }
        completion
    }

    fn backend(&self) -> &'static str {
        "hooked"
    }

    fn is_stepped(&self) -> bool {
        true
    }
}

fn hooked() -> (Arc<Hooked>, Arc<Volume>) {
    let disk = Arc::new(Hooked {
        inner: SimDisk::new(1),
        paths: Mutex::default(),
        opening: Mutex::default(),
        hook: Mutex::default(),
    });
    let place = Place {
        disk: disk.clone(),
        ..Place::simulated(&disk.inner)
    };
    let volume = place.primary();
    put(&volume, 1, 1);
    volume.advance_tail(lsn(1)).unwrap();
    (disk, volume)
}

#[test]
fn a_reader_that_a_checkpoint_overtakes_between_block_and_sum_looks_again() {
    for part in ["image", "sums"] {
        let (disk, volume) = hooked();
        let overtaking = Arc::clone(&volume);
        disk.before_read_of(part, move || {
            put(&overtaking, 1, 2);
            overtaking.advance_tail(lsn(2)).unwrap();
        });
        // Old or new, whole, and never damage.
        assert_eq!(get(&volume, 1), 2, "before the {part}");
        assert_eq!(volume.base_state().untrusted, None);
    }
}

#[test]
fn a_part_of_a_block_is_completed_from_the_version_it_follows() {
    let (disk, volume) = hooked();
    let overtaking = Arc::clone(&volume);
    disk.before_read_of("sums", move || {
        // The write that waits for the old block holds the gate, so this one cannot slip in.
        assert!(overtaking.newest.is_gated(1));
    });
    volume
        .write(BLOCK as u64 + 10, &[9], Durability::Durable)
        .unwrap();
    let mut bytes = [0; BLOCK];
    volume.read(BLOCK as u64, &mut bytes).unwrap();
    assert_eq!((bytes[9], bytes[10], bytes[11]), (1, 9, 1));
}
