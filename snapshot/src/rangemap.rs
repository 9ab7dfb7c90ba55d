//! A map from ranges of blocks to values: 1 TiB trims cost one entry.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges of blocks with a value each. A value must stay true when its range is cut, so it
/// names what it is about by absolute numbers.
#[derive(Clone, Debug)]
pub(crate) struct RangeMap<V> {
    spans: BTreeMap<u64, Span<V>>,
}

#[derive(Clone, Copy, Debug)]
struct Span<V> {
    end: u64,
    value: V,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        RangeMap {
            spans: BTreeMap::new(),
        }
    }
}

impl<V: Copy> RangeMap<V> {
    /// Gives `range` the value, over whatever was there.
    pub(crate) fn insert(&mut self, range: Range<u64>, value: V) {
        if range.start >= range.end {
            return;
        }
        self.remove(range.clone());
        let span = Span {
            end: range.end,
            value,
        };
        self.spans.insert(range.start, span);
    }

    /// Gives those parts of `range` the value that have none, or one that `gives_way`. A value that
    /// had just this range and gave way is the answer.
    pub(crate) fn insert_where(
        &mut self,
        range: Range<u64>,
        value: V,
        gives_way: impl Fn(V) -> bool,
    ) -> Option<V> {
        if let Some(span) = self.spans.get_mut(&range.start)
            && span.end == range.end
        {
            // A block that is written again and again is found once and changed in place.
            let gives_way = gives_way(span.value);
            return gives_way.then(|| std::mem::replace(&mut span.value, value));
        }
        let free = |old: Option<V>| old.is_none_or(&gives_way);
        if self.pieces(range.clone()).all(|(_, old)| free(old)) {
            self.insert(range, value);
            return None;
        }
        let parts: Vec<_> = self.pieces(range).filter(|(_, old)| free(*old)).collect();
        for (part, _) in parts {
            self.insert(part, value);
        }
        None
    }

    /// Keeps only what `keep` accepts.
    pub(crate) fn retain(&mut self, keep: impl Fn(V) -> bool) {
        self.spans.retain(|_, span| keep(span.value));
    }

    /// Takes `range` out; what sticks out on either side stays.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        while let Some((start, span)) = self.first_from(range.start) {
            if start >= range.end {
                return;
            }
            self.cut(start, span, &range);
        }
    }

    fn cut(&mut self, start: u64, span: Span<V>, range: &Range<u64>) {
        self.spans.remove(&start);
        if start < range.start {
            let end = range.start;
            self.spans.insert(start, Span { end, ..span });
        }
        if span.end > range.end {
            self.spans.insert(range.end, span);
        }
    }

    /// The first span that ends behind `at`.
    fn first_from(&self, at: u64) -> Option<(u64, Span<V>)> {
        let before = self.spans.range(..=at).next_back();
        before
            .filter(|(_, span)| span.end > at)
            .or_else(|| self.spans.range(at..).next())
            .map(|(start, span)| (*start, *span))
    }

    /// Where the first span begins that ends behind `at`.
    pub(crate) fn next_from(&self, at: u64) -> Option<u64> {
        self.first_from(at).map(|(start, _)| start)
    }

    /// The piece of `[at, end)` that begins at `at`: where it ends, and its value if it has one.
    pub(crate) fn piece(&self, at: u64, end: u64) -> (u64, Option<V>) {
        match self.first_from(at) {
            Some((start, span)) if start <= at => (span.end.min(end), Some(span.value)),
            Some((start, _)) => (start.min(end), None),
            None => (end, None),
        }
    }

    /// Every piece of `range`, gaps included, in order.
    pub(crate) fn pieces(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, Option<V>)> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let start = at;
            let (end, value) = self.piece(at, range.end);
            at = end;
            Some((start..end, value))
        })
    }

    /// Every range with its value, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Range<u64>, V)> + '_ {
        self.spans
            .iter()
            .map(|(start, span)| (*start..span.end, span.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_insert_in_the_middle_leaves_both_ends() {
        let mut map = RangeMap::default();
        map.insert(0..100, 'a');
        map.insert(40..60, 'b');
        let spans: Vec<_> = map.iter().collect();
        assert_eq!(spans, [(0..40, 'a'), (40..60, 'b'), (60..100, 'a')]);
        assert_eq!(map.piece(59, 200), (60, Some('b')));
        assert_eq!(map.piece(100, 200), (200, None));
    }

    #[test]
    fn an_empty_range_changes_nothing() {
        let mut map = RangeMap::default();
        map.insert(5..5, 'a');
        assert_eq!(map.iter().count(), 0);
    }

    proptest! {
        #[test]
        fn a_range_map_equals_an_array_of_blocks(
            steps in proptest::collection::vec((0u64..64, 0u64..32, 0u32..8), 1..60)
        ) {
            let mut map = RangeMap::default();
            let mut naive: [Option<u32>; 96] = [None; 96];
            for (start, length, value) in steps {
                let range = start..start + length;
                let blocks = usize::try_from(start).unwrap()..usize::try_from(range.end).unwrap();
                match value {
                    0 => {
                        map.remove(range);
                        naive[blocks].fill(None);
                    }
                    1 => {
                        map.retain(|value| value % 2 == 0);
                        for block in &mut naive {
                            *block = block.filter(|value| value % 2 == 0);
                        }
                    }
                    2 | 3 => {
                        map.insert_where(range, value, |old| old < value);
                        for block in &mut naive[blocks] {
                            *block = block.filter(|old| *old >= value).or(Some(value));
                        }
                    }
                    _ => {
                        map.insert(range, value);
                        naive[blocks].fill(Some(value));
                    }
                }
            }
            let mut seen = Vec::new();
            for (range, value) in map.pieces(0..96) {
                prop_assert!(range.start < range.end);
                seen.extend(range.map(|_| value));
            }
            prop_assert_eq!(seen, naive.to_vec());
        }
    }
}
