//! The lab cipher suite: standard primitives under a key that is no secret.
//!
//! It lets this project's own client, responder and load generator talk to each
//! other over the documented layout, and it interoperates with nothing else. No
//! product's keys or ciphers are here, so nothing can be activated with it; what
//! protects a lab's messages is that a lab has nothing to protect.

use aes::Aes128;
use cbc::cipher::array::Array;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit};
use cmac::{Cmac, Mac};
use hmac::Hmac;
use sha2::{Digest, Sha256};

use crate::catalog::Protocol;
use crate::cipher::{BLOCK, CipherSuite};

/// Written here for everybody to read.
const LAB_KEY: [u8; 16] = *b"kms-core lab key";

/// AES-128-CMAC for V4; AES-128-CBC, SHA-256 and HMAC-SHA-256 (cut to the length
/// of their field) for V5 and V6.
#[derive(Clone, Copy, Debug, Default)]
pub struct LabSuite;

impl LabSuite {
    /// HMAC-SHA-256, with the field's name first so that no field's value is
    /// another's.
    fn mac(field: &[u8], parts: &[&[u8]]) -> [u8; 16] {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&LAB_KEY)
            .expect("HMAC takes keys of any length");
        mac.update(field);
        for part in parts {
            mac.update(part);
        }
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let (cut, _) = full.split_first_chunk().expect("32 bytes begin with 16");
        *cut
    }
}

impl CipherSuite for LabSuite {
    fn tag(&self, message: &[u8]) -> [u8; BLOCK] {
        let mut mac = <Cmac<Aes128> as KeyInit>::new(&LAB_KEY.into());
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    fn encrypt(&self, _: Protocol, iv: &[u8; BLOCK], region: &mut [u8]) {
        let mut cbc = cbc::Encryptor::<Aes128>::new(&LAB_KEY.into(), iv.into());
        let (blocks, rest) = region.as_chunks_mut::<BLOCK>();
        debug_assert!(rest.is_empty(), "whole blocks only");
        cbc.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn decrypt(&self, _: Protocol, iv: &[u8; BLOCK], region: &mut [u8]) {
        let mut cbc = cbc::Decryptor::<Aes128>::new(&LAB_KEY.into(), iv.into());
        let (blocks, rest) = region.as_chunks_mut::<BLOCK>();
        debug_assert!(rest.is_empty(), "whole blocks only");
        // All at once: decryption of one block waits for no other.
        cbc.decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn request_check(&self, request: &[u8]) -> [u8; 16] {
        Self::mac(b"request", &[request])
    }

    fn response_check(&self, iv: &[u8; BLOCK], base: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(iv);
        digest.update(base);
        digest.finalize().into()
    }

    fn hardware_check(&self, base: &[u8], hardware_id: [u8; 8]) -> [u8; 16] {
        Self::mac(b"hardware", &[&hardware_id, base])
    }

    fn integrity_tag(&self, region: &[u8]) -> [u8; BLOCK] {
        Self::mac(b"integrity", &[region])
    }
}
