//! The KMS protocol, without an async runtime.
//!
//! The vocabulary: what products are called ([`catalog`]), what a client says of
//! its own licence ([`license`]), what a host answers when it refuses
//! ([`hresult`]), and how to show text that a client wrote ([`text`]).
//!
//! The wire, each layer on the one before: bounds-checked bytes ([`cursor`]),
//! DCE/RPC packets ([`pdu`]), arguments and results ([`stub`]), KMS messages and
//! their envelopes ([`message`], sealed by a [`cipher`] suite, of which there is
//! the [`lab`]'s), and what a host does with them ([`responder`]).
//!
//! The other side: a [`client`] that binds and calls, which works with any host,
//! given an [`endpoint`].
//!
//! Around it: who may connect how often ([`limits`]), and a log that reads like
//! vlmcsd's ([`vlmcsd_log`]).
//!
//! But for what needs the feature `server`, nothing here reads a clock, a file or a socket, and nothing is set up at run
//! time: time and random bytes are passed in, the tables are constants.

pub mod catalog;
pub mod cipher;
pub mod client;
pub mod cursor;
#[cfg(feature = "server")]
pub mod doctor;
pub mod endpoint;
pub mod hresult;
pub mod lab;
pub mod license;
pub mod limits;
pub mod message;
pub mod pdu;
pub mod responder;
pub mod stub;
pub mod text;
pub mod vlmcsd_log;
