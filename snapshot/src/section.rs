//! Snapshot's section of meta: which base is in use, what it holds, and what is under way.

use std::path::Path;

use byteorder::{ByteOrder, LittleEndian};
use seawall_wal::{Damage, Lsn, MetaContents, Section, SectionId};

use crate::error::Error;
use crate::sums::Digest;

/// Durable note that a checkpoint is under way (D9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// The checkpoint that it leads to.
    pub(crate) target: Lsn,
    /// Digest of the blocks that it does not touch.
    pub(crate) rest: Digest,
}

/// Durable note that a base is being installed in place (D12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incomplete {
    /// Session that installs it.
    pub(crate) session: [u8; 16],
    /// LSN of the base that it brings.
    pub(crate) base: Lsn,
}

/// What the section says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BaseFacts {
    /// Number of the folder in `base/`.
    pub(crate) base: u64,
    /// Last LSN wholly in the image.
    pub(crate) checkpoint: Lsn,
    /// Digest of the state at the checkpoint.
    pub(crate) digest: Digest,
    /// A checkpoint under way.
    pub(crate) intent: Option<Intent>,
    /// An install in place under way.
    pub(crate) incomplete: Option<Incomplete>,
    /// Damaged blocks are being written again as they are at the checkpoint: all of them have their
    /// versions behind this LSN.
    pub(crate) repair: Option<Lsn>,
    /// First block that the scrub may not have looked at.
    pub(crate) scrubbed: u64,
}

/// The checkpoint that a meta names, without its volume being opened; `None` when its section of
/// the base says nothing that can be read.
#[must_use]
pub fn checkpoint_of(contents: &MetaContents) -> Option<Lsn> {
    let section = contents.sections.get(&SectionId::Snapshot)?;
    BaseFacts::decode(section)
        .ok()
        .map(|facts| facts.checkpoint)
}

/// Version of the section that this build writes.
pub(crate) const VERSION: u16 = 1;

const FLAG_INTENT: u16 = 1;
const FLAG_INCOMPLETE: u16 = 2;
const FLAG_REPAIR: u16 = 4;

pub(crate) const FLAGS_AT: usize = 0;
pub(crate) const RESERVED_AT: usize = 2;
pub(crate) const BASE_AT: usize = 8;
pub(crate) const CHECKPOINT_AT: usize = 16;
pub(crate) const DIGEST_AT: usize = 24;
pub(crate) const INTENT_TARGET_AT: usize = 40;
pub(crate) const INTENT_REST_AT: usize = 48;
pub(crate) const INCOMPLETE_SESSION_AT: usize = 64;
pub(crate) const INCOMPLETE_BASE_AT: usize = 80;
pub(crate) const REPAIR_AFTER_AT: usize = 88;
pub(crate) const SCRUBBED_AT: usize = 96;
pub(crate) const SECTION_BYTES: usize = 104;

impl BaseFacts {
    /// The facts of a new volume: base 1, before LSN 1, all zeros.
    pub(crate) const NEW: BaseFacts = BaseFacts {
        base: 1,
        checkpoint: Lsn::ZERO,
        digest: Digest::ZERO,
        intent: None,
        incomplete: None,
        repair: None,
        scrubbed: 0,
    };

    /// The section as it lies in meta.
    pub(crate) fn encode(&self) -> Section {
        let mut bytes = vec![0; SECTION_BYTES];
        let mut flags = 0;
        LittleEndian::write_u64(&mut bytes[BASE_AT..], self.base);
        LittleEndian::write_u64(&mut bytes[CHECKPOINT_AT..], self.checkpoint.get());
        bytes[DIGEST_AT..INTENT_TARGET_AT].copy_from_slice(&self.digest.to_bytes());
        if let Some(intent) = self.intent {
            flags |= FLAG_INTENT;
            LittleEndian::write_u64(&mut bytes[INTENT_TARGET_AT..], intent.target.get());
            bytes[INTENT_REST_AT..INCOMPLETE_SESSION_AT].copy_from_slice(&intent.rest.to_bytes());
        }
        if let Some(incomplete) = self.incomplete {
            flags |= FLAG_INCOMPLETE;
            bytes[INCOMPLETE_SESSION_AT..INCOMPLETE_BASE_AT].copy_from_slice(&incomplete.session);
            LittleEndian::write_u64(&mut bytes[INCOMPLETE_BASE_AT..], incomplete.base.get());
        }
        if let Some(after) = self.repair {
            flags |= FLAG_REPAIR;
            LittleEndian::write_u64(&mut bytes[REPAIR_AFTER_AT..], after.get());
        }
        LittleEndian::write_u64(&mut bytes[SCRUBBED_AT..], self.scrubbed);
        LittleEndian::write_u16(&mut bytes[FLAGS_AT..], flags);
        Section {
            version: VERSION,
            bytes,
        }
    }

