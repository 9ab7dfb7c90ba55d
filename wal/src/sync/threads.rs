//! Starting threads, for the edge files of the crates, and for nobody else (D22).
#![expect(
    clippy::disallowed_methods,
    reason = "every thread of the workspace starts here, on behalf of an edge file"
)]

use std::io;
use std::thread::Builder;

/// Owns a thread until it is joined or dropped.
#[derive(Debug)]
pub struct JoinHandle {
    thread: std::thread::JoinHandle<()>,
    #[cfg(feature = "turns")]
    turn: Option<super::turns::TaskId>,
}

impl JoinHandle {
    /// Waits for its end.
    ///
    /// # Errors
    /// What it panicked with.
    pub fn join(self) -> std::thread::Result<()> {
        #[cfg(feature = "turns")]
        super::turns::await_end(self.turn);
        self.thread.join()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        #[cfg(feature = "turns")]
        if let Some(turn) = self.turn {
            return super::turns::has_ended(turn);
        }
        self.thread.is_finished()
    }

    /// Whether the caller runs on it.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.thread.thread().id() == std::thread::current().id()
    }
}

/// Starts a thread.
///
/// # Errors
/// That of the operating system.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle> {
    let builder = Builder::new().name(name.into());
    #[cfg(feature = "turns")]
    {
        let (turn, work) = super::turns::enrol(name, work);
        let thread = builder.spawn(work)?;
        super::turns::enrolled(turn, thread.thread());
        Ok(JoinHandle { thread, turn })
    }
    #[cfg(not(feature = "turns"))]
    Ok(JoinHandle {
        thread: builder.spawn(work)?,
    })
}

/// Runs `work`, and gives what it panicked with if it did. The caller says why nothing that the
/// panic left half done is used again. In the simulator a panic goes on: it is what is looked for.
///
/// # Errors
/// The text of the panic.
pub fn contain<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    #[cfg(feature = "turns")]
    return Ok(work());
    #[cfg(not(feature = "turns"))]
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "a panic without a text".into())
    })
}

/// Runs `background` on a thread of its own while `foreground` runs here, and waits for both.
pub fn beside<R>(
    name: &str,
    background: impl FnOnce() + Send,
    foreground: impl FnOnce() -> R,
) -> R {
    std::thread::scope(|scope| {
        let builder = Builder::new().name(name.into());
        #[cfg(feature = "turns")]
        let (turn, background) = super::turns::enrol(name, background);
        #[cfg(feature = "turns")]
        let _end = super::turns::AwaitEnd(turn);
        match builder.spawn_scoped(scope, background) {
            #[cfg(feature = "turns")]
            Ok(joined_at_the_end) => super::turns::enrolled(turn, joined_at_the_end.thread()),
            #[cfg(not(feature = "turns"))]
            Ok(_joined_at_the_end) => {}
            // OK because whoever waits for it sees that nothing comes.
            Err(error) => tracing::error!(name, %error, "a thread could not be started"),
        }
        foreground()
    })
}
