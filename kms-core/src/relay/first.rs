//! What a connection begins with.

use crate::pdu::{Bind, Body, Frame, FrameError, KMS_INTERFACE, Pdu, PduError, frame};

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// They are no whole PDU yet.
    NeedMore {
        /// How many bytes there must be.
        total: usize,
    },
    /// A bind that offers the KMS interface.
    Kms,
    /// Anything else.
    Junk(Junk),
}

/// Why a connection is none of a KMS client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Junk {
    /// The bytes are no PDU.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A PDU that cannot be read.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// Not a bind.
    #[error("the first PDU is no bind")]
    NotBind,
    /// A bind for other interfaces.
    #[error("the bind does not offer the KMS interface")]
    OtherInterface,
}

/// Looks at the first PDU.
#[must_use]
pub fn first_pdu(received: &[u8]) -> First {
    let (header, body) = match frame(received) {
        Ok(Frame::NeedMore { total }) => return First::NeedMore { total },
        Ok(Frame::Whole { header, body }) => (header, body),
        Err(error) => return First::Junk(error.into()),
    };
    match Pdu::decode(&header, body) {
        Ok(Pdu {
            body: Body::Bind(bind),
            ..
        }) => {
            if offers_kms(&bind) {
                First::Kms
            } else {
                First::Junk(Junk::OtherInterface)
            }
        }
        Ok(_) => First::Junk(Junk::NotBind),
        Err(error) => First::Junk(error.into()),
    }
}

/// In whatever version: that is the upstream's to judge.
fn offers_kms(bind: &Bind) -> bool {
    let mut contexts = bind.contexts.iter();
    contexts.any(|context| context.interface.uuid == KMS_INTERFACE.uuid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::{Association, Offer};
    use crate::pdu::MAX_FRAGMENT;

    fn bind() -> Vec<u8> {
        let mut out = Vec::new();
        Association::new().bind(Offer::default(), &mut out);
        out
    }

    #[test]
    fn a_kms_bind_is_known_when_it_is_whole() {
        let bind = bind();
        let whole = bind.len();
        for len in 16..whole {
            assert_eq!(first_pdu(&bind[..len]), First::NeedMore { total: whole });
        }
        assert_eq!(first_pdu(&bind), First::Kms);
        assert_eq!(first_pdu(&[bind, b"more".to_vec()].concat()), First::Kms);
    }

    #[test]
    fn everything_else_is_junk() {
        let mut other = bind();
        for context in 0..3 {
            // The first byte of the interface's id.
            other[28 + 44 * context + 4] ^= 1;
        }
        assert_eq!(first_pdu(&other), First::Junk(Junk::OtherInterface));
        let mut request = bind();
        request[2] = 0;
        assert_eq!(first_pdu(&request), First::Junk(Junk::NotBind));
        let mut version = bind();
        version[0] = 4;
        let error = PduError::Version { major: 4, minor: 0 };
        assert_eq!(first_pdu(&version), First::Junk(error.into()));
        assert!(matches!(
            first_pdu(b"GET / HTTP/1.1\r\nHost: kms\r\n\r\n"),
            First::Junk(Junk::Frame(FrameError::ByteOrder { .. }))
        ));
    }

    proptest! {
        #[test]
        fn nobody_is_waited_for_beyond_a_fragment(received: Vec<u8>) {
            if let First::NeedMore { total } = first_pdu(&received) {
                prop_assert!(total > received.len() && total <= usize::from(MAX_FRAGMENT));
            }
        }
    }
}
