//! The envelopes of the three protocol versions.
//!
//! | message | layout |
//! |---|---|
//! | V4 request (252 bytes) | base request 236, tag 16 |
//! | V5, V6 request (260) | version 4, IV 16, protected: base request 236, padding 4 |
//! | V4 response | base response, tag 16 |
//! | V5 response | version 4, IV 16, protected: base response, A 16, B 32, padding |
//! | V6 response | the same with hardware id 8, C 16, tag 16 before the padding |
//!
//! The padding fills the last block, 1 to 16 bytes of its own length (PKCS#7).
//! What the tags and A, B and C hold is the suite's affair.

use subtle::ConstantTimeEq;

use crate::catalog::Protocol;
use crate::cipher::{BLOCK, CipherSuite};
use crate::cursor::Reader;

use super::{BaseRequest, BaseResponse, MessageError, SealError, Version};

/// Length of a V4 request in bytes.
pub const V4_REQUEST_LEN: usize = BaseRequest::LEN + BLOCK;

/// Length of a V5 or V6 request in bytes.
pub const PROTECTED_REQUEST_LEN: usize = CLEAR_LEN + REQUEST_REGION_LEN;

/// Version and IV.
const CLEAR_LEN: usize = 4 + BLOCK;
const REQUEST_REGION_LEN: usize = padded(BaseRequest::LEN);

/// A response taken out of its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenResponse {
    /// What it says.
    pub response: BaseResponse,
    /// V6: the host's hardware id.
    pub hardware_id: Option<[u8; 8]>,
}

/// The length that every request of this protocol has, in bytes.
#[must_use]
pub fn request_len(protocol: Protocol) -> usize {
    match protocol {
        Protocol::V4 => V4_REQUEST_LEN,
        Protocol::V5 | Protocol::V6 => PROTECTED_REQUEST_LEN,
    }
}

/// Which protocol a message is of, from the version in clear at its start.
///
/// # Errors
/// [`MessageError::Cursor`] and [`MessageError::Version`].
pub fn protocol(message: &[u8]) -> Result<Protocol, MessageError> {
    let version = Version::detect(message)?;
    version.protocol().ok_or(MessageError::Version(version))
}

/// Seals a request in the envelope of its version, and appends it to `out`. `iv`
/// should be random; V4 has no use for it.
///
/// # Errors
/// [`MessageError::Version`]
pub fn seal_request(
    suite: &dyn CipherSuite,
    request: &BaseRequest,
    iv: &[u8; BLOCK],
    out: &mut Vec<u8>,
) -> Result<(), MessageError> {
    let protocol = known(request.version)?;
    out.reserve(request_len(protocol));
    let start = out.len();
    match protocol {
        Protocol::V4 => {
            request.encode(out);
            seal_clear(suite, start, out);
        }
        Protocol::V5 | Protocol::V6 => {
            let at = begin_region(protocol, iv, out);
            request.encode(out);
            seal_region(suite, protocol, iv, at, out);
        }
    }
    Ok(())
}

/// Takes a request out of its envelope, which must have exactly its version's
/// length, or with `tolerate_longer` at least that (what follows is left alone).
///
/// # Errors
/// [`MessageError`], without [`MessageError::Epid`].
pub fn open_request(
    suite: &dyn CipherSuite,
    message: &[u8],
    tolerate_longer: bool,
) -> Result<BaseRequest, MessageError> {
    let protocol = protocol(message)?;
    let (actual, expected) = (message.len(), request_len(protocol));
    let exact = message
        .get(..expected)
        .filter(|_| tolerate_longer || actual == expected)
        .ok_or(MessageError::Length {
            version: protocol.into(),
            expected,
            actual,
        })?;
    match protocol {
        Protocol::V4 => Ok(BaseRequest::decode(open_clear(suite, exact)?)?),
        Protocol::V5 | Protocol::V6 => {
            let mut reader = Reader::new(exact);
            reader.take(4)?; // the version in clear
            let iv = reader.array()?;
            let mut region: [u8; REQUEST_REGION_LEN] = *reader.array()?;
            suite.decrypt(protocol, iv, &mut region);
            let mut reader = Reader::new(&region);
            let request = BaseRequest::decode(reader.take(BaseRequest::LEN)?)?;
            check_padding(reader)?;
            check_version(protocol, request.version)?;
            Ok(request)
        }
    }
}

/// Seals the response to a request, given as its whole envelope, and appends it
/// to `out`. `iv` should be random; V4 has no use for it and for `hardware_id`,
/// V5 none for the latter.
///
/// # Errors
/// [`MessageError::Version`]
pub fn seal_response(
    suite: &dyn CipherSuite,
    request: &[u8],
    response: &BaseResponse,
    hardware_id: [u8; 8],
    iv: &[u8; BLOCK],
    out: &mut Vec<u8>,
) -> Result<(), MessageError> {
    let protocol = known(response.version)?;
    out.reserve(CLEAR_LEN + padded(response.wire_len() + 88));
    if protocol == Protocol::V4 {
        let start = out.len();
        response.encode(out);
        seal_clear(suite, start, out);
        return Ok(());
    }
    let at = begin_region(protocol, iv, out);
    response.encode(out);
    let base = after(out, at);
    let digest = suite.response_check(iv, base);
    let hardware_check = suite.hardware_check(base, hardware_id);
    out.extend_from_slice(&suite.request_check(request));
    out.extend_from_slice(&digest);
    if protocol == Protocol::V6 {
        out.extend_from_slice(&hardware_id);
        out.extend_from_slice(&hardware_check);
        let tag = suite.integrity_tag(after(out, at));
        out.extend_from_slice(&tag);
    }
    seal_region(suite, protocol, iv, at, out);
    Ok(())
}

