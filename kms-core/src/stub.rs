//! The arguments and results of the one KMS operation, in both encodings.
//!
//! Operation 0 takes a size and a byte array of that size, and gives back a size,
//! a pointer to a byte array, and a result code. NDR64 differs in its counts and
//! pointers, which have 8 bytes, and in the padding before them.

use crate::cursor::{CursorError, Reader, Writer};
use crate::hresult::HResult;

/// Any non-zero value is a pointer; this is what Windows writes.
const REFERENT: u32 = 0x0002_0000;

/// Bytes before a message in NDR64's answers, more than anywhere else.
const LONGEST_HEAD: usize = 24;

/// Which encoding a context was bound with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// 32-bit counts and pointers.
    Ndr32,
    /// 64-bit counts and pointers.
    Ndr64,
}

/// The results of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// It was answered with a KMS response.
    Data(&'a [u8]),
    /// It was refused.
    Refused(HResult),
}

/// Why a stub cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StubError {
    /// A field or the array reaches beyond the stub.
    #[error("stub too short: {0}")]
    Cursor(#[from] CursorError),
    /// The size and the array's own count must be equal.
    #[error("size {size} and array count {count} differ")]
    Count {
        /// The size argument.
        size: u32,
        /// The array's maximum count.
        count: u64,
    },
}

/// The KMS message in a request's stub. What follows it is tolerated.
///
/// # Errors
/// [`StubError`]
pub fn decode_request(encoding: Encoding, stub: &[u8]) -> Result<&[u8], StubError> {
    let mut reader = Reader::new(stub);
    let size = size(encoding, &mut reader)?;
    counted(encoding, size, &mut reader)
}

/// Appends a request's stub with this KMS message.
pub fn encode_request(encoding: Encoding, message: &[u8], out: &mut Vec<u8>) {
    out.reserve(message.len() + LONGEST_HEAD);
    let mut writer = Writer::new(out);
    write_size(encoding, len(message), &mut writer);
    write_wide(encoding, len(message), &mut writer);
    writer.bytes(message);
}

/// The results in a response's stub. What follows them is tolerated.
///
/// A null pointer makes it a refusal, whatever the size says. A result code
/// other than 0 after data is a refusal too: the data is not to be used then.
///
/// # Errors
/// [`StubError`]
pub fn decode_response(encoding: Encoding, stub: &[u8]) -> Result<Reply<'_>, StubError> {
    let mut reader = Reader::new(stub);
    let size = size(encoding, &mut reader)?;
    if wide(encoding, &mut reader)? == 0 {
        return Ok(Reply::Refused(HResult(reader.u32()?)));
    }
    let message = counted(encoding, size, &mut reader)?;
    reader.align(4)?;
    Ok(match reader.u32()? {
        0 => Reply::Data(message),
        code => Reply::Refused(HResult(code)),
    })
}

/// Appends a response's stub.
pub fn encode_response(encoding: Encoding, reply: Reply<'_>, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    match reply {
        Reply::Data(message) => {
            write_size(encoding, len(message), &mut writer);
            write_wide(encoding, REFERENT, &mut writer);
            write_wide(encoding, len(message), &mut writer);
            writer.bytes(message);
            writer.align(4);
            writer.u32(0);
        }
        Reply::Refused(code) => {
            write_size(encoding, 0, &mut writer);
            write_wide(encoding, 0, &mut writer);
            writer.u32(code.0);
        }
    }
}

/// Appends a response's stub around what `message` appends, so that the message
/// needs no buffer of its own. With a code, what it appended is dropped, and it is
/// a refusal.
pub fn encode_answer<T>(
    encoding: Encoding,
    out: &mut Vec<u8>,
    message: impl FnOnce(&mut Vec<u8>) -> (T, Option<HResult>),
) -> T {
    let start = out.len();
    // Counts that are not known yet.
    let mut writer = Writer::new(out);
    write_size(encoding, 0, &mut writer);
    write_wide(encoding, REFERENT, &mut writer);
    let count_at = start + writer.written();
    write_wide(encoding, 0, &mut writer);
    let message_at = start + writer.written();
    let (result, refused) = message(out);
    if let Some(code) = refused {
        out.truncate(start);
        encode_response(encoding, Reply::Refused(code), out);
        return result;
    }
    let count = out.get(message_at..).map_or(0, len).to_le_bytes();
    for at in [start, count_at] {
        if let Some(field) = out.get_mut(at..at + count.len()) {
            field.copy_from_slice(&count);
        }
    }
    let padding = (out.len() - start).next_multiple_of(4) - (out.len() - start);
    out.resize(out.len() + padding, 0);
    Writer::new(out).u32(0);
    result
}

