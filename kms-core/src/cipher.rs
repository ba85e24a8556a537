//! What a cipher suite must do for the envelopes.

use crate::catalog::Protocol;

/// Length of a cipher block, an IV and a tag in bytes.
pub const BLOCK: usize = 16;

/// The protection of KMS messages, behind one interface: the codec knows where
/// protected bytes lie and how many there are, a suite knows what they hold.
///
/// An envelope does not say which suite sealed it; both ends are configured alike.
/// This crate has one, [`crate::lab::LabSuite`], which no product speaks.
pub trait CipherSuite {
    /// V4, both directions: the tag over the message before it.
    fn tag(&self, message: &[u8]) -> [u8; BLOCK];

    /// V5 and V6: encrypts `region` in place, a multiple of [`BLOCK`] bytes.
    fn encrypt(&self, protocol: Protocol, iv: &[u8; BLOCK], region: &mut [u8]);

    /// V5 and V6: decrypts `region` in place, a multiple of [`BLOCK`] bytes.
    fn decrypt(&self, protocol: Protocol, iv: &[u8; BLOCK], region: &mut [u8]);

    /// V5 and V6 response, check field A: ties it to the request that it answers,
    /// given as the whole envelope.
    fn request_check(&self, request: &[u8]) -> [u8; 16];

    /// V5 and V6 response, check field B: over its IV and its base response.
    fn response_check(&self, iv: &[u8; BLOCK], base: &[u8]) -> [u8; 32];

    /// V6 response, check field C: ties the hardware id to the base response.
    fn hardware_check(&self, base: &[u8], hardware_id: [u8; 8]) -> [u8; 16];

    /// V6 response: the tag over everything in the region before it.
    fn integrity_tag(&self, region: &[u8]) -> [u8; BLOCK];
}
