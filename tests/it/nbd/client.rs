//! A small NBD client: it shows errnos, holds connections open and never flushes unasked.
#![expect(clippy::big_endian_bytes, reason = "the NBD protocol is big-endian")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FIXED_NEWSTYLE_NO_ZEROES: u32 = 1 | 2;
const EXPORT_NAME: u32 = 1;

/// Answer only when it is durable.
pub(super) const FUA: u16 = 1 << 0;
/// Keep the space of a zeroed range.
pub(super) const NO_HOLE: u16 = 1 << 1;

/// What went wrong with a request.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered with this errno.
    Errno(u32),
    /// The connection is gone.
    Gone(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Gone(error)
    }
}

#[derive(Clone, Copy)]
enum Command {
    Read = 0,
    Write = 1,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

/// One connection, one request at a time.
pub(super) struct Client {
    stream: UnixStream,
    size: u64,
    next_cookie: u64,
}

impl Client {
    #[track_caller]
    pub(super) fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).unwrap();
        let mut client = Client {
            stream,
            size: 0,
            next_cookie: 1,
        };
        client.size = client.negotiate().unwrap();
        client
    }

    fn negotiate(&mut self) -> io::Result<u64> {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting)?;
        assert_eq!(greeting[..8], *b"NBDMAGIC");
        let mut hello = FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(EXPORT_NAME.to_be_bytes());
        hello.extend(0_u32.to_be_bytes());
        self.stream.write_all(&hello)?;
        let mut answer = [0; 10];
        self.stream.read_exact(&mut answer)?;
        Ok(u64::from_be_bytes(answer[..8].try_into().unwrap()))
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn send(
        &mut self,
        command: Command,
        flags: u16,
        (offset, length): (u64, u32),
        payload: &[u8],
    ) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend(flags.to_be_bytes());
        request.extend((command as u16).to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(payload);
        self.stream.write_all(&request)?;
        Ok(cookie)
    }

    fn receive(&mut self, cookie: u64) -> Result<(), Failure> {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        assert_eq!(reply[..4], REPLY_MAGIC.to_be_bytes());
        assert_eq!(reply[8..], cookie.to_be_bytes());
        match u32::from_be_bytes(reply[4..8].try_into().unwrap()) {
            0 => Ok(()),
            errno => Err(Failure::Errno(errno)),
        }
    }

    fn call(
        &mut self,
        command: Command,
        flags: u16,
        range: (u64, u32),
        payload: &[u8],
    ) -> Result<(), Failure> {
        let cookie = self.send(command, flags, range, payload)?;
        self.receive(cookie)
    }

    pub(super) fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
        let range = (offset, u32::try_from(length).unwrap());
        self.call(Command::Read, 0, range, &[])?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn write(&mut self, flags: u16, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let range = (offset, u32::try_from(bytes.len()).unwrap());
        self.call(Command::Write, flags, range, bytes)
    }

    /// Sends a write with the second half of its payload missing, and hangs up.
    pub(super) fn hang_up_in_a_write(mut self, offset: u64, bytes: &[u8]) {
        let range = (offset, u32::try_from(bytes.len()).unwrap());
        let half = &bytes[..bytes.len() / 2];
        self.send(Command::Write, 0, range, half).unwrap();
    }

    pub(super) fn zero(&mut self, flags: u16, offset: u64, length: u32) -> Result<(), Failure> {
        self.call(Command::WriteZeroes, flags, (offset, length), &[])
    }

    pub(super) fn trim(&mut self, flags: u16, offset: u64, length: u32) -> Result<(), Failure> {
        self.call(Command::Trim, flags, (offset, length), &[])
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.call(Command::Flush, 0, (0, 0), &[])
    }
}
