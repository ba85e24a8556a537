//! The client's side of a connection.
//!
//! An [`Association`] knows no socket: it writes what to send, and says what the
//! answers mean. With the feature `server` there are also a [`Connection`] that
//! does this over a stream, within time-outs, and a [`load`] generator of many of
//! them. All of it works with any KMS host up to the message itself, which is
//! the business of a cipher suite ([`crate::message::envelope`]).
//!
//! ```
//! use kms_core::client::{Association, Event, Offer, Step};
//! use kms_core::stub::Encoding;
//!
//! let mut association = Association::new();
//! let mut out = Vec::new();
//! association.bind(Offer::default(), &mut out);
//! assert_eq!(out.len(), 160); // as from Windows: three contexts
//!
//! // … send it, and hand over what is received until a PDU is whole:
//! assert_eq!(association.handle(&[5, 0, 12, 3]), Ok(Step::NeedMore { total: 16 }));
//! assert!(association.handle(b"HTTP/1.1 400 Bad Request").is_err());
//! ```

mod association;
#[cfg(feature = "server")]
mod connection;
#[cfg(feature = "server")]
pub mod load;
#[cfg(all(test, feature = "server"))]
pub(crate) mod testing;

pub use association::{Association, Bound, ClientError, Event, Offer, Step};
#[cfg(feature = "server")]
pub use connection::{CallError, Connection, Phase, connect};