fn size(encoding: Encoding, reader: &mut Reader<'_>) -> Result<u32, CursorError> {
    let size = reader.u32()?;
    if encoding == Encoding::Ndr64 {
        reader.align(8)?;
    }
    Ok(size)
}

/// A count or pointer.
fn wide(encoding: Encoding, reader: &mut Reader<'_>) -> Result<u64, CursorError> {
    match encoding {
        Encoding::Ndr32 => reader.u32().map(u64::from),
        Encoding::Ndr64 => reader.u64(),
    }
}

fn counted<'a>(
    encoding: Encoding,
    size: u32,
    reader: &mut Reader<'a>,
) -> Result<&'a [u8], StubError> {
    let count = wide(encoding, reader)?;
    if count != u64::from(size) {
        return Err(StubError::Count { size, count });
    }
    // A size that no memory holds is one that the stub does not hold either.
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    Ok(reader.take(size)?)
}

fn write_size(encoding: Encoding, size: u32, writer: &mut Writer<'_>) {
    writer.u32(size);
    if encoding == Encoding::Ndr64 {
        writer.u32(0);
    }
}

fn write_wide(encoding: Encoding, value: u32, writer: &mut Writer<'_>) {
    match encoding {
        Encoding::Ndr32 => writer.u32(value),
        Encoding::Ndr64 => writer.u64(value.into()),
    }
}

