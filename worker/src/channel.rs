//! A unix socket that carries messages and, from broker to worker, descriptors of pipes.
//!
//! A sender writes whole messages. A receiver can be dropped in the middle of
//! [`next`](Receiver::next) without losing a byte.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use lifeboat_base::{Class, Context, Error, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

const HEADER_BYTES: usize = 4;
const READ_BYTES: usize = 64 << 10;
/// No read brings more descriptors.
const MAX_DESCRIPTORS: usize = 8;

/// The two ends of one socket. Only a receiver `with_descriptors` takes descriptors; any other
/// leaves them to the kernel, which closes them.
pub(crate) fn ends(socket: UnixStream, max_bytes: usize, with_descriptors: bool) -> (Sender, Receiver) {
    let socket = Arc::new(socket);
    let receiver = Receiver {
        socket: Arc::clone(&socket),
        max_bytes,
        buffer: Vec::new(),
        descriptors: with_descriptors.then(VecDeque::new),
    };
    (Sender { socket }, receiver)
}

/// Sends messages.
pub(crate) struct Sender {
    socket: Arc<UnixStream>,
}

impl Sender {
    /// Sends one message, and a descriptor with it.
    pub(crate) async fn send(&mut self, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
        self.write(&encode(message)?, descriptor).await
    }

    /// Sends one message that is [encoded](encode).
    pub(crate) async fn write(&mut self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
        let failed = || "cannot speak to the other process";
        let mut left = bytes;
        // The descriptor goes with the first byte.
        let mut descriptor = descriptor;
        while !left.is_empty() {
            let sent = self.socket.async_io(Interest::WRITABLE, || self.send_some(left, descriptor)).await;
            left = &left[sent.context(Class::Failed, failed)?..];
            descriptor = None;
        }
        Ok(())
    }

    fn send_some(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors
            && !control.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(io::Error::other("no room for a descriptor"));
        }
        Ok(sendmsg(self.socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
    }
}

/// A message as it goes through the socket. It may hold a password.
pub(crate) fn encode(message: &impl Serialize) -> Result<Zeroizing<Vec<u8>>> {
    let failed = || "cannot write a message to the other process";
    let mut bytes = Zeroizing::new(vec![0; HEADER_BYTES]);
    serde_json::to_writer(&mut *bytes, message).context(Class::Failed, failed)?;
    let length = u32::try_from(bytes.len() - HEADER_BYTES).context(Class::Failed, failed)?;
    bytes[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Receives messages.
pub(crate) struct Receiver {
    socket: Arc<UnixStream>,
    max_bytes: usize,
    buffer: Vec<u8>,
    /// Those that no message has claimed yet; `None` if none are taken.
    descriptors: Option<VecDeque<OwnedFd>>,
}

impl Receiver {
    /// The next message; `None` if the other process closed the socket between two messages,
    /// whether or not it had read ours.
    ///
    /// # Errors
    /// The socket fails or ends within a message, or a message is too long or not of this kind.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let read = self
                .socket
                .async_io(Interest::READABLE, || receive(&self.socket, &mut self.buffer, &mut self.descriptors));
            let read = match read.await {
                // Linux tells so that what was sent there was not read to its end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                read => read.context(Class::Failed, || "cannot hear the other process")?,
            };
            match read {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(Error::failed("the other process ended within a message")),
                _ => {}
            }
        }
    }

    /// Ends the socket for both sides, whoever else still holds it.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both);
    }

    /// The descriptor of the message that says that one came with it.
    pub(crate) fn descriptor(&mut self) -> Result<OwnedFd> {
        let taken = self.descriptors.as_mut().and_then(VecDeque::pop_front);
        taken.ok_or_else(|| Error::failed("the other process sent no descriptor"))
    }

    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > self.max_bytes {
            return Err(Error::failed(format!(
                "the other process sent a message of {length} bytes, and {} are the most",
                self.max_bytes
            )));
        }
        let Some(json) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(json).context(Class::Failed, || "the other process is not understood")?;
        // It may have held a password.
        zeroize::Zeroize::zeroize(&mut self.buffer[..HEADER_BYTES + length]);
        self.buffer.drain(..HEADER_BYTES + length);
        Ok(Some(message))
    }
}

