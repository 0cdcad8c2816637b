//! Numbers as bytes, for messages between ranks.

use crate::error::Error;

/// A number of a fixed length in bytes. Ranks are machines of one kind, so the order of the bytes is the machine's.
pub(crate) trait Bytes: Copy {
    fn put(self, out: &mut Vec<u8>);

    /// The number at the front of `bytes`, which it is taken from; none if there are too few.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! bytes {
    ($($type:ty),+) => {$(
        impl Bytes for $type {
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (number, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(<$type>::from_ne_bytes(*number))
            }
        }
    )+};
}

bytes!(u8, u64, i128, f32, f64);

impl Bytes for usize {
    fn put(self, out: &mut Vec<u8>) {
        (self as u64).put(out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        u64::take(bytes)?.try_into().ok()
    }
}

impl Bytes for bool {
    fn put(self, out: &mut Vec<u8>) {
        u8::from(self).put(out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(u8::take(bytes)? != 0)
    }
}

/// A message that is being written.
#[derive(Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn put(&mut self, number: impl Bytes) {
        number.put(&mut self.0);
    }

    pub(crate) fn put_all<T: Bytes>(&mut self, numbers: impl IntoIterator<Item = T>) {
        for number in numbers {
            number.put(&mut self.0);
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A message that is being read. Bytes that are not there are an error.
#[derive(Clone, Debug)]
pub(crate) struct Received<'a>(&'a [u8]);

impl<'a> Received<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take<T: Bytes>(&mut self) -> Result<T, Error> {
        T::take(&mut self.0).ok_or_else(Error::malformed)
    }

    pub(crate) fn take_into<T: Bytes>(&mut self, out: &mut [T]) -> Result<(), Error> {
        for out in out {
            *out = self.take()?;
        }
        Ok(())
    }

    pub(crate) fn take_all<T: Bytes>(&mut self, count: usize) -> Result<Vec<T>, Error> {
        // Nothing is longer than its bytes: a message of another kind asks for no memory.
        let mut all = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            all.push(self.take()?);
        }
        Ok(all)
    }
}
