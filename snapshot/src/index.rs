//! Block index: which record holds the newest version of a range of blocks.

use seawall_wal::{Log, Lsn, Record, RecordKind, RecordPlace};

use crate::error::Error;
use crate::rangemap::RangeMap;

/// Where the newest version of a range of blocks lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Record that wrote it.
    pub(crate) lsn: Lsn,
    /// What the record says about the blocks.
    pub(crate) content: Content,
}

impl Version {
    /// What a record says about its blocks.
    pub(crate) fn of(place: &RecordPlace) -> Version {
        let content = match (place.kind, place.no_hole) {
            (RecordKind::Write, _) => Content::Payload { first: place.lba.0 },
            (RecordKind::WriteZeroes, true) => Content::Zeros,
            (RecordKind::WriteZeroes, false) | (RecordKind::Trim, _) => Content::Hole,
        };
        Version {
            lsn: place.lsn,
            content,
        }
    }

    /// Reads blocks from `lba` on, all of which have this version.
    pub(crate) fn read(&self, log: &Log, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        match self.content {
            Content::Payload { first } => {
                let block = u32::try_from(lba - first).expect("a record has 32-bit counts");
                Ok(log.read_blocks(self.lsn, block, out)?)
            }
            Content::Zeros | Content::Hole => {
                out.fill(0);
                Ok(())
            }
        }
    }
}

/// What a record says about its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Its payload; block `lba` of the volume is block `lba - first` of the record.
    Payload {
        /// First block of the record.
        first: u64,
    },
    /// Zeros that keep their space.
    Zeros,
    /// Zeros that give their space back.
    Hole,
}

/// Newest version per block, of the records it was told of.
pub(crate) type Index = RangeMap<Version>;

impl Index {
    /// The index of records in LSN order.
    pub(crate) fn of(places: &[RecordPlace]) -> Index {
        let mut index = Index::default();
        for place in places {
            index.note(place);
        }
        index
    }

    /// Takes the next record in LSN order in.
    pub(crate) fn note(&mut self, place: &RecordPlace) {
        self.note_part(place, place.lba.0..place.lba.0 + u64::from(place.blocks));
    }

    /// As [`Index::note`], for some of the blocks of the record.
    pub(crate) fn note_part(&mut self, place: &RecordPlace, blocks: std::ops::Range<u64>) {
        self.insert(blocks, Version::of(place));
    }

    /// Gives `range` the version where it has none of a higher LSN: one of the same LSN is of a
    /// record that was cut (D4). What was replaced, if that was one version of just this range.
    pub(crate) fn note_newer(
        &mut self,
        range: std::ops::Range<u64>,
        version: Version,
    ) -> Option<Version> {
        self.insert_where(range, version, |old| old.lsn <= version.lsn)
    }
}

/// The place of a record that is not in the log yet.
pub(crate) fn place_of(record: &Record) -> RecordPlace {
    let header = record.header();
    RecordPlace {
        lsn: header.lsn,
        kind: header.kind,
        no_hole: header.no_hole,
        lba: header.lba,
        blocks: header.blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_wal::Lba;

    fn place(lsn: u64, kind: RecordKind, lba: u64, blocks: u32) -> RecordPlace {
        RecordPlace {
            lsn: Lsn::new(lsn),
            kind,
            no_hole: false,
            lba: Lba(lba),
            blocks,
        }
    }

    #[test]
    fn the_newest_version_wins_and_older_ends_stay() {
        let index = Index::of(&[
            place(1, RecordKind::Write, 0, 8),
            place(2, RecordKind::Trim, 2, 2),
        ]);
        let found: Vec<_> = index
            .pieces(0..10)
            .map(|(range, version)| (range, version.map(|v| v.lsn.get())))
            .collect();
        assert_eq!(
            found,
            [
                (0..2, Some(1)),
                (2..4, Some(2)),
                (4..8, Some(1)),
                (8..10, None)
            ]
        );
        let (_, version) = index.piece(5, 8);
        assert_eq!(version.unwrap().content, Content::Payload { first: 0 });
    }

    #[test]
    fn a_version_that_comes_late_fills_only_what_is_older() {
        let mut index = Index::of(&[
            place(1, RecordKind::Write, 0, 2),
            place(3, RecordKind::Write, 4, 2),
        ]);
        let late = Version::of(&place(2, RecordKind::Trim, 1, 8));
        index.note_newer(1..9, late);
        let kept: Vec<_> = index
            .iter()
            .map(|(range, v)| (range, v.lsn.get()))
            .collect();
        assert_eq!(
            kept,
            [(0..1, 1), (1..2, 2), (2..4, 2), (4..6, 3), (6..9, 2)]
        );
    }

    #[test]
    fn a_version_gives_way_to_another_of_the_same_lsn() {
        let mut index = Index::of(&[place(2, RecordKind::Write, 0, 4)]);
        let again = Version::of(&place(2, RecordKind::Trim, 1, 2));
        index.note_newer(1..3, again);
        let content = |lba| index.piece(lba, lba + 1).1.unwrap().content;
        assert_eq!(content(0), Content::Payload { first: 0 });
        assert_eq!((content(1), content(2)), (Content::Hole, Content::Hole));
        index.note_newer(0..1, again);
        index.note_newer(1..4, Version::of(&place(1, RecordKind::Write, 1, 3)));
        let content = |lba| index.piece(lba, lba + 1).1.unwrap().content;
        assert_eq!((content(0), content(1)), (Content::Hole, Content::Hole));
    }

    #[test]
    fn a_trim_of_a_terabyte_is_one_entry() {
        let index = Index::of(&[place(1, RecordKind::Trim, 0, 1 << 28)]);
        assert_eq!(index.iter().count(), 1);
    }
}
