//! What damage below the frontier took, and what lies behind it and stays readable (D14).

use std::sync::Arc;

use crate::disk;
use crate::entries::Entries;
use crate::frame::FrameKind;
use crate::index::{self, SealedIndex, entries_of};
use crate::known::KnownDamage;
use crate::report::{Loss, LossReport};
use crate::segment::SegmentFile;
use crate::walk::{Island, Place, Segment, Walk, drop_above};
use crate::{Corrupt, Damage, Error, Lsn, LsnRange};

impl Place<'_> {
    /// The index of a segment that is missing, if it is there, continues the chain and tells of
    /// every record of the segment.
    pub(crate) fn index_of_lost(
        &self,
        walk: &Walk,
        generation: u64,
    ) -> Result<Option<SealedIndex>, Error> {
        for name in disk::list(self.disk.as_ref(), self.dir)? {
            let Some(slot) = index::slot_of(&name) else {
                continue;
            };
            let lost = SegmentFile::at_rest(self.handles, self.dir, slot, generation);
            let Some((summary, index)) = index::open(&lost, self.meta.log) else {
                continue;
            };
            let follows = walk.segments.is_empty()
                || (summary.first_sequence, summary.first_previous)
                    == (walk.link.sequence, walk.link.previous);
            let tells_all = summary.truncated_after.is_none() && index.lsns().after <= walk.head;
            return Ok((follows && tells_all).then_some(index));
        }
        Ok(None)
    }

    /// The first record on disk lies above the tail that meta names: what is between them was
    /// reclaimed by nobody, so it is lost (D20).
    pub(crate) fn miss_the_front(&self, walk: &mut Walk) {
        let first = walk
            .segments
            .iter()
            .find_map(|segment| Some((&segment.file, segment.entries.first()?)));
        let Some((file, first)) = first else {
            return;
        };
        let lost = LsnRange::new(self.floor(), first.before());
        if lost.after < lost.through {
            walk.facts.named_missing = true;
            walk.front = Some(Loss {
                at: Corrupt {
                    path: file.path().into(),
                    offset: crate::segment::FIRST_FRAME_AT,
                    lsn: Some(lost.after.next()),
                    what: Damage::LsnGap {
                        expected: lost.after.next(),
                        found: first,
                    },
                },
                lsns: lost,
                blocks: None,
                hole: true,
            });
        }
    }
}

impl Walk {
    /// Whether the device failed where the chain ends, or on a record of it (L-T5).
    pub(crate) fn met_unreadable(&self) -> bool {
        let found = self.bad.iter().map(|bad| &bad.loss.at);
        let mut found = found.chain([&self.stop]);
        found.any(|at| at.what == Damage::Unreadable)
    }

    /// Turns the damage into a loss report and keeps what lies behind it readable (D14).
    pub(crate) fn keep_damaged(&mut self) -> LossReport {
        let chain_head = self.head;
        let mut places: Vec<Loss> = self.front.take().into_iter().collect();
        if let Some(kept) = self.disowned {
            // A truncation to here or below is lost.
            places.push(self.loss_at_stop(LsnRange::new(kept, kept)));
        }
        places.extend(self.bad.drain(..).map(|bad| bad.loss));
        let islands = std::mem::take(&mut self.islands);
        let mut head = chain_head;
        if let Some(index) = self.outlived.take() {
            self.lose_indexed(&index, &islands, &mut head, &mut places);
        }
        for island in islands {
            self.keep_island(island, &mut head, &mut places);
        }
        if self.frontier > head {
            places.push(self.loss_at_stop(LsnRange::new(head, self.frontier)));
            head = self.frontier;
        } else if places.is_empty() {
            // Nothing is lost but a frame without records, a clean-close mark for one.
            places.push(self.loss_at_stop(LsnRange::new(head, head)));
        }
        self.head = head;
        let applied = places
            .iter()
            .map(|loss| loss.lsns.after)
            .min()
            .unwrap_or(head);
        LossReport {
            durable: self.frontier,
            applied,
            places,
        }
    }

