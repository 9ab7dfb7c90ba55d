//! Cuts bytes into runs of zeros and runs of data, so that zeros need not be written.

use std::ops::Range;

/// A shorter run of zeros inside data is written as data: a record of its own would cost more.
const ZERO_RUN_BYTES_MIN: usize = 16 << 10;

/// One run of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Only zeros.
    Zeros(Range<usize>),
    /// Anything.
    Data(Range<usize>),
}

/// Runs that cover `bytes` in order. All ends but the last are multiples of `block`.
pub(crate) fn runs(bytes: &[u8], block: usize) -> Vec<Run> {
    let mut cut: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let zeros = extent(bytes, at, block, true);
        let long = zeros.len() >= ZERO_RUN_BYTES_MIN || zeros.len() == bytes.len();
        if long {
            at = zeros.end;
            cut.push(Run::Zeros(zeros));
            continue;
        }
        let data = extent(bytes, zeros.end, block, false);
        at = data.end;
        match cut.last_mut() {
            Some(Run::Data(last)) => last.end = data.end,
            _ => cut.push(Run::Data(zeros.start..data.end)),
        }
    }
    cut
}

/// The blocks from `start` on that are zero, or are not.
fn extent(bytes: &[u8], start: usize, block: usize, zero: bool) -> Range<usize> {
    let mut end = start;
    while end < bytes.len() {
        let next = (end + block).min(bytes.len());
        if is_zero(&bytes[end..next]) != zero {
            break;
        }
        end = next;
    }
    start..end
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<32>();
    chunks.iter().all(|chunk| *chunk == [0; 32]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(pattern: &[(bool, usize)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (zero, blocks) in pattern {
            bytes.extend(std::iter::repeat_n(u8::from(!zero), blocks * 4096));
        }
        bytes
    }

    #[test]
    fn long_zeros_are_a_run_and_short_ones_are_data() {
        let bytes = bytes_of(&[(false, 1), (true, 4), (false, 1), (true, 3), (false, 2)]);
        let expected = vec![
            Run::Data(0..4096),
            Run::Zeros(4096..5 * 4096),
            Run::Data(5 * 4096..11 * 4096),
        ];
        assert_eq!(runs(&bytes, 4096), expected);
    }

    #[test]
    fn a_short_buffer_of_zeros_is_zeros() {
        assert_eq!(runs(&[0; 100], 4096), vec![Run::Zeros(0..100)]);
    }

    proptest! {
        #[test]
        fn runs_cover_every_byte_once_in_order_and_zeros_are_zero(
            pattern in prop::collection::vec((any::<bool>(), 1usize..8), 1..12),
            cut in 0usize..4096,
        ) {
            let mut bytes = bytes_of(&pattern);
            bytes.truncate(bytes.len() - cut);
            let mut at = 0;
            for run in runs(&bytes, 4096) {
                let range = match &run { Run::Zeros(range) | Run::Data(range) => range.clone() };
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > range.start);
                if matches!(run, Run::Zeros(_)) {
                    prop_assert!(is_zero(&bytes[range.clone()]));
                }
                at = range.end;
            }
            prop_assert_eq!(at, bytes.len());
        }
    }
}
