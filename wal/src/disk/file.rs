//! The portable reference backend (stub until its owner fills it in).
/// Placeholder.
#[derive(Debug)]
pub struct FileDisk {}
impl FileDisk {
    /// The portable backend.
    #[must_use]
    pub fn new() -> std::sync::Arc<FileDisk> {
        todo!()
    }
}
impl super::Disk for FileDisk {
    fn submit(&self, _: super::Operation) -> super::Token {
        todo!()
    }
    fn take(&self, _: super::Token) -> Option<super::Completion> {
        todo!()
    }
    fn wait(&self, _: super::Token) -> super::Completion {
        todo!()
    }
    fn backend(&self) -> &'static str {
        "portable"
    }
}