/// Takes a response out of its envelope and checks that it answers this request,
/// given as its whole envelope.
///
/// # Errors
/// [`MessageError`], without [`MessageError::Length`].
pub fn open_response(
    suite: &dyn CipherSuite,
    request: &[u8],
    message: &[u8],
) -> Result<OpenResponse, MessageError> {
    let protocol = protocol(message)?;
    if protocol == Protocol::V4 {
        let response = BaseResponse::decode(open_clear(suite, message)?)?;
        return Ok(OpenResponse {
            response,
            hardware_id: None,
        });
    }
    let (iv, region) = open_region(suite, protocol, message)?;
    let mut reader = Reader::new(&region);
    let response = BaseResponse::read(&mut reader)?;
    check_version(protocol, response.version)?;
    let base = before(&region, reader.at());
    expect(
        &mut reader,
        &suite.request_check(request),
        SealError::RequestCheck,
    )?;
    expect(
        &mut reader,
        &suite.response_check(iv, base),
        SealError::ResponseCheck,
    )?;
    let mut hardware_id = None;
    if protocol == Protocol::V6 {
        let id = *reader.array()?;
        let expected = suite.hardware_check(base, id);
        expect(&mut reader, &expected, SealError::HardwareCheck)?;
        let expected = suite.integrity_tag(before(&region, reader.at()));
        expect(&mut reader, &expected, SealError::Integrity)?;
        hardware_id = Some(id);
    }
    check_padding(reader)?;
    Ok(OpenResponse {
        response,
        hardware_id,
    })
}

/// Splits a V4 message, request or response, into its base structure, which is
/// in clear, and its tag. For those who look on and have no suite.
#[must_use]
pub fn split_clear(message: &[u8]) -> Option<(&[u8], &[u8; BLOCK])> {
    message.split_last_chunk()
}

fn known(version: Version) -> Result<Protocol, MessageError> {
    version.protocol().ok_or(MessageError::Version(version))
}

/// Ends a V4 message whose base structure begins at `start`.
fn seal_clear(suite: &dyn CipherSuite, start: usize, out: &mut Vec<u8>) {
    let tag = suite.tag(after(out, start));
    out.extend_from_slice(&tag);
}

fn open_clear<'a>(suite: &dyn CipherSuite, message: &'a [u8]) -> Result<&'a [u8], SealError> {
    let (base, tag) = split_clear(message).ok_or(SealError::Tag)?;
    check(tag, &suite.tag(base), SealError::Tag)?;
    Ok(base)
}

/// Appends what stands before a protected region, and says where that begins.
fn begin_region(protocol: Protocol, iv: &[u8; BLOCK], out: &mut Vec<u8>) -> usize {
    let version = Version::from(protocol);
    out.extend_from_slice(&version.minor.to_le_bytes());
    out.extend_from_slice(&version.major.to_le_bytes());
    out.extend_from_slice(iv);
    out.len()
}

/// Pads and encrypts, where it is, the region that begins at `at`.
fn seal_region(
    suite: &dyn CipherSuite,
    protocol: Protocol,
    iv: &[u8; BLOCK],
    at: usize,
    out: &mut Vec<u8>,
) {
    let len = out.len() - at;
    let padding = padded(len) - len;
    out.resize(out.len() + padding, padding_byte(padding));
    suite.encrypt(protocol, iv, out.get_mut(at..).unwrap_or_default());
}

/// The IV and the decrypted region.
fn open_region<'a>(
    suite: &dyn CipherSuite,
    protocol: Protocol,
    message: &'a [u8],
) -> Result<(&'a [u8; BLOCK], Vec<u8>), MessageError> {
    let mut reader = Reader::new(message);
    reader.take(4)?; // the version in clear
    let iv = reader.array()?;
    let mut region = reader.rest().to_vec();
    let length = region.len();
    if !length.is_multiple_of(BLOCK) {
        return Err(SealError::Blocks { length }.into());
    }
    suite.decrypt(protocol, iv, &mut region);
    Ok((iv, region))
}

/// The padding must fill the last block and nothing else may follow.
fn check_padding(reader: Reader<'_>) -> Result<(), SealError> {
    let padding = reader.rest();
    let len = padding.len();
    if !(1..=BLOCK).contains(&len) {
        return Err(SealError::Padding);
    }
    let expected = [padding_byte(len); BLOCK];
    check(padding, before(&expected, len), SealError::Padding)
}

fn check_version(protocol: Protocol, inner: Version) -> Result<(), SealError> {
    let outer = Version::from(protocol);
    if inner == outer {
        Ok(())
    } else {
        Err(SealError::InnerVersion { outer, inner })
    }
}

/// Takes a field, which must hold what is expected.
fn expect(reader: &mut Reader<'_>, expected: &[u8], error: SealError) -> Result<(), MessageError> {
    Ok(check(reader.take(expected.len())?, expected, error)?)
}

/// Compares in constant time.
fn check(sent: &[u8], expected: &[u8], error: SealError) -> Result<(), SealError> {
    if bool::from(sent.ct_eq(expected)) {
        Ok(())
    } else {
        Err(error)
    }
}

/// What was appended to a message from `start` on, which was its length then.
fn after(message: &[u8], start: usize) -> &[u8] {
    message.get(start..).unwrap_or_default()
}

/// The first `len` bytes of a region that a reader has already walked over.
fn before(region: &[u8], len: usize) -> &[u8] {
    region.get(..len).unwrap_or(region)
}

/// `len` and 1 to 16 bytes more, up to whole blocks.
const fn padded(len: usize) -> usize {
    (len / BLOCK + 1) * BLOCK
}

fn padding_byte(len: usize) -> u8 {
    // At most 16, as `padded` and `check_padding` have it.
    u8::try_from(len).unwrap_or(0)
}
