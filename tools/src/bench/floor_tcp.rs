//! The raw floor of a transfer: one TCP connection on loopback, bytes written and bytes thrown
//! away.
#![expect(
    clippy::disallowed_types,
    reason = "the floor goes past the transport on purpose"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use super::incompressible;
use crate::edge;
use crate::error::Error;

/// Bytes of one call to the socket.
const PIECE_BYTES: usize = 256 << 10;

/// How long so many bytes take from one end to the other.
///
/// # Errors
/// No socket, or a connection that breaks.
pub(super) fn stream(bytes: u64) -> Result<Duration, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let piece = incompressible(PIECE_BYTES);
    let send = || -> Result<(), Error> {
        let mut socket = TcpStream::connect(address)?;
        let mut left = bytes;
        while left > 0 {
            let count = left.min(PIECE_BYTES as u64);
            socket.write_all(&piece[..super::to_usize(count)])?;
            left -= count;
        }
        Ok(())
    };
    let begun = edge::now();
    let (sent, received) = edge::beside(send, || -> Result<u64, Error> {
        let (mut socket, _) = listener.accept()?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut received = 0;
        loop {
            match socket.read(&mut piece)? {
                0 => return Ok(received),
                count => received += count as u64,
            }
        }
    });
    sent?;
    match received? == bytes {
        true => Ok(begun.elapsed()),
        false => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives() {
        assert!(stream(0).is_ok());
        assert!(stream(3 * PIECE_BYTES as u64 + 1).is_ok_and(|time| time > Duration::ZERO));
    }
}
