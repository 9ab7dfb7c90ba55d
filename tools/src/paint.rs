//! Colours for eyes. Whoever prints to something else than a terminal, or under `NO_COLOR`, gets
//! the text alone: standard output strips them (`main_of`). JSON has none.

use std::fmt::{self, Display, Formatter};

use anstyle::{AnsiColor, Style};

/// Headings of columns.
pub(crate) const TITLE: Style = Style::new().bold();
/// Damage, and whatever somebody has to act on.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is not as it should be for long.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// What is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// What counts for nothing any more.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// Nothing to look at.
pub(crate) const PLAIN: Style = Style::new();

/// Text in a style. Pad it before: the marks of the style take no column on a terminal.
pub(crate) struct Painted<T>(pub(crate) Style, pub(crate) T);

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Painted(style, text) = self;
        write!(f, "{style}{text}{style:#}")
    }
}