fn len(message: &[u8]) -> u32 {
    // Callers' messages have some hundred bytes; a longer one than 4 GiB would
    // not fit a fragment anyway, and the encoder of PDUs says so.
    u32::try_from(message.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Encoding; 2] = [Encoding::Ndr32, Encoding::Ndr64];

    fn request(encoding: Encoding, message: &[u8]) -> Vec<u8> {
        let mut stub = Vec::new();
        encode_request(encoding, message, &mut stub);
        stub
    }

    fn response(encoding: Encoding, reply: Reply<'_>) -> Vec<u8> {
        let mut stub = Vec::new();
        encode_response(encoding, reply, &mut stub);
        stub
    }

    #[test]
    fn requests_are_laid_out_as_the_table_says() {
        let ndr32 = b"\x03\0\0\0\x03\0\0\0abc";
        let ndr64 = b"\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0abc";
        assert_eq!(request(Encoding::Ndr32, b"abc"), ndr32);
        assert_eq!(request(Encoding::Ndr64, b"abc"), ndr64);
        assert_eq!(decode_request(Encoding::Ndr32, ndr32), Ok(&b"abc"[..]));
        assert_eq!(decode_request(Encoding::Ndr64, ndr64), Ok(&b"abc"[..]));
    }

    #[test]
    fn answers_are_laid_out_as_the_table_says() {
        let ndr32 = b"\x03\0\0\0\0\0\x02\0\x03\0\0\0abc\0\0\0\0\0";
        let ndr64 = b"\x03\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\x03\0\0\0\0\0\0\0abc\0\0\0\0\0";
        assert_eq!(response(Encoding::Ndr32, Reply::Data(b"abc")), ndr32);
        assert_eq!(response(Encoding::Ndr64, Reply::Data(b"abc")), ndr64);
    }

    #[test]
    fn refusals_are_laid_out_as_the_table_says() {
        let refused = Reply::Refused(HResult(0x8007_000D));
        let ndr32 = b"\0\0\0\0\0\0\0\0\x0d\0\x07\x80";
        let ndr64 = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0d\0\x07\x80";
        assert_eq!(response(Encoding::Ndr32, refused), ndr32);
        assert_eq!(response(Encoding::Ndr64, refused), ndr64);
    }

    #[test]
    fn an_answer_made_in_place_is_the_one_made_of_its_message() {
        for encoding in BOTH {
            for length in 0..9 {
                let message = vec![7; length];
                // Alignment counts from the stub's start, wherever that is.
                let mut out = vec![1; 3];
                encode_answer(encoding, &mut out, |out| {
                    out.extend_from_slice(&message);
                    ((), None)
                });
                assert_eq!(out[3..], response(encoding, Reply::Data(&message)));
                let mut out = vec![1; 3];
                encode_answer(encoding, &mut out, |out| {
                    out.extend_from_slice(&message);
                    ((), Some(HResult(0x8007_000D)))
                });
                let refused = Reply::Refused(HResult(0x8007_000D));
                assert_eq!(out[3..], response(encoding, refused));
            }
        }
    }

    #[test]
    fn pdus_have_the_lengths_of_the_table() {
        // Bodies with a 48-character ePID; 24 bytes of PDU before the stub.
        for (encoding, expected) in BOTH
            .into_iter()
            .zip([[284, 292, 200, 252, 300], [292, 300, 212, 264, 312]])
        {
            let lengths = [
                request(encoding, &[1; 252]),
                request(encoding, &[1; 260]),
                response(encoding, Reply::Data(&[1; 158])),
                response(encoding, Reply::Data(&[1; 212])),
                response(encoding, Reply::Data(&[1; 260])),
            ]
            .map(|stub| 24 + stub.len());
            assert_eq!(lengths, expected, "{encoding:?}");
        }
    }

    #[test]
    fn a_null_pointer_makes_a_refusal_whatever_the_size_says() {
        let stub = b"\x07\0\0\0\0\0\0\0\x42\xf0\x04\xc0";
        let refused = Reply::Refused(HResult(0xC004_F042));
        assert_eq!(decode_response(Encoding::Ndr32, stub), Ok(refused));
    }

    #[test]
    fn data_with_a_failing_result_code_is_a_refusal() {
        let mut stub = response(Encoding::Ndr64, Reply::Data(b"abcd"));
        *stub.last_mut().unwrap() = 0x80;
        let refused = Reply::Refused(HResult(0x8000_0000));
        assert_eq!(decode_response(Encoding::Ndr64, &stub), Ok(refused));
    }

    #[test]
    fn counts_must_agree_and_be_there() {
        let differ = b"\x03\0\0\0\x04\0\0\0abcd";
        assert_eq!(
            decode_request(Encoding::Ndr32, differ),
            Err(StubError::Count { size: 3, count: 4 })
        );
        let beyond = b"\xff\xff\xff\xff\xff\xff\xff\xffabcd";
        assert_eq!(
            decode_request(Encoding::Ndr32, beyond),
            Err(StubError::Cursor(CursorError::Short {
                at: 8,
                wanted: 0xFFFF_FFFF,
                left: 4,
            }))
        );
        let high_half = b"\x03\0\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0abc";
        let count = 0x1_0000_0003;
        assert_eq!(
            decode_request(Encoding::Ndr64, high_half),
            Err(StubError::Count { size: 3, count })
        );
    }

    proptest! {
        #[test]
        fn requests_survive_the_way(message: Vec<u8>, ndr64: bool, trailing: Vec<u8>) {
            let encoding = BOTH[usize::from(ndr64)];
            let mut stub = request(encoding, &message);
            stub.extend(trailing);
            prop_assert_eq!(decode_request(encoding, &stub), Ok(&message[..]));
        }

        #[test]
        fn answers_survive_the_way(message: Vec<u8>, code: u32, ndr64: bool, trailing: Vec<u8>) {
            let encoding = BOTH[usize::from(ndr64)];
            for reply in [Reply::Data(&message), Reply::Refused(HResult(code))] {
                let mut stub = response(encoding, reply);
                stub.extend(&trailing);
                prop_assert_eq!(decode_response(encoding, &stub), Ok(reply));
            }
        }

        #[test]
        fn any_prefix_of_a_stub_is_too_short(message: Vec<u8>, ndr64: bool, cut: proptest::sample::Index) {
            let encoding = BOTH[usize::from(ndr64)];
            let stub = request(encoding, &message);
            let stub = &stub[..cut.index(stub.len())];
            prop_assert!(matches!(decode_request(encoding, stub), Err(StubError::Cursor(_))));
        }
    }
}
