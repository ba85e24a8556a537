//! Reading and writing bytes in wire order, with every bound checked.
//!
//! One [`Reader`] serves every layer, so no parser holds a slice index that it
//! could get wrong. Numbers are little-endian and GUIDs are in the Microsoft
//! memory form (first three groups little-endian), as everything in KMS is; the
//! one exception, a header in another byte order, is decided in [`crate::pdu`].

use uuid::Uuid;

/// A read that the bytes cannot satisfy. Offsets count from the start of what
/// the [`Reader`] was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Fewer bytes are there than the field needs.
    #[error("{wanted} bytes wanted at offset {at}, {left} left")]
    Short {
        /// Where the field begins.
        at: usize,
        /// How long it is.
        wanted: usize,
        /// How many bytes there are from `at` on.
        left: usize,
    },
    /// Bytes follow where the message should have ended.
    #[error("{left} bytes too many from offset {at} on")]
    Trailing {
        /// Where the message ended.
        at: usize,
        /// How many bytes follow.
        left: usize,
    },
}

/// Takes fields off the front of a byte slice.
///
/// ```
/// use kms_core::cursor::{CursorError, Reader};
///
/// let mut reader = Reader::new(&[5, 0, 0x10, 0x27]);
/// assert_eq!(reader.u16()?, 5);
/// assert_eq!(reader.u16()?, 10_000);
/// assert_eq!(reader.u8(), Err(CursorError::Short { at: 4, wanted: 1, left: 0 }));
/// reader.finish()?;
/// # Ok::<(), CursorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// How many bytes were taken.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`CursorError::Short`]; nothing is taken then. So for all that follow.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], CursorError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.short(len))?;
        self.rest = rest;
        self.at += len;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`CursorError::Short`]
    pub fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], CursorError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.short(N))?;
        self.rest = rest;
        self.at += N;
        Ok(taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`CursorError::Short`]
    pub fn u8(&mut self) -> Result<u8, CursorError> {
        self.array().map(|[byte]| *byte)
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// [`CursorError::Short`]
    pub fn u16(&mut self) -> Result<u16, CursorError> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`CursorError::Short`]
    pub fn u32(&mut self) -> Result<u32, CursorError> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`CursorError::Short`]
    pub fn u64(&mut self) -> Result<u64, CursorError> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// A GUID in the Microsoft memory form.
    ///
    /// # Errors
    /// [`CursorError::Short`]
    pub fn guid(&mut self) -> Result<Uuid, CursorError> {
        self.array().map(|bytes| Uuid::from_bytes_le(*bytes))
    }

    /// Skips padding up to the next multiple of `alignment`, counted from the
    /// reader's start. The padding's bytes may be anything.
    ///
    /// # Errors
    /// [`CursorError::Short`]
    pub fn align(&mut self, alignment: usize) -> Result<(), CursorError> {
        self.take(padding(self.at, alignment)).map(drop)
    }

    /// Everything that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`CursorError::Trailing`]
    pub fn finish(self) -> Result<(), CursorError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(CursorError::Trailing { at: self.at, left }),
        }
    }

    fn short(&self, wanted: usize) -> CursorError {
        CursorError::Short {
            at: self.at,
            wanted,
            left: self.rest.len(),
        }
    }
}

/// Appends fields to a caller's buffer; alignment counts from where it began.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// How many bytes it has written.
    #[must_use]
    pub fn written(&self) -> usize {
        // Nothing but the writer holds the buffer, and it only ever grows.
        self.out.len() - self.start
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// UTF-16 units, little-endian.
    pub fn units(&mut self, units: &[u16]) {
        // By pieces that stand on the stack: unit by unit each would be checked for room.
        let mut room = [0; 128];
        for part in units.chunks(room.len() / 2) {
            let (pairs, _) = room.as_chunks_mut();
            for (pair, unit) in pairs.iter_mut().zip(part) {
                *pair = unit.to_le_bytes();
            }
            self.bytes(room.get(..2 * part.len()).unwrap_or_default());
        }
    }

    /// A GUID in the Microsoft memory form.
    pub fn guid(&mut self, value: Uuid) {
        self.bytes(&value.to_bytes_le());
    }

    /// Zeros up to the next multiple of `alignment`.
    pub fn align(&mut self, alignment: usize) {
        let zeros = padding(self.written(), alignment);
        self.out.resize(self.out.len() + zeros, 0);
    }
}

/// How many bytes there are from `len` to the next multiple of `alignment`.
fn padding(len: usize, alignment: usize) -> usize {
    len.next_multiple_of(alignment) - len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CursorError, Reader, Writer};

    #[test]
    fn a_guid_is_in_the_microsoft_memory_form() {
        let kms = "51c82175-844e-4750-b0d8-ec255555bc06".parse().unwrap();
        let mut out = Vec::new();
        Writer::new(&mut out).guid(kms);
        assert_eq!(
            out,
            b"\x75\x21\xc8\x51\x4e\x84\x50\x47\xb0\xd8\xec\x25\x55\x55\xbc\x06"
        );
        assert_eq!(Reader::new(&out).guid(), Ok(kms));
    }

    #[test]
    fn a_short_read_takes_nothing_and_says_what_was_missing() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u8(), Ok(1));
        let short = CursorError::Short {
            at: 1,
            wanted: 4,
            left: 2,
        };
        assert_eq!(reader.u32(), Err(short));
        assert_eq!(reader.take(4), Err(short));
        assert_eq!(reader.left(), 2);
        assert_eq!(reader.u16(), Ok(0x0302));
    }

    #[test]
    fn what_is_left_over_is_reported() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(
            reader.finish(),
            Err(CursorError::Trailing { at: 1, left: 2 })
        );
    }

    #[test]
    fn alignment_counts_from_the_start_of_reader_and_writer() {
        let mut out = vec![9];
        let mut writer = Writer::new(&mut out);
        writer.u8(1);
        writer.align(4);
        writer.align(4);
        assert_eq!(writer.written(), 4);
        assert_eq!(out, [9, 1, 0, 0, 0]);
        let mut reader = Reader::new(&out);
        reader.take(2).unwrap();
        let short = CursorError::Short {
            at: 2,
            wanted: 6,
            left: 3,
        };
        assert_eq!(reader.align(8), Err(short));
        assert_eq!(reader.align(4), Ok(()));
        assert_eq!(reader.rest(), [0]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(a: u8, b: u16, c: u32, d: u64, e: [u8; 16]) {
            let guid = uuid::Uuid::from_bytes(e);
            let mut out = Vec::new();
            let mut writer = Writer::new(&mut out);
            writer.u8(a);
            writer.u16(b);
            writer.u32(c);
            writer.u64(d);
            writer.guid(guid);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.u8(), Ok(a));
            prop_assert_eq!(reader.u16(), Ok(b));
            prop_assert_eq!(reader.u32(), Ok(c));
            prop_assert_eq!(reader.u64(), Ok(d));
            prop_assert_eq!(reader.guid(), Ok(guid));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }
}
