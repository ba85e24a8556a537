//! Who is trusted to vouch for the webhook's host.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};

/// The public certificate authorities, which are compiled in, and what a file adds.
#[derive(Clone)]
pub struct Roots(Arc<RootCertStore>);

/// Why a text adds no authority. It never quotes the text.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It is no PEM, or broken.
    #[error("is not PEM ({0}); give a file of certificates")]
    Pem(pem::Error),
    /// It holds something else, or nothing.
    #[error("holds no certificate; give a file with -----BEGIN CERTIFICATE-----")]
    Empty,
    /// A certificate cannot be understood.
    #[error("certificate {number} cannot be used ({error}); take it out or give another")]
    Certificate {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        error: rustls::Error,
    },
}

impl Roots {
    /// The public authorities and those of a PEM text; other things in it
    /// (keys, comments) are passed over.
    ///
    /// # Errors
    /// Nothing in it is a certificate, or one of them is broken.
    pub fn with(pem: &[u8]) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::clone(&Self::default().0);
        let mut number = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            number += 1;
            let certificate = certificate.map_err(RootsError::Pem)?;
            roots
                .add(certificate)
                .map_err(|error| RootsError::Certificate { number, error })?;
        }
        if number == 0 {
            return Err(RootsError::Empty);
        }
        Ok(Self(Arc::new(roots)))
    }

    pub(super) fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.0)
    }
}

impl Default for Roots {
    /// The public authorities alone.
    fn default() -> Self {
        let public = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
        Self(Arc::new(public.collect()))
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> String {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        made.unwrap().cert.pem()
    }

    #[test]
    fn certificates_are_added_to_the_public_ones() {
        let public = Roots::default().0.len();
        assert!(public > 50, "{public}");
        let two = format!("a comment\n{}{}", made(), made());
        assert_eq!(Roots::with(two.as_bytes()).unwrap().0.len(), public + 2);
    }

    #[test]
    fn what_adds_nothing_is_an_error() {
        let error = |text: &str| Roots::with(text.as_bytes()).unwrap_err().to_string();
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for nothing in ["", "certificate\n", &key] {
            assert!(
                error(nothing).starts_with("holds no certificate"),
                "{nothing}"
            );
        }
        let cut = made().replace("-----END CERTIFICATE-----", "");
        assert!(error(&cut).starts_with("is not PEM"), "{}", error(&cut));
        let broken = format!(
            "{}{}",
            made(),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        );
        assert!(
            error(&broken).starts_with("certificate 2 cannot be used"),
            "{}",
            error(&broken)
        );
    }
}
