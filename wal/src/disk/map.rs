//! Read-only views of sealed segments (stub).
/// Placeholder.
#[derive(Debug)]
pub struct MappedFile {}