/// Appends what is there to `buffer`, and returns how many bytes that were.
fn receive(
    socket: &UnixStream,
    buffer: &mut Vec<u8>,
    descriptors: &mut Option<VecDeque<OwnedFd>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control =
        if descriptors.is_some() { RecvAncillaryBuffer::new(&mut space) } else { RecvAncillaryBuffer::default() };
    let end = buffer.len();
    buffer.resize(end + READ_BYTES, 0);
    let received =
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut buffer[end..])], &mut control, RecvFlags::CMSG_CLOEXEC);
    buffer.truncate(end + received.as_ref().map_or(0, |received| received.bytes));
    let received = received?;
    if let Some(queue) = descriptors {
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("too many descriptors at once"));
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                queue.extend(rights);
            }
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pair(max_bytes: usize) -> (Sender, Receiver, Receiver) {
        let (one, two) = UnixStream::pair().unwrap();
        let (sender, back) = ends(one, max_bytes, false);
        (sender, ends(two, max_bytes, true).1, back)
    }

    #[tokio::test]
    async fn messages_and_descriptors_arrive_in_order() {
        let (mut sender, mut receiver, _back) = pair(1 << 20);
        for number in 0..20_u32 {
            let (read, write) = rustix::pipe::pipe().unwrap();
            std::fs::File::from(write).write_all(number.to_string().as_bytes()).unwrap();
            sender.send(&(number, "x".repeat(number as usize * 100)), Some(read.as_fd())).await.unwrap();
            sender.send(&(number, String::new()), None).await.unwrap();
        }
        for number in 0..20_u32 {
            let (there, text): (u32, String) = receiver.next().await.unwrap().unwrap();
            assert_eq!((there, text.len()), (number, number as usize * 100));
            let mut said = String::new();
            std::fs::File::from(receiver.descriptor().unwrap()).read_to_string(&mut said).unwrap();
            assert_eq!(said, number.to_string());
            let _: (u32, String) = receiver.next().await.unwrap().unwrap();
        }
        assert!(receiver.descriptor().is_err());
        drop((sender, _back));
        assert!(receiver.next::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_at_the_limit_passes_and_a_longer_one_does_not() {
        let (mut sender, mut receiver, _back) = pair(10);
        sender.send(&"12345678", None).await.unwrap();
        assert_eq!(receiver.next::<String>().await.unwrap().as_deref(), Some("12345678"));
        sender.send(&"123456789", None).await.unwrap();
        assert!(receiver.next::<String>().await.unwrap_err().message().contains("11 bytes"));
    }

    #[tokio::test]
    async fn a_side_that_ends_without_listening_is_heard_to_its_end() {
        for last in [Some("last words"), None] {
            let (one, two) = UnixStream::pair().unwrap();
            let ((mut ours, mut receiver), (mut theirs, unheard)) = (ends(one, 100, false), ends(two, 100, false));
            ours.send(&"nobody reads this", None).await.unwrap();
            if let Some(last) = last {
                theirs.send(&last, None).await.unwrap();
            }
            drop((theirs, unheard));
            if let Some(last) = last {
                assert_eq!(receiver.next::<String>().await.unwrap().as_deref(), Some(last));
            }
            assert!(receiver.next::<String>().await.unwrap().is_none(), "{last:?}");
        }
        let (one, two) = UnixStream::pair().unwrap();
        let ((mut ours, mut receiver), (mut theirs, unheard)) = (ends(one, 100, false), ends(two, 100, false));
        ours.send(&"nobody reads this", None).await.unwrap();
        theirs.write(&encode(&"half a message").unwrap()[..9], None).await.unwrap();
        drop((theirs, unheard));
        let cut = receiver.next::<String>().await.unwrap_err();
        assert!(cut.message().contains("ended within a message"), "{cut:?}");
    }

    #[tokio::test]
    async fn a_side_that_takes_no_descriptors_keeps_none() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut sender, _back) = ends(one, 100, false);
        let (_, mut receiver) = ends(two, 100, false);
        let (read, mut write) = {
            let (read, write) = rustix::pipe::pipe().unwrap();
            (read, std::fs::File::from(write))
        };
        sender.send(&1, Some(read.as_fd())).await.unwrap();
        assert_eq!(receiver.next::<u32>().await.unwrap(), Some(1));
        drop(read);
        // The only read end was ours: nobody else holds one.
        assert!(write.write_all(b"x").is_err());
    }
}