    fn loss_at_stop(&self, lsns: LsnRange) -> Loss {
        let lsn = (!lsns.is_empty()).then(|| lsns.after.next());
        let hole = matches!(
            self.stop.what,
            Damage::Field {
                field: "generation",
                ..
            }
        );
        Loss {
            at: Corrupt {
                lsn,
                ..self.stop.clone()
            },
            lsns,
            blocks: None,
            hole,
        }
    }

    /// Everything that the index of a missing segment tells of is lost, with its blocks; the
    /// segment was durable before its index was written (W9). What a later truncation dropped is
    /// not.
    fn lose_indexed(
        &mut self,
        index: &SealedIndex,
        islands: &[Island],
        head: &mut Lsn,
        places: &mut Vec<Loss>,
    ) {
        let lost = LsnRange::new(*head, index.lsns().through);
        let truncated = islands.iter().any(|island| {
            let header = &island.frame.header;
            header.kind == FrameKind::Truncation && header.after < lost.through
        });
        if truncated || lost.after >= lost.through {
            return;
        }
        let entries = index.entries(lost);
        places.push(Loss {
            blocks: entries.map(|entries| {
                let blocks = entries.iter().map(|entry| (entry.lba, entry.blocks));
                blocks.collect()
            }),
            ..self.loss_at_stop(lost)
        });
        *head = lost.through;
        self.frontier = self.frontier.max(lost.through);
    }

    fn keep_island(&mut self, island: Island, head: &mut Lsn, places: &mut Vec<Loss>) {
        let header = &island.frame.header;
        if header.kind == FrameKind::Truncation {
            drop_above(&mut self.segments, header.after);
            *head = (*head).min(header.after);
            return;
        }
        if header.after < *head {
            // Frames are numbered in order, so a truncation to here or below was lost between.
            drop_above(&mut self.segments, header.after);
            places.push(self.loss_at_stop(LsnRange::new(header.after, header.after)));
        }
        if header.after > *head {
            let lost = LsnRange::new(*head, header.after);
            let mut loss = self.loss_at_stop(lost);
            if let Some(gap) = &island.gap {
                loss.at = Corrupt {
                    lsn: loss.at.lsn,
                    ..gap.clone()
                };
                loss.hole |= island.absent;
            }
            places.push(loss);
        }
        *head = header.after;
        if header.kind != FrameKind::Records {
            return;
        }
        let entries: Vec<_> = entries_of(&island.frame).collect();
        self.records += entries.len() as u64;
        *head = header.last();
        let (through, end) = (*head, island.end());
        let same = self
            .segments
            .last_mut()
            .filter(|last| Arc::ptr_eq(&last.file, &island.file));
        match same {
            Some(last) => {
                last.entries.extend(entries);
                last.through = through;
                last.end = end;
            }
            None => self.segments.push(Segment {
                file: Arc::clone(&island.file),
                entries: Entries::from(entries),
                through,
                end,
                sealed: false,
                indexed: false,
            }),
        }
        self.slots.later.retain(|slot| *slot != island.file.slot);
        for record in island
            .frame
            .records
            .iter()
            .filter(|record| record.state.is_err())
        {
            places.push(Loss {
                at: Corrupt {
                    path: island.file.path().into(),
                    offset: record.payload_at,
                    lsn: Some(record.header.lsn),
                    what: record.state.err().unwrap_or(Damage::Missing),
                },
                lsns: LsnRange::new(record.header.lsn.before(), record.header.lsn),
                blocks: Some(vec![(record.header.lba, record.header.blocks)]),
                hole: false,
            });
        }
    }

    /// Known damage for the decision: what is lost, and whether it is a hole (D15).
    pub(crate) fn damage_of(report: &LossReport) -> KnownDamage {
        let mut known = KnownDamage::default();
        for loss in &report.places {
            known.insert(loss.lsns, loss.hole);
        }
        known
    }
}

#[cfg(test)]
mod tests;
