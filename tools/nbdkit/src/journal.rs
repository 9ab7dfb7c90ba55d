//! What the engine says of itself while it runs, as lines of nbdkit's log.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Hands every warning and error of the engine to a sink, one line each. Spans carry nothing here.
#[derive(Clone, Copy, Debug)]
pub struct Journal {
    sink: fn(&str),
}

impl Journal {
    /// Lines go to `sink`, from any thread.
    #[must_use]
    pub fn new(sink: fn(&str)) -> Journal {
        Journal { sink }
    }
}

/// The message of an event and its other fields behind it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // OK because writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name}: {value:?}"),
        };
    }
}

impl Subscriber for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            _ => "warning",
        };
        (self.sink)(&format!("{level}: {}{}", line.message, line.fields));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn warnings_and_errors_are_one_line_each_with_their_fields() {
        let journal = Journal::new(|line| LINES.lock().unwrap().push(line.to_owned()));
        tracing::subscriber::with_default(journal, || {
            tracing::info!("nobody needs to know");
            let error = "no space";
            tracing::warn!(%error, lsn = 7, "a checkpoint failed");
            tracing::error!("it is over");
        });
        assert_eq!(
            *LINES.lock().unwrap(),
            [
                "warning: a checkpoint failed, error: no space, lsn: 7",
                "error: it is over"
            ]
        );
    }
}
