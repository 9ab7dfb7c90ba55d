//! The fault script: which operation fails, when, and how.

use std::io;
use std::path::Path;

use crate::error::IoOp;

/// What happens to an operation that a [`Fault`] meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails with this error and changes nothing.
    Fail(io::ErrorKind),
    /// It fails with this number of the operating system (`EIO` is 5, `ENOSPC` is 28) and changes
    /// nothing.
    FailErrno(i32),
    /// A write takes so many bytes and then fails with `WriteZero`; other operations just fail.
    ShortWrite(usize),
    /// A sync fails with `EIO`, and what it should have made durable never will be, whatever a
    /// later sync says, while reads go on to see it (L-W1). Other operations just fail.
    LoseUnsynced,
}

/// One line of the fault script. Every condition that is set must hold.
#[derive(Clone, Debug)]
pub struct Fault {
    op: Option<IoOp>,
    part_of_path: String,
    skip: u64,
    for_ever: bool,
    effect: Effect,
}

impl Fault {
    /// Meets the next operation of this kind on any path, once.
    #[must_use]
    pub fn at(op: IoOp, effect: Effect) -> Fault {
        Fault {
            op: Some(op),
            ..Fault::at_any(effect)
        }
    }

    /// Meets the next operation of any kind that has a path, once.
    #[must_use]
    pub fn at_any(effect: Effect) -> Fault {
        Fault {
            op: None,
            part_of_path: String::new(),
            skip: 0,
            for_ever: false,
            effect,
        }
    }

    /// Only where the path, as it was opened or given, contains `part`.
    #[must_use]
    pub fn on(mut self, part: &str) -> Fault {
        part.clone_into(&mut self.part_of_path);
        self
    }

    /// Lets so many matching operations pass first.
    #[must_use]
    pub fn after(mut self, skipped: u64) -> Fault {
        self.skip = skipped;
        self
    }

    /// Stays, instead of meeting one operation.
    #[must_use]
    pub fn for_ever(mut self) -> Fault {
        self.for_ever = true;
        self
    }
}

/// The faults that are left, in the order they were given.
#[derive(Debug, Default)]
pub(super) struct Script(Vec<Fault>);

impl Script {
    pub(super) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The effect of the first fault that meets an operation; those behind it do not count it.
    pub(super) fn meets(&mut self, op: IoOp, paths: &[&Path]) -> Option<Effect> {
        let mut effect = None;
        self.0.retain_mut(|fault| {
            let on_path = |path: &&Path| path.to_string_lossy().contains(&fault.part_of_path);
            let matches = fault.op.is_none_or(|wanted| wanted == op) && paths.iter().any(on_path);
            if !matches || effect.is_some() {
                return true;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return true;
            }
            effect = Some(fault.effect);
            fault.for_ever
        });
        effect
    }
}

impl Effect {
    /// The error the caller sees.
    pub(super) fn error(self) -> io::Error {
        match self {
            Effect::Fail(kind) => kind.into(),
            Effect::FailErrno(number) => io::Error::from_raw_os_error(number),
            Effect::ShortWrite(_) => io::ErrorKind::WriteZero.into(),
            Effect::LoseUnsynced => rustix::io::Errno::IO.into(),
        }
    }
}