    /// Decodes a section that may hold anything.
    pub(crate) fn decode(section: &Section) -> Result<BaseFacts, Damage> {
        if section.version != VERSION {
            return Err(Damage::UnknownVersion {
                found: section.version,
            });
        }
        let bytes = section.bytes.as_slice();
        if bytes.len() != SECTION_BYTES {
            let found = bytes.len() as u64;
            return Err(Damage::Length { found });
        }
        let flags = LittleEndian::read_u16(&bytes[FLAGS_AT..]);
        let lsn = |at: usize| Lsn::new(LittleEndian::read_u64(&bytes[at..]));
        let field = |field, found| Damage::Field { field, found };
        if flags & !(FLAG_INTENT | FLAG_INCOMPLETE | FLAG_REPAIR) != 0 {
            return Err(field("flags", flags.into()));
        }
        if bytes[RESERVED_AT..BASE_AT].iter().any(|byte| *byte != 0) {
            return Err(field("reserved", 1));
        }
        let mut session = [0; 16];
        session.copy_from_slice(&bytes[INCOMPLETE_SESSION_AT..INCOMPLETE_BASE_AT]);
        let facts = BaseFacts {
            base: LittleEndian::read_u64(&bytes[BASE_AT..]),
            checkpoint: lsn(CHECKPOINT_AT),
            digest: Digest::from_bytes(&bytes[DIGEST_AT..]),
            intent: (flags & FLAG_INTENT != 0).then(|| Intent {
                target: lsn(INTENT_TARGET_AT),
                rest: Digest::from_bytes(&bytes[INTENT_REST_AT..]),
            }),
            incomplete: (flags & FLAG_INCOMPLETE != 0).then(|| Incomplete {
                session,
                base: lsn(INCOMPLETE_BASE_AT),
            }),
            repair: (flags & FLAG_REPAIR != 0).then(|| lsn(REPAIR_AFTER_AT)),
            scrubbed: LittleEndian::read_u64(&bytes[SCRUBBED_AT..]),
        };
        // An absent optional holds zeros, and an intent leads forward: one value, one encoding.
        if facts.encode().bytes != bytes {
            return Err(field("absent_optional", 1));
        }
        match facts.intent {
            Some(intent) if intent.target <= facts.checkpoint => {
                Err(field("intent_target", intent.target.get()))
            }
            _ => match facts.repair {
                Some(after) if after >= facts.checkpoint => Err(field("repair_after", after.get())),
                _ => Ok(facts),
            },
        }
    }

    /// Reads the section out of meta.
    pub(crate) fn of(contents: &MetaContents, volume: &Path) -> Result<BaseFacts, Error> {
        let section = contents.sections.get(&SectionId::Snapshot).cloned();
        BaseFacts::decode(&section.unwrap_or_default()).map_err(|what| {
            let path = volume.join("meta");
            Error::Log(seawall_wal::Error::corrupt(&path, 0, None, what))
        })
    }

    /// Puts the section into meta.
    pub(crate) fn store(&self, contents: &mut MetaContents) {
        contents.sections.insert(SectionId::Snapshot, self.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> BaseFacts {
        BaseFacts {
            base: 7,
            checkpoint: Lsn::new(50),
            digest: Digest(3 << 100),
            intent: Some(Intent {
                target: Lsn::new(100),
                rest: Digest(5),
            }),
            incomplete: Some(Incomplete {
                session: [9; 16],
                base: Lsn::new(120),
            }),
            repair: Some(Lsn::new(40)),
            scrubbed: 77,
        }
    }

    #[test]
    fn sections_survive_the_round_trip() {
        for facts in [
            BaseFacts::NEW,
            full(),
            BaseFacts {
                intent: None,
                ..full()
            },
        ] {
            assert_eq!(BaseFacts::decode(&facts.encode()), Ok(facts));
        }
    }

    #[test]
    fn position_zero_is_told_from_an_absent_optional() {
        let facts = BaseFacts {
            incomplete: Some(Incomplete {
                session: [0; 16],
                base: Lsn::ZERO,
            }),
            ..BaseFacts::NEW
        };
        assert_eq!(BaseFacts::decode(&facts.encode()), Ok(facts));
        assert_ne!(facts.encode(), BaseFacts::NEW.encode());
    }

    #[test]
    fn every_other_form_is_refused_by_name() {
        let mut section = full().encode();
        section.version = 2;
        assert_eq!(
            BaseFacts::decode(&section),
            Err(Damage::UnknownVersion { found: 2 })
        );
        let mut section = full().encode();
        section.bytes.push(0);
        assert_eq!(
            BaseFacts::decode(&section),
            Err(Damage::Length { found: 105 })
        );
        let damaged = |at: usize, value: u8, facts: BaseFacts| {
            let mut section = facts.encode();
            section.bytes[at] = value;
            match BaseFacts::decode(&section) {
                Err(Damage::Field { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(damaged(FLAGS_AT, 8, BaseFacts::NEW), "flags");
        assert_eq!(damaged(RESERVED_AT, 1, BaseFacts::NEW), "reserved");
        assert_eq!(
            damaged(INTENT_REST_AT, 1, BaseFacts::NEW),
            "absent_optional"
        );
        assert_eq!(damaged(INTENT_TARGET_AT, 50, full()), "intent_target");
        assert_eq!(damaged(REPAIR_AFTER_AT, 50, full()), "repair_after");
    }
}
