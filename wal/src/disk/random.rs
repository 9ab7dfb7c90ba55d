//! Ids that nobody else draws.

use crate::error::Error;

/// 16 bytes from the operating system's random source, for ids.
#[cfg(target_os = "linux")]
pub(crate) fn random_16() -> Result<[u8; 16], Error> {
    use crate::error::IoOp;
    use rustix::io::Errno;

    #[cfg(feature = "turns")]
    if let Some(drawn) = crate::sync::turns::random_16() {
        return Ok(drawn);
    }
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => {
                let source = std::path::Path::new("/dev/urandom");
                return Err(Error::io(IoOp::Random, source, None, errno.into()));
            }
        }
    }
    Ok(bytes)
}

/// 16 bytes for ids: two outputs of a keyed hash whose 128-bit key the standard library draws from
/// the operating system's random source. No two calls share a key.
#[cfg(not(target_os = "linux"))]
pub(crate) fn random_16() -> Result<[u8; 16], Error> {
    use std::hash::{BuildHasher, RandomState};

    let key = RandomState::new();
    let mut bytes = [0; 16];
    for (half, out) in bytes.chunks_exact_mut(8).enumerate() {
        out.copy_from_slice(&key.hash_one(half).to_le_bytes());
    }
    Ok(bytes)
}
