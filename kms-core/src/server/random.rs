//! Random bytes for IVs, without asking the operating system for each.

use std::sync::atomic::{AtomicU64, Ordering};

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};

use super::respond::fill_random;

/// AES in counter mode under a key from the operating system: nobody who does not
/// know the key can tell the next block, and none comes twice. Many threads may
/// use one at once.
pub(super) struct Random {
    cipher: Aes128,
    next: AtomicU64,
}

impl Random {
    pub(super) fn new() -> Self {
        let mut key = [0; 16];
        fill_random(&mut key);
        Self {
            cipher: Aes128::new(&key.into()),
            next: AtomicU64::new(0),
        }
    }

    pub(super) fn fill(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(16) {
            // A server that hands out a billion a second needs centuries for all.
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let mut block = u128::from(number).to_le_bytes().into();
            self.cipher.encrypt_block(&mut block);
            for (to, from) in part.iter_mut().zip(block) {
                *to = from;
            }
        }
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Random").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_block_comes_twice_and_no_two_sources_agree() {
        let sources = [Random::new(), Random::new()];
        let mut seen = BTreeSet::new();
        for source in &sources {
            for _ in 0..1000 {
                let mut iv = [0; 16];
                source.fill(&mut iv);
                assert!(seen.insert(iv));
            }
        }
    }

    #[test]
    fn any_length_is_filled_to_its_end() {
        let source = Random::new();
        for len in 1..70 {
            // A last byte is zero by chance once in 256 times, not 20 times in a row.
            let filled = (0..20).any(|_| {
                let mut bytes = vec![0; len];
                source.fill(&mut bytes);
                bytes.last() != Some(&0)
            });
            assert!(filled, "{len}");
        }
    }
}
